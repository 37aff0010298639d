package reconcile

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// maxCandidates is the maximum number of tokens of each reason whose details are kept until the second look.
const maxCandidates = 2 * MaxItems

// comparison is one reconciliation.
//
// Tokens are created, revoked and rotated meanwhile. A token is reported only after two looks at the service, with a look at
// what the engine knows in between:
//
//   - The engine stores the name of a token before the service is called, and forgets the name after the service has
//     confirmed the revocation. A token that exists in both looks, and whose name the engine does not know in between, is
//     therefore not the engine's to revoke.
//   - The engine stores that a token is Ending before the service is called. A token that is missing in both looks, and is
//     still Live in storage after the second look, was therefore not revoked by the engine. A service may list new tokens
//     late: a young token must be missing in two comparisons.
type comparison struct {
	*Reconciler
	c       *upstream.Ready
	now     time.Time
	markers []string
	names   map[string]bool           // that the engine knows
	ledger  map[string]upstream.Token // tokens of the connection by ID at the service
	named   map[string]upstream.Token // tokens of the connection by name, in lower case

	listed   map[string]string // ID of each listed token -> name in lower case, from the marker on
	unknown  []connector.Item  // candidates
	twins    []connector.Item  // tokens that have a known name and another ID
	foreign  []connector.Item  // candidates
	bare     map[string]bool   // IDs of tokens beyond maxCandidates: they are counted, and not reported
	complete bool              // no listing was cut short

	before  map[token.ID]time.Time // young tokens that were missing in earlier comparisons -> since when
	missing map[token.ID]time.Time // the same for the next comparison
}

