package reconcile

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// look is a second listing.
type look struct {
	ids, names map[string]bool // of the listed tokens; names in lower case, from the marker on
	complete   bool
}

// has reports whether a second listing has a token of the engine.
func (l *look) has(t *upstream.Token) bool {
	return l.ids[t.UpstreamID] || l.names[strings.ToLower(t.Name)]
}

// lookAgain lists the tokens a second time.
func (x *comparison) lookAgain(ctx context.Context) (second look, err error) {
	second = look{ids: make(map[string]bool), names: make(map[string]bool)}
	second.complete, err = x.c.Service.List(ctx, x.Upstreams.Places(x.c), func(one *connector.Item) {
		name, _ := x.marked(one.Name)
		second.ids[one.ID], second.names[name] = true, true
	})
	x.complete = x.complete && second.complete
	return second, err
}

// confirm returns the missing tokens that a second look does not find either, and that the engine has not revoked meanwhile.
// The second look is a search for the names where the service can, or else the second listing. A listing that is not complete
// confirms nothing.
func (x *comparison) confirm(
	ctx context.Context, missing []upstream.Token, second look,
) (gone []upstream.Token, unconfirmed int, _ error) {
	if len(missing) > maxCandidates {
		unconfirmed = len(missing) - maxCandidates
		missing = missing[:maxCandidates]
	}
	places := make(map[string][]upstream.Token)
	for _, t := range missing {
		key, _ := json.Marshal(t.Params) // params come from JSON
		places[string(key)] = append(places[string(key)], t)
	}
	for _, tokens := range places {
		there, err := x.search(ctx, tokens, second)
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		if err != nil {
			x.Log.Warn("upstream tokens not confirmed to be gone", "connection", x.c.Name(), "tokens", len(tokens), "error", err)
			unconfirmed += len(tokens)
			continue
		}
		for i := range tokens {
			if there(&tokens[i]) {
				continue
			}
			if !x.c.Service.Provider.CanFind() && !second.complete {
				unconfirmed++
				continue
			}
			t, known, err := x.Upstreams.Stored(ctx, tokens[i].ID)
			if err != nil {
				return nil, 0, err
			}
			switch {
			case !known || !mustExist(&t, x.Now()): // the first look may be half an hour ago
			case x.mustBeListed(&t):
				gone = append(gone, t)
			default:
				unconfirmed++
			}
		}
	}
	return gone, unconfirmed, nil
}

// mustBeListed reports whether the service must list a token by now: the token is old, or was missing in a comparison long
// enough ago. A token that was missing keeps the time for the next comparison.
func (x *comparison) mustBeListed(t *upstream.Token) bool {
	since, again := x.before[t.ID]
	if !again {
		since = x.now
	}
	x.missing[t.ID] = since
	return t.LiveSince.Before(x.now.Add(-old)) || x.now.Sub(since) >= x.Upstreams.Timings.Settle+x.c.CallTimeout()
}

// search returns what reports whether a token of a place exists at the service: by a search for the names where the service
// can, or else by the second listing.
func (x *comparison) search(
	ctx context.Context, tokens []upstream.Token, second look,
) (exists func(*upstream.Token) bool, _ error) {
	if !x.c.Service.Provider.CanFind() {
		return second.has, nil
	}
	names := make([]string, len(tokens))
	for i := range tokens {
		names[i] = tokens[i].Name
	}
	found, err := x.c.Service.Find(ctx, names, tokens[0].Params)
	if err != nil {
		return nil, err
	}
	listed := make(map[string]bool, len(found))
	for _, one := range found {
		listed[one.Name] = true
	}
	return func(t *upstream.Token) bool { return listed[t.Name] }, nil
}
