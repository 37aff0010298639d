// Package report answers what an operator should clean up: what nobody uses, what is too broad, what nobody owns, and what
// has lost its role, entity or connection. A report reads memory only, and returns pages.
package report

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/reconcile"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// The kinds of items, in the order of a report.
const (
	KindConnection = "connection"
	KindRole       = "role"
	KindStaticRole = "static_role"
	KindToken      = "token"

	// KindUpstreamToken is a token at a service that a reconciliation has found; only in the report of orphans.
	KindUpstreamToken = "upstream_token"
)

// Kinds are the kinds of items of most reports.
var Kinds = []string{KindConnection, KindRole, KindStaticRole, KindToken}

const (
	// MaxLimit is the maximum number of items on a page.
	MaxLimit = 1000

	// maxScan is the maximum number of entries that one page examines: a fraction of a second.
	maxScan = 100_000

	// maxBytes bounds the total length of the texts on a page.
	maxBytes = 1 << 20
)

// View is what reports read of a mount. Reports change nothing.
type View struct {
	Now         time.Time
	MountPoint  string // with a slash at the end, for commands
	Roles       *role.Store
	Connections *upstream.Connections
	Statics     *static.Store
	Upstreams   *upstream.Tokens
	Inventory   *ledger.Inventory
	Refreshes   *ledger.Refreshes
	Usage       *insight.Usage
	Watch       *Watch
	Privileged  access.Scopes // scopes that count as privileged

	// Life returns the life of a token of the inventory.
	Life func(*ledger.Row) access.State

	// Disabled reports whether a Vault entity is disabled or deleted.
	Disabled func(ctx context.Context, entity string) (bool, error)

	// Reconciled returns what the last reconciliation of a connection has found, sorted by ID.
	Reconciled func(*upstream.Connection) []reconcile.Item

	// Used returns what the uses of the tokens in the inventory needed, by role. The answer may be some seconds old.
	Used func() map[token.RoleID]*Used

	// MaxTTL is the mount's maximum lease TTL.
	MaxTTL time.Duration
}

// Item is a row of a report. The zero value of a field means that the field does not apply.
type Item struct {
	Kind        string    `json:"kind"`
	Name        string    `json:"name"`        // the token_id of a token; of an upstream token the name at the service
	Reasons     []string  `json:"reasons"`     // why the report has the item
	Detail      string    `json:"detail"`      // the reasons in sentences, with numbers
	Command     string    `json:"command"`     // what to do about it
	Owner       string    `json:"owner"`       // of an upstream token, the owner at the service
	UpstreamID  string    `json:"upstream_id"` // of an upstream token, the ID at the service
	Role        string    `json:"role"`        // of a token or static role
	EntityID    string    `json:"entity_id"`   // of a token
	DisplayName string    `json:"display_name"`
	Connection  string    `json:"connection"`
	Scopes      []string  `json:"scopes"`
	IssuedAt    time.Time `json:"issued_at"`
	ExpiresAt   time.Time `json:"expires_at"`
	LastSeenAt  time.Time `json:"last_seen_at"` // last known use, issue or read
	ReviewBy    string    `json:"review_by"`    // day, such as 2027-03-31
	Suggestion
}

func (i *Item) size() int {
	n := len(i.Name) + len(i.UpstreamID) + len(i.Detail) + len(i.Command) + len(i.Role) + len(i.DisplayName) + len(i.Connection) + len(i.Owner)
	for _, s := range i.Scopes {
		n += len(s)
	}
	return n
}

// because adds a reason with its sentence.
func (i *Item) because(reason, format string, args ...any) {
	i.Reasons = append(i.Reasons, reason)
	if i.Detail != "" {
		i.Detail += "; "
	}
	i.Detail += fmt.Sprintf(format, args...)
}

// Query selects a page of a report.
type Query struct {
	After string // Next of the previous page; empty: the first page
	Limit int    // maximum number of items, 1 to MaxLimit
	Kind  string // only items of this kind; empty: all

	spent func() bool // reports whether the page has examined enough; nil: never
}

// Page is a part of a report.
type Page struct {
	Items   []*Item
	Next    string   // value of after for the next page; empty: this is the last page
	Caveats []string // what the report cannot know
}

// source is the items of one kind, in the order of their names. The item is nil for an entry that the report leaves out.
type source struct {
	kind string
	each func(after string) iter.Seq2[key, *Item]
}

// key is the name of an entry, or the ID of a token. A page makes few texts of many IDs.
type key struct {
	name string
	id   token.ID
}

func (k key) String() string {
	if k.name == "" && k.id != (token.ID{}) {
		return k.id.String()
	}
	return k.name
}