// compare compares the tokens at the service of a connection with those that the engine knows.
func (r *Reconciler) compare(
	ctx context.Context, c *upstream.Ready, mountPoint string, known *connection,
) (*Result, []Item, error) {
	x := &comparison{
		Reconciler: r, c: c, now: r.Now().UTC(), markers: c.Markers(mountPoint), listed: make(map[string]string),
		bare: make(map[string]bool), before: known.missing, missing: make(map[token.ID]time.Time),
	}
	defer func() { known.missing = x.missing }()
	live := x.candidates() // before the first look: later tokens cannot be gone
	x.know()
	var err error
	if x.complete, err = c.Service.List(ctx, r.Upstreams.Places(c), x.visit); err != nil {
		return nil, nil, err
	}
	if err := r.Upstreams.CatchUp(ctx); err != nil {
		return nil, nil, err
	}
	x.know()
	x.duplicates()
	x.unknown = slices.DeleteFunc(x.unknown, x.isOurs)
	x.foreign = slices.DeleteFunc(x.foreign, x.isOurs)
	missing := x.notListed(live)
	// Without a marker, a token that was revoked during the first look has no name that would tell whose it was.
	again := len(x.unknown) > 0 || len(x.markers) == 0 && len(x.foreign) > 0
	if again || len(missing) > 0 {
		if err := pause(ctx, r.Pause); err != nil {
			return nil, nil, err
		}
	}
	var second look
	if again || len(missing) > 0 && !c.Service.Provider.CanFind() {
		if second, err = x.lookAgain(ctx); err != nil {
			return nil, nil, err
		}
	}
	if again {
		absent := func(one connector.Item) bool { return !second.ids[one.ID] }
		x.unknown = slices.DeleteFunc(x.unknown, absent)
		if len(x.markers) == 0 {
			x.foreign = slices.DeleteFunc(x.foreign, absent)
		}
	}
	gone, unconfirmed, err := x.confirm(ctx, missing, second)
	if err != nil {
		return nil, nil, err
	}
	result := &Result{
		Listed: len(x.listed), Unknown: len(x.unknown), Gone: len(gone), Foreign: len(x.foreign),
		Unconfirmed: unconfirmed, Complete: x.complete,
	}
	items := x.items(gone)
	result.Kept = len(items)
	return result, items, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// know notes what the engine knows now.
func (x *comparison) know() {
	x.names = x.Upstreams.Names()
	x.ledger, x.named = make(map[string]upstream.Token), make(map[string]upstream.Token)
	for _, t := range x.Upstreams.Tokens.OfConnection(x.c.ID) {
		if t.UpstreamID != "" {
			x.ledger[t.UpstreamID] = t
		}
		x.named[strings.ToLower(t.Name)] = t
	}
}

// visit judges a token of the first look.
func (x *comparison) visit(one *connector.Item) {
	if _, again := x.listed[one.ID]; again {
		return
	}
	name, marked := x.marked(one.Name)
	x.listed[one.ID] = name
	_, known := x.ledger[one.ID]
	switch {
	case known, !one.ExpiresAt.IsZero() && !one.ExpiresAt.After(x.now):
	case x.isOurs(*one):
		x.keep(&x.twins, one)
	case marked:
		x.keep(&x.unknown, one)
	case isLong(one, x.now):
		x.keep(&x.foreign, one)
	}
}

// keep adds a token to candidates, without its details if there are many.
func (x *comparison) keep(candidates *[]connector.Item, one *connector.Item) {
	if len(*candidates) >= maxCandidates {
		x.bare[one.ID] = true
		one = &connector.Item{ID: one.ID, Name: one.Name}
	}
	*candidates = append(*candidates, *one)
}

// marked returns the name of a token in lower case, and whether the name begins as the names of the engine's tokens do. A
// service may put something before the name that ends with a separator, such as robot$.
func (x *comparison) marked(name string) (_ string, marked bool) {
	name = strings.ToLower(name)
	for _, marker := range x.markers {
		if at := strings.Index(name, marker); at == 0 || at > 0 && strings.ContainsRune("$+/:@ ", rune(name[at-1])) {
			return name[at:], true
		}
	}
	return name, false
}

// isOurs reports whether the engine knows a token, by its ID or name.
func (x *comparison) isOurs(one connector.Item) bool {
	if _, known := x.ledger[one.ID]; known {
		return true
	}
	name, _ := x.marked(one.Name)
	return x.names[name] && !x.isDuplicate(&one, name)
}

// isDuplicate reports whether a token has the name of another token of the engine. A service, or a proxy before it, may do the
// work of one request twice. The listing must have the other token under the ID that the engine has: the listing of a
// service could have other IDs than the answer to a create.
func (x *comparison) isDuplicate(one *connector.Item, name string) bool {
	t, known := x.named[name]
	if !known || t.State != upstream.Live || t.UpstreamID == "" || t.UpstreamID == one.ID {
		return false
	}
	other, listed := x.listed[t.UpstreamID]
	return listed && other == name
}

// duplicates adds the duplicates among the listed tokens to the unknown ones.
func (x *comparison) duplicates() {
	for _, one := range x.twins {
		if name, _ := x.marked(one.Name); x.isDuplicate(&one, name) {
			x.keep(&x.unknown, &one)
		}
	}
}

// isLong reports whether a foreign token lives longer than LongLife.
func isLong(one *connector.Item, now time.Time) bool {
	if one.ExpiresAt.IsZero() {
		return true
	}
	from := now
	if !one.CreatedAt.IsZero() && one.CreatedAt.Before(now) {
		from = one.CreatedAt
	}
	return one.ExpiresAt.Sub(from) > LongLife
}

// candidates returns the Live tokens of the connection that must exist at the service. Where the URL of the connection was
// changed, the token may exist at the former URL.
func (x *comparison) candidates() []upstream.Token {
	return slices.DeleteFunc(x.Upstreams.Tokens.OfConnection(x.c.ID), func(t upstream.Token) bool {
		return t.URL != x.c.URL || !mustExist(&t, x.now)
	})
}

// mustExist reports whether a token must exist at the service at a time. An expired token need not.
func mustExist(t *upstream.Token, now time.Time) bool {
	return t.State == upstream.Live && (t.TokenEnd.IsZero() || !t.TokenEnd.Before(now.Add(clocks)))
}

// notListed returns those tokens that the first look has not seen. A listing that is not complete misses tokens that exist.
func (x *comparison) notListed(live []upstream.Token) []upstream.Token {
	if !x.complete {
		return nil
	}
	seen := make(map[string]bool, len(x.listed))
	for _, name := range x.listed {
		seen[name] = true
	}
	return slices.DeleteFunc(live, func(t upstream.Token) bool {
		_, listed := x.listed[t.UpstreamID]
		return listed || seen[strings.ToLower(t.Name)]
	})
}

// items returns the items to keep, the unknown tokens first, sorted by ID.
func (x *comparison) items(gone []upstream.Token) []Item {
	items := make([]Item, 0, min(MaxItems, len(x.unknown)+len(gone)+len(x.foreign)))
	add := func(reason Reason, id token.ID, one connector.Item) {
		if len(items) < MaxItems && !x.bare[one.ID] {
			items = append(items, Item{Item: one, Reason: reason, Token: id})
		}
	}
	for _, one := range x.unknown {
		add(UnknownHere, token.ID{}, one)
	}
	for _, t := range gone {
		add(GoneThere, t.ID, connector.Item{ID: t.UpstreamID, Name: t.Name, CreatedAt: t.CreatedAt, ExpiresAt: t.TokenEnd})
	}
	for _, one := range x.foreign {
		add(Foreign, token.ID{}, one)
	}
	slices.SortFunc(items, byID)
	return items
}

func byID(a, b Item) int { return cmp.Compare(a.ID, b.ID) }
