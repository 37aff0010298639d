package simulation

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// subjectLag is how long a token may outlive the entity that it was issued to: the answer of Vault is used for a
// minute.
const subjectLag = 61 * time.Second

// quiet reports whether nothing is going on that could contradict what is looked at. The caller holds mu.
func (w *world) quiet() bool { return w.calm.Load() }

// roleAlive reports of the role of a grant whether it is there as it was issued from; certainly, or at least maybe.
func (w *world) roleAlive(n *node, g *grant) (surely, maybe bool) {
	surely = true
	for _, s := range g.role.states.possible(n) {
		alive := s.exists && (s.life == g.life || g.life == 0)
		surely = surely && alive
		maybe = maybe || alive
	}
	return surely, maybe
}

// possiblyAllowed is the most that the role of a grant may allow as a node knows it.
func (w *world) possiblyAllowed(n *node, g *grant) []string {
	var most []string
	for _, s := range g.role.states.possible(n) {
		if s.exists && (s.life == g.life || g.life == 0) {
			most = append(most, s.allowed...)
		}
	}
	return most
}

// surelyLive reports whether a grant must be alive by all that is known.
func (w *world) surelyLive(n *node, g *grant) bool {
	surely, _ := w.roleAlive(n, g)
	if !surely || g.doubtful || g.revoked.seq != 0 || !n.now().Before(g.period(n).lo) || w.everDisabled(g.subject) || w.maybeSuspended(n, g) {
		return false
	}
	for _, s := range g.role.states.possible(n) {
		if len(common(g.scopes, s.allowed)) == 0 || len(common(g.reach.sure, s.regions)) == 0 {
			return false
		}
	}
	return true
}

// everDisabled reports whether the answer to whether an entity is disabled may be yes.
func (w *world) everDisabled(id string) bool {
	w.entitiesMu.Lock()
	defer w.entitiesMu.Unlock()
	return id != "" && !w.disabled[id].IsZero() || w.recentlyDisabled[id].After(time.Now().Add(-subjectLag))
}

// disabledFor is how long an entity has been disabled; 0: it is not.
func (w *world) disabledFor(id string) time.Duration {
	w.entitiesMu.Lock()
	defer w.entitiesMu.Unlock()
	since, disabled := w.disabled[id]
	if !disabled {
		return 0
	}
	return time.Since(since)
}

// checkToken introspects a token, and holds the answer against what is true: invariants 1, 2 and 4.
func (w *world) checkToken(n *node, tok *issued) {
	g := tok.grant
	use := map[string]any{"token": tok.text}
	w.mu.Lock()
	region := tok.nextRegion()
	w.mu.Unlock()
	if region != "" {
		use["region"] = region
	}
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "introspect", Data: use})
	if !a.ok() {
		if a.refused != "" {
			w.broken(4, "introspection of a token is refused: %s", a.refused)
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	d := a.data()
	active, _ := d["active"].(bool)
	reason, _ := d["reason"].(string)
	what := func() string {
		return "token " + tok.id + " of grant " + itoa(g.n) + " (" + g.role.name + ") at node " + itoa(n.n)
	}
	now := n.now()
	ends := g.period(n)
	first, last := tok.end, tok.end.Add(time.Second)
	if tok.moves {
		first, last = ends.lo, ends.hi
	} else if ends.lo.Before(first) {
		first = ends.lo
	}
	if id, told := d["token_id"].(string); told && !tok.refresh {
		tok.id = id
	}
	if active {
		w.checkActive(n, tok, a, last, what)
		w.checkRegion(n, tok, region, d, what)
		return
	}
	if w.keyGone(tok.text, a) && now.Before(first) && n.knows(tok.seq, tok.by) && reason == "wrong_environment" {
		w.broken(4, "a token whose key was destroyed is called %s: %s", reason, what())
	}
	live := w.surelyLive(n, g) && now.Before(first) && n.knows(tok.seq, tok.by) && !w.keyMayBeGone(tok.text) && (tok.refresh || w.surelyFrom(n, tok, region))
	for _, s := range g.role.states.possible(n) {
		live = live && (tok.refresh || len(common(tok.scopes, s.allowed)) > 0)
	}
	if live && (!tok.refresh || reason != "wrong_audience") {
		w.broken(4, "a live token is called %s: %s", reason, what())
	}
}

// checkActive holds against the model that a token is active. The token may be active until last.
func (w *world) checkActive(n *node, tok *issued, a *answer, last time.Time, what func() string) {
	g, d, now := tok.grant, a.data(), n.now()
	scopes := strings.Fields(d["scope"].(string))
	_, maybe := w.roleAlive(n, g)
	switch {
	case tok.refresh:
		w.broken(1, "a refresh token is active: %s", what())
	case g.revoked.seq != 0 && g.revoked.seq < a.began && n.knows(g.revoked.seq, g.revoked.by):
		w.broken(2, "active after its revocation was acknowledged: %s", what())
	case w.mustBeSuspended(n, g, a.began):
		w.broken(2, "active after its suspension was acknowledged: %s", what())
	case w.keyGone(tok.text, a):
		w.broken(2, "active after its key was destroyed: %s", what())
	case !maybe:
		w.broken(2, "active after its role was deleted: %s", what())
	case !now.Before(last):
		w.broken(1, "active %s after its end: %s", now.Sub(last), what())
	case !within(scopes, tok.scopes):
		w.broken(1, "grants %q, and was issued with %q: %s", scopes, tok.scopes, what())
	case !within(scopes, w.possiblyAllowed(n, g)):
		w.broken(1, "grants %q, and its role allows %q: %s", scopes, w.possiblyAllowed(n, g), what())
	case w.disabledFor(g.subject) > subjectLag:
		w.broken(1, "active long after its entity was disabled: %s", what())
	}
	if exp, ok := d["exp"].(int64); ok && time.Unix(exp, 0).After(last.Add(time.Second)) {
		w.broken(4, "says that it ends at %s, and it ends at %s: %s", clock(time.Unix(exp, 0)), clock(last), what())
	}
}

// checkLookup looks a grant up by its id: invariants 2 and 4.
func (w *world) checkLookup(n *node, g *grant) {
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "lookup", Data: map[string]any{"token_id": g.ids[len(g.ids)-1]}})
	if !a.ok() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	state, _ := a.data()["state"].(string)
	w.checkState(n, a.began, g, state)
	w.checkUsage(n, g, a.data())
}

