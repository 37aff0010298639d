package simulation

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func (w *world) revokeSomeLease(r *rand.Rand) {
	if l := w.someLease(r); l != nil {
		w.revokeLease(w.active, l)
	}
}

// revokeLease revokes a lease, by Vault's expiration manager or because a client asks it to.
func (w *world) revokeLease(n *node, l *lease) {
	w.mu.Lock()
	req := l.request(n, logical.RevokeOperation, 0)
	g := l.grant
	g.doubtful = true
	w.mu.Unlock()
	a := w.ask(n, req)
	w.say("revoke lease %d at node %d: %s", l.n, n.n, a)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !a.ok() {
		l.failed(n.now())
		if l.expires.After(n.now()) {
			l.expires = n.now() // Vault revokes it from now on
		}
		return
	}
	early := n.now().Before(g.period(n).lo) || n.now().Before(l.says) // else it has expired, by this clock
	if early {
		g.revoked = a.mark()
	}
	g.over, g.overAt = a.mark(), n.now()
	w.leases.drop(l)
	for _, tok := range g.tokens {
		if !early && tok.list != "" && n.now().Before(tok.end) { // rare: a renewal has shortened the grant
			w.mu.Unlock()
			w.checkStatus(n, tok)
			w.mu.Lock()
			break
		}
	}
}

func (w *world) revokePrefix(r *rand.Rand) {
	w.mu.Lock()
	l := pick(r, w.leases.live)
	var all []*lease
	if l != nil {
		for _, other := range w.leases.live {
			if other.path == l.path {
				all = append(all, other)
			}
		}
	}
	w.mu.Unlock()
	for _, other := range all {
		if !w.active.dead() {
			w.revokeLease(w.active, other)
		}
	}
}

// revokeBy revokes a grant by one of the engine's own doors.
func (w *world) revokeBy(r *rand.Rand) {
	n := w.active
	w.mu.Lock()
	g := pick(r, w.model.grants)
	w.mu.Unlock()
	if g != nil {
		w.revokeGrant(n, g, r.IntN(doors), r)
	}
}

// The doors by which a grant may be revoked.
const (
	byToken = iota
	byID
	byOAuth
	byLeak // a report of a leak, without a Vault token
	doors
)

func (w *world) revokeGrant(n *node, g *grant, door int, r *rand.Rand) {
	w.mu.Lock()
	var texts, ids []string
	if g.upstream != nil {
		texts, ids = []string{g.upstream.text}, []string{g.upstream.id}
		g.upstream.doubtful = true
	} else {
		for _, tok := range slices.Concat(g.tokens, g.refreshes) {
			texts = append(texts, tok.text)
			if tok.id != "" {
				ids = append(ids, tok.id)
			}
		}
		ids = append(ids, g.ids...)
		g.doubtful = true
	}
	w.mu.Unlock()
	req := &logical.Request{Operation: logical.UpdateOperation, Path: "revoke"}
	switch door {
	case byToken:
		req.Data = map[string]any{"token": texts[r.IntN(len(texts))]}
	case byID:
		req.Data = map[string]any{"token_id": ids[r.IntN(len(ids))]}
	case byOAuth:
		req.Path, req.Data = "oauth/revoke", map[string]any{"token": texts[r.IntN(len(texts))]}
	case byLeak:
		w.reportLeak(n, g, texts[r.IntN(len(texts))])
		return
	}
	what := fmt.Sprint(req.Data)
	a := w.ask(n, req)
	w.say("revoke grant %d at node %d, %s %.60s: %s", g.n, n.n, req.Path, what, a)
	if !a.ok() || a.resp != nil && strings.Contains(fmt.Sprint(a.resp.Warnings), "may be active") { // the key is gone, and with it the grant
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if text, ok := req.Data["token"].(string); ok && g.upstream == nil && w.keyMayBeGone(text) {
		return // likewise, and oauth/revoke does not say so
	}
	if g.upstream != nil {
		g.upstream.revokedBy(a)
		return
	}
	g.revoked = a.mark()
	g.unlisted = a.resp != nil && strings.Contains(strings.Join(a.resp.Warnings, " "), "status list does not show it")
}

// reportLeak reports a token of a grant as leaked. The engine revokes the grant if it knows the token, and the token is alive:
// a token that has expired is no danger, though its grant may live on.
func (w *world) reportLeak(n *node, g *grant, text string) {
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "leaked", Data: map[string]any{"tokens": []any{text}}})
	w.say("report a token of grant %d at node %d as leaked: %s", g.n, n.n, a)
	results, _ := a.data()["results"].([]any)
	if !a.ok() || len(results) != 1 {
		return
	}
	label, _ := results[0].(map[string]any)["label"].(string)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case label != "true_positive": // another node issued the token, or its key is gone
	case g.upstream != nil:
		g.upstream.revokedBy(a)
	case n.now().Before(w.firstEnd(n, g, text)):
		g.revoked = a.mark()
	}
}

// firstEnd is when a token of a grant expires at the earliest. The caller holds mu.
func (w *world) firstEnd(n *node, g *grant, text string) time.Time {
	first := g.period(n).lo
	for _, tok := range slices.Concat(g.tokens, g.refreshes) {
		if tok.text == text && !tok.moves && !tok.end.IsZero() && tok.end.Before(first) {
			first = tok.end
		}
	}
	return first
}

// revokedBy notes that an answer has revoked a token, and with it all its grants.
func (u *upstreamToken) revokedBy(a *answer) {
	u.revoked = a.mark()
	for _, g := range u.grants {
		g.revoked = a.mark()
	}
}

// revokeSubject revokes all tokens of an entity. A native token counts as revoked if the node surely has its row: a crash
// may have lost the row of a token that another node issued.
func (w *world) revokeSubject(r *rand.Rand) {
	n, id := w.active, entities[1+r.IntN(len(entities)-1)]
	w.mu.Lock()
	var held []*grant
	for _, g := range w.model.grants {
		if g.subject == id {
			held = append(held, g)
			g.mayBeSwept()
		}
	}
	for _, ro := range w.model.roles {
		w.doubtShared(ro, func(entity string) bool { return entity == id })
	}
	w.mu.Unlock()
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "revoke", Data: map[string]any{"subject": id}})
	w.say("revoke subject %s at node %d: %s", short(id), n.n, a)
	if !a.ok() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range held {
		listed := g.ends[0].by == n || g.stored != 0 && g.stored <= n.loaded
		switch {
		case g.revoked.seq != 0 || g.over.seq != 0 || !n.now().Before(g.period(n).lo): // the entity holds it no longer
		case g.upstream != nil:
			g.upstream.revokedBy(a)
		case listed && g.lease != nil:
			g.revoked = a.mark()
		}
	}
}

// form answers the standard body of an OAuth answer.
func form(a *answer) map[string]any {
	text, _ := rawBody(a.resp)
	var body map[string]any
	_ = json.Unmarshal([]byte(text), &body)
	return body
}
