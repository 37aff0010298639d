package simulation

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func (w *world) refreshSome(r *rand.Rand) {
	w.mu.Lock()
	var grants []*grant
	for _, g := range w.model.grants {
		if len(g.refreshes) > 0 {
			grants = append(grants, g)
		}
	}
	g := pick(r, grants)
	if g == nil {
		w.mu.Unlock()
		return
	}
	i := len(g.refreshes) - 1
	if r.IntN(5) == 0 {
		i = r.IntN(len(g.refreshes))
	}
	tok := g.refreshes[i]
	w.mu.Unlock()
	w.refresh(w.active, tok)
}

// refresh uses a refresh token. It gives the new pair.
func (w *world) refresh(n *node, used *issued) (access, next *issued) {
	w.mu.Lock()
	g := used.grant
	generation := used.generation
	top := g.topGeneration()
	certain := w.surelyLive(n, g) && !g.doubtful && !g.lostRefresh
	allowed, states := w.possiblyAllowed(n, g), g.role.states.possible(n)
	if generation < top || g.lostRefresh {
		g.doubtful = true // it may be taken for a thief's: a refresh whose answer was lost may have used it
	}
	w.mu.Unlock()
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "oauth/token", Data: map[string]any{"grant_type": "refresh_token", "refresh_token": used.text}})
	w.say("refresh grant %d at node %d, generation %d of %d: %s", g.n, n.n, generation, top, a)
	w.mu.Lock()
	defer w.mu.Unlock()
	body := form(a)
	if !a.ok() {
		switch {
		case w.keyMayBeGone(used.text): // nobody can read it
			g.lostRefresh = g.lostRefresh || a.lost || a.err != nil || body["error"] != "invalid_grant"
		case a.lost || a.err != nil || body["error"] != "invalid_grant":
			g.lostRefresh = true
			g.doubtful = g.doubtful || generation < top
		case generation == top && certain && g.topGeneration() == top && w.surelyLive(n, g):
			w.broken(4, "the refresh token of grant %d is refused, although the grant is alive: %s", g.n, a.refused)
		case generation < top-1 && certain && g.revoked.seq == 0:
			g.revoked = a.mark() // the reuse was detected
		}
		return nil, nil
	}
	if g.revoked.seq != 0 && g.revoked.seq < a.began && n.knows(g.revoked.seq, g.revoked.by) {
		w.broken(2, "grant %d was refreshed after its revocation was acknowledged", g.n)
	}
	w.checkSuspended(a, g, "a refresh")
	if w.keyGone(used.text, a) {
		w.broken(2, "grant %d was refreshed after the key of the refresh token was destroyed", g.n)
	}
	if generation < top-1 {
		w.broken(2, "refresh token %d of grant %d was accepted, and its successor had been used", generation, g.n)
	}
	text, _ := body["access_token"].(string)
	scope, _ := body["scope"].(string)
	expiresIn, _ := body["expires_in"].(float64)
	refresh, _ := body["refresh_token"].(string)
	scopes := strings.Fields(scope)
	if !within(scopes, g.scopes) || !within(scopes, allowed) && !within(scopes, w.possiblyAllowed(n, g)) {
		w.broken(1, "a refresh of grant %d gives %q: it was issued with %q, and the role allows %q", g.n, scopes, g.scopes, allowed)
	}
	if expiresIn > (accessTTL + w.spread()).Seconds() { // a retry gets what another clock has said
		w.broken(4, "a refresh of grant %d says expires_in %v", g.n, expiresIn)
	}
	m := a.mark()
	from := g.narrowed(g.reach, nil, append(states, g.role.states.possible(n)...))
	access = w.token(g, m, text, "", scopes, from, n.now().Add(time.Duration(expiresIn)*time.Second))
	next = w.refreshToken(g, m, refresh)
	next.generation = generation + 1
	return access, next
}

func (g *grant) topGeneration() int {
	top := 0
	for _, tok := range g.refreshes {
		top = max(top, tok.generation)
	}
	return top
}

func (w *world) exchangeSome(r *rand.Rand) {
	w.mu.Lock()
	tok := pick(r, w.model.tokens)
	w.mu.Unlock()
	if tok == nil {
		return
	}
	data := map[string]any{"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": tok.text, "subject_token_type": "urn:ietf:params:oauth:token-type:access_token"}
	if r.IntN(2) == 0 {
		data["scope"] = strings.Join(someScopes(r, tok.scopes), " ")
	}
	if from := askedRegions(r, tok.reach.most); from != nil {
		data["bound_regions"] = strings.Join(from, " ")
	}
	if r.IntN(4) == 0 {
		data["ttl"] = fmt.Sprint(1 + r.IntN(120))
	}
	w.exchange(w.active, tok, data)
}

// exchange exchanges a token for one that grants less.
func (w *world) exchange(n *node, subject *issued, data map[string]any) *issued {
	w.mu.Lock()
	g := subject.grant
	allowed, states := w.possiblyAllowed(n, g), g.role.states.possible(n)
	w.mu.Unlock()
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "oauth/token", Data: data})
	w.say("exchange a token of grant %d at node %d, scope %q, regions %q: %s", g.n, n.n, data["scope"], data["bound_regions"], a)
	if !a.ok() {
		return nil
	}
	body := form(a)
	w.mu.Lock()
	defer w.mu.Unlock()
	text, _ := body["access_token"].(string)
	scope, _ := body["scope"].(string)
	expiresIn, _ := body["expires_in"].(float64)
	scopes := strings.Fields(scope)
	if g.revoked.seq != 0 && g.revoked.seq < a.began && n.knows(g.revoked.seq, g.revoked.by) {
		w.broken(2, "a token of grant %d was exchanged after its revocation was acknowledged", g.n)
	}
	w.checkSuspended(a, g, "an exchange")
	if w.keyGone(subject.text, a) {
		w.broken(2, "a token of grant %d was exchanged after its key was destroyed", g.n)
	}
	if !within(scopes, subject.scopes) || !within(scopes, allowed) && !within(scopes, w.possiblyAllowed(n, g)) {
		w.broken(1, "an exchange in grant %d gives %q: the token had %q, and the role allows %q", g.n, scopes, subject.scopes, allowed)
	}
	if len(scopes) == 0 {
		w.broken(1, "an exchange in grant %d gives a token without scopes", g.n)
	}
	var asked []string
	if text, narrows := data["bound_regions"].(string); narrows {
		asked = strings.Fields(text)
	}
	from := g.narrowed(subject.reach, asked, append(states, g.role.states.possible(n)...))
	return w.token(g, a.mark(), text, "", scopes, from, n.now().Add(time.Duration(expiresIn)*time.Second))
}