// checkState holds the state that the inventory shows of a grant against what is true.
func (w *world) checkState(n *node, began uint64, g *grant, state string) {
	if state != "active" {
		return
	}
	_, maybe := w.roleAlive(n, g)
	dead := g.revoked.seq != 0 && g.revoked.seq < began && n.knows(g.revoked.seq, g.revoked.by)
	if g.upstream != nil {
		dead, maybe = g.upstream.allRevoked(n, began), true
	}
	switch {
	case dead:
		w.broken(2, "grant %d is listed as active at node %d after its revocation was acknowledged", g.n, n.n)
	case w.mustBeSuspended(n, g, began):
		w.broken(2, "grant %d is listed as active at node %d after its suspension was acknowledged", g.n, n.n)
	case !maybe:
		w.broken(2, "grant %d is listed as active at node %d after its role was deleted", g.n, n.n)
	case g.upstream == nil && !n.now().Before(g.period(n).hi):
		w.broken(4, "grant %d is listed as active at node %d, and it ended at %s", g.n, n.n, clock(g.period(n).hi))
	}
}

// allRevoked reports whether a token of the service must be known to be revoked: by itself, or all its leases.
func (u *upstreamToken) allRevoked(n *node, began uint64) bool {
	known := func(m mark) bool { return m.seq != 0 && m.seq < began && n.knows(m.seq, m.by) }
	if known(u.revoked) {
		return true
	}
	for _, g := range u.grants {
		if !known(g.revoked) {
			return false
		}
	}
	return !u.grants[0].role.shared // the last hold of a shared token may be one whose answer was lost
}

// checkList lists tokens: invariants 2 and 4.
func (w *world) checkList(n *node, data map[string]any) {
	a := w.ask(n, &logical.Request{Operation: logical.ListOperation, Path: "tokens/", Data: data})
	if !a.ok() {
		return
	}
	info, _ := a.data()["key_info"].(map[string]any)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.model.grants {
		for _, id := range g.ids {
			if row, listed := info[id].(map[string]any); listed {
				state, _ := row["state"].(string)
				w.checkState(n, a.began, g, state)
				w.checkUsage(n, g, row)
			}
		}
	}
}

// checkSome checks some of the tokens at some of the nodes; it is what happens after every step.
func (w *world) checkSome(r *rand.Rand) {
	n := w.active
	if w.standby != nil && r.IntN(4) == 0 {
		n = w.standby
	}
	if w.zombie != nil && r.IntN(4) == 0 {
		n = w.zombie
	}
	if n == nil || n.dead() {
		return
	}
	w.mu.Lock()
	some := []*issued{pick(r, w.model.tokens)}
	if g := pick(r, w.model.grants); g != nil && len(g.refreshes) > 0 {
		some = append(some, g.refreshes[len(g.refreshes)-1])
	}
	listed := w.someListed(n, r)
	w.mu.Unlock()
	for _, tok := range some {
		if tok != nil {
			w.checkToken(n, tok)
		}
	}
	if listed != nil && !n.standby {
		w.checkStatus(n, listed)
	}
}

// checkAll checks all tokens at a node.
func (w *world) checkAll(n *node) {
	for _, tok := range w.model.tokens {
		w.checkToken(n, tok)
		if tok.list != "" && !n.standby {
			w.checkStatus(n, tok)
		}
	}
	for _, g := range w.model.grants {
		for _, tok := range g.refreshes {
			w.checkToken(n, tok)
		}
	}
	w.checkList(n, map[string]any{"limit": 1000})
	w.checkSuspensions(n, 1000)
}

var secretForms = regexp.MustCompile(`svc-(?:tok|root)-\d+-secret|eyJ[A-Za-z0-9_-]{20,}\.|\b(?:apt|two|three_x)_[0-9A-Za-z]{60,}|whsec_[0-9A-Za-z+/]{20,}|pager-(?:path|header)-secret`)

// answersWithTokens are the paths whose answers are tokens.
var answersWithTokens = []string{"creds/", "static-creds/", "oauth/token", "oauth/status", "oauth/introspect"}