// begin returns the source at which the page of a query begins, and the name after which it begins there.
func (q *Query) begin(sources []source) (from int, after string, _ error) {
	if q.Limit < 1 || q.Limit > MaxLimit {
		return 0, "", refusal.Field("limit", "must be between 1 and %d", MaxLimit)
	}
	if q.Kind != "" && !slices.ContainsFunc(sources, func(s source) bool { return s.kind == q.Kind }) {
		return 0, "", refusal.Field("kind", "%q is not a kind of this report, which has %s", refusal.Clip(q.Kind), kindsOf(sources))
	}
	if q.After == "" {
		return 0, "", nil
	}
	kind, after, ok := strings.Cut(q.After, "/")
	from = slices.IndexFunc(sources, func(s source) bool { return s.kind == kind })
	if kind == KindToken && after != "" {
		_, err := token.ParseID(after)
		ok = ok && err == nil
	}
	if !ok || from < 0 {
		return 0, "", refusal.Field("after", "must be the next of the previous page")
	}
	return from, after, nil
}

// page returns the page of a query. A page may have fewer items than the limit, and even none, before the last page.
func page(q *Query, sources ...source) (*Page, error) {
	from, after, err := q.begin(sources)
	if err != nil {
		return nil, err
	}
	p := &Page{Items: []*Item{}}
	scanned, bytes := 0, 0
	for _, s := range sources[from:] {
		if q.Kind == "" || s.kind == q.Kind {
			last := key{name: after}
			for at, item := range s.each(after) {
				if item != nil {
					bytes += item.size()
				}
				if len(p.Items) == q.Limit && item != nil || scanned == maxScan || q.spent != nil && q.spent() || bytes > maxBytes && len(p.Items) > 0 {
					p.Next = s.kind + "/" + last.String()
					return p, nil
				}
				if scanned++; item != nil {
					p.Items = append(p.Items, item)
				}
				last = at
			}
		}
		after = ""
	}
	return p, nil
}

func kindsOf(sources []source) string {
	kinds := make([]string, len(sources))
	for i, s := range sources {
		kinds[i] = s.kind
	}
	return strings.Join(kinds, ", ")
}

// named returns the items of the entries with a name, after a name. item returns nil for an entry to leave out, and for an
// entry that cannot be read.
func named(names []string, item func(name string) *Item) func(after string) iter.Seq2[key, *Item] {
	return func(after string) iter.Seq2[key, *Item] {
		return func(yield func(key, *Item) bool) {
			at, found := slices.BinarySearch(names, after)
			if found {
				at++
			}
			for _, name := range names[at:] {
				if !yield(key{name: name}, item(name)) {
					return
				}
			}
		}
	}
}

func (v *View) connections(item func(*upstream.Connection) *Item) source {
	return source{KindConnection, named(v.Connections.Names(), func(name string) *Item {
		if c := v.Connections.Get(name); c != nil {
			return item(c)
		}
		return nil
	})}
}

func (v *View) roles(item func(*role.Role) *Item) source {
	return source{KindRole, named(v.Roles.Names(), func(name string) *Item {
		if r := v.Roles.Get(name); r != nil {
			return item(r)
		}
		return nil
	})}
}

func (v *View) statics(item func(*static.Entry) *Item) source {
	return source{KindStaticRole, named(v.Statics.Names(), func(name string) *Item {
		if e := v.Statics.Get(name); e != nil {
			return item(e)
		}
		return nil
	})}
}

// tokens returns the items of the tokens of the inventory, by their IDs.
func (v *View) tokens(item func(*ledger.Row) *Item) source {
	return source{KindToken, func(after string) iter.Seq2[key, *Item] {
		var id token.ID
		if after != "" {
			id, _ = token.ParseID(after) // page has checked the ID
		}
		return func(yield func(key, *Item) bool) {
			for row := range v.Inventory.After(id) {
				if !yield(key{id: row.ID}, item(&row)) {
					return
				}
			}
		}
	}}
}

// live returns the item of a live token without reasons; nil if the token is not live.
func (v *View) live(row *ledger.Row) *Item {
	life := v.Life(row)
	if life.Alive(v.Now) != access.Good {
		return nil
	}
	return v.itemOf(row, life.ExpiresAt)
}

func (v *View) itemOf(row *ledger.Row, end time.Time) *Item {
	i := &Item{
		Kind: KindToken, Name: row.ID.String(), Role: row.Role, EntityID: row.Subject, DisplayName: row.DisplayName,
		Scopes: strings.Fields(row.Scopes), IssuedAt: row.IssuedAt, ExpiresAt: end,
		Command: "vault write " + v.MountPoint + "revoke token_id=" + row.ID.String(),
	}
	if r := v.Roles.ByID(row.RoleID); r != nil {
		i.Connection = r.Connection
	}
	return i
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
