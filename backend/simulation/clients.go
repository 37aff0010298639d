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

var entities = []string{"", "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"}

// pick gives one of a list; the zero value where there is none. Newer ones come up more often.
func pick[T any](r *rand.Rand, list []T) T {
	var none T
	if len(list) == 0 {
		return none
	}
	if r.IntN(2) == 0 {
		return list[len(list)-1-r.IntN(min(6, len(list)))]
	}
	return list[r.IntN(len(list))]
}

func someScopes(r *rand.Rand, from []string) []string {
	if len(from) == 0 {
		return nil
	}
	var some []string
	for _, s := range from {
		if r.IntN(2) == 0 {
			some = append(some, s)
		}
	}
	if len(some) == 0 {
		some = []string{from[r.IntN(len(from))]}
	}
	return some
}

// issue reads creds.
func (w *world) issue(r *rand.Rand) {
	n := w.active
	var names []string
	for _, k := range kinds {
		if !k.upstream || w.upstream {
			names = append(names, k.name)
		}
	}
	w.issueFrom(n, names[r.IntN(len(names))], entities[r.IntN(len(entities))], r)
}

// issueFrom reads creds of one role at a node; r nil: as the role has it.
func (w *world) issueFrom(n *node, name, subject string, r *rand.Rand) *grant {
	w.mu.Lock()
	ro := w.model.roles[name]
	as := ro.asks(n, subject)
	before := as.before
	parent := w.leases.someParent(r, subject, n.now())
	w.mu.Unlock()
	var data map[string]any
	asked := []string(nil)
	if r != nil && !ro.upstream && r.IntN(2) == 0 {
		asked = someScopes(r, before[len(before)-1].allowed)
		if len(asked) > 0 {
			data = map[string]any{"scopes": strings.Join(asked, ",")}
		}
	}
	if r != nil && r.IntN(4) == 0 {
		if data == nil {
			data = make(map[string]any)
		}
		data["ttl"] = 30 + r.IntN(int(ro.ttl.Seconds())-30)
	}
	req := &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + name, EntityID: subject, DisplayName: "client"}
	if data != nil {
		req.Operation, req.Data = logical.UpdateOperation, data
	}
	earliest := n.now()
	a := w.ask(n, req)
	w.mu.Lock()
	defer w.mu.Unlock()
	var g *grant
	if a.ok() {
		g = w.registered(ro, before, subject, asked, earliest, req.Path, a)
		g.lease.belong(parent, n.now())
	} else {
		w.say("issue %s at node %d for %s: %s", name, n.n, short(subject), a)
	}
	w.answered(ro, as, g, a)
	return g
}

// registered notes what an answer of creds gives. The caller holds mu.
func (w *world) registered(ro *role, before []roleState, subject string, asked []string, earliest time.Time, path string, a *answer) *grant {
	n, m, d := a.node, a.mark(), a.data()
	g := &grant{n: len(w.model.grants) + 1, role: ro, subject: subject}
	w.model.grants = append(w.model.grants, g)
	text, _ := d["token"].(string)
	id, _ := d["token_id"].(string)
	endText, _ := d["expires_at"].(string)
	end, err := time.Parse(time.RFC3339, endText)
	if err != nil {
		w.broken(4, "creds answers expires_at %q", endText)
	}
	g.ids = []string{id}
	for _, s := range append(before, ro.states.possible(n)...) {
		g.life = max(g.life, s.life)
	}
	if n != w.active { // it may know of an earlier life of the role
		g.life, g.doubtful = 0, true
	}
	leaseEnd := end
	if a.resp.Secret != nil {
		leaseEnd = earliest.Truncate(time.Second).Add(a.resp.Secret.TTL)
		g.lease = w.leases.register(g, path, a.resp.Secret, n.now())
		if diff := leaseEnd.Sub(end); !ro.refresh && (diff > 2*time.Second+n.now().Sub(earliest) || diff < -2*time.Second-n.now().Sub(earliest)) {
			w.broken(4, "creds of %s says expires_at %s, and the lease ends at %s", ro.name, end, leaseEnd)
		}
	}
	g.ends = timeline[period]{{mark: m, value: period{end, end}}}
	if ro.upstream {
		w.registeredUpstream(g, text, id, end, a)
		return g
	}
	if w.everDisabled(subject) {
		g.mayBeSwept()
	}
	scopes, _ := d["scopes"].([]string)
	g.scopes = scopes
	allowed := func(s roleState) bool { return within(scopes, s.allowed) && (asked == nil || within(scopes, asked)) }
	if !slices.ContainsFunc(before, allowed) && !slices.ContainsFunc(ro.states.possible(n), allowed) {
		w.broken(1, "creds of %s grants %q, more than was asked for (%q), or more than the role allows", ro.name, scopes, asked)
	}
	tok := w.token(g, m, text, id, scopes, end)
	tok.moves = !ro.jwt && !ro.refresh
	if ro.refresh {
		g.ends = timeline[period]{{mark: m, value: period{leaseEnd.Add(-time.Second), leaseEnd.Add(time.Second)}}}
		grantID, _ := d["grant_id"].(string)
		g.ids = append(g.ids, grantID)
		refresh, _ := d["refresh_token"].(string)
		w.refreshToken(g, m, refresh).generation = 1
	}
	w.say("issue %s at node %d for %s: grant %d, token %s, scopes %q, ends %s", ro.name, n.n, short(subject), g.n, id, scopes, clock(end))
	return g
}

// registeredUpstream notes which token of the service a grant holds. The caller holds mu.
func (w *world) registeredUpstream(g *grant, text, id string, end time.Time, a *answer) {
	u := w.model.upstreams[text]
	if u == nil {
		u = &upstreamToken{text: text, id: id}
		w.model.upstreams[text] = u
	}
	if u.revoked.seq != 0 && u.revoked.seq < a.began {
		w.broken(2, "creds of %s hands out token %s, whose revocation was acknowledged before", g.role.name, id)
	}
	if w.disowned(u, a.began) {
		w.broken(3, "creds of %s hands out token %s of a connection that was deleted before", g.role.name, id)
	}
	g.upstream = u
	u.grants = append(u.grants, g)
	if w.everDisabled(g.subject) {
		g.mayBeSwept()
	}
	w.say("issue %s at node %d for %s: grant %d, token %s %s, ends %s, lease %v", g.role.name, a.node.n, short(g.subject), g.n, id, text, clock(end), g.lease != nil)
	if !w.service.alive(text) && w.quiet() {
		w.broken(4, "creds of %s hands out token %s, which does not work at the service", g.role.name, id)
	}
}

func short(entity string) string {
	if entity == "" {
		return "nobody"
	}
	return entity[:2]
}

func clock(t time.Time) string { return t.Sub(epoch).String() }

// mayBeSwept notes that the engine may revoke a grant since its entity is disabled.
func (g *grant) mayBeSwept() {
	g.doubtful = true
	if g.upstream != nil {
		g.upstream.doubtful = true
	}
}

// token notes an access token. The caller holds mu.
func (w *world) token(g *grant, m mark, text, id string, scopes []string, end time.Time) *issued {
	tok := &issued{mark: m, grant: g, text: text, id: id, scopes: scopes, end: end}
	g.tokens = append(g.tokens, tok)
	w.model.tokens = append(w.model.tokens, tok)
	w.inspect(tok)
	return tok
}

// refreshToken notes a refresh token. The caller holds mu.
func (w *world) refreshToken(g *grant, m mark, text string) *issued {
	tok := &issued{mark: m, grant: g, text: text, refresh: true}
	g.refreshes = append(g.refreshes, tok)
	w.inspect(tok)
	return tok
}

// withLease picks a lease that is alive.
func (w *world) someLease(r *rand.Rand) *lease {
	w.mu.Lock()
	defer w.mu.Unlock()
	return pick(r, w.leases.live)
}

func (w *world) renewSome(r *rand.Rand) {
	if l := w.someLease(r); l != nil {
		increment := time.Duration(0)
		if r.IntN(2) == 0 {
			increment = time.Duration(10+r.IntN(1200)) * time.Second
		}
		w.renew(w.active, l, increment)
	}
}

// renew renews a lease as Vault does: not one that cannot be, is over, or is being revoked.
func (w *world) renew(n *node, l *lease, increment time.Duration) {
	w.mu.Lock()
	if !l.secret.Renewable || !n.now().Before(l.expires) || l.tries > 0 {
		w.mu.Unlock()
		return
	}
	g := l.grant
	dead := g.revoked
	req := l.request(n, logical.RenewOperation, increment)
	w.mu.Unlock()
	earliest := n.now()
	a := w.ask(n, req)
	w.say("renew lease %d at node %d by %s: %s", l.n, n.n, increment, a)
	w.mu.Lock()
	defer w.mu.Unlock()
	last := g.ends.last()
	if !a.ok() || a.resp == nil || a.resp.Secret == nil {
		if a.lost || a.err != nil {
			most := n.now().Add(maxTTL)
			g.ends = append(g.ends, moment[period]{mark: a.mark(), doubt: true, value: period{earliest.Add(time.Duration(-1)), maxTime(last.hi, most)}})
		}
		return
	}
	if dead.seq != 0 && n.knows(dead.seq, dead.by) {
		w.broken(2, "lease %d is renewed, although its grant was revoked", l.n)
	}
	ttl := a.resp.Secret.TTL
	g.ends = append(g.ends, moment[period]{mark: a.mark(), value: period{earliest.Add(ttl - time.Second), n.now().Add(ttl)}})
	if w.leases.alive(l) {
		w.leases.renewed(l, n, increment, a.resp.Secret)
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

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
	if a.ok() {
		if n.now().Before(g.period(n).lo) { // else it has expired, by this clock
			g.revoked = a.mark()
		}
		w.leases.drop(l)
		return
	}
	l.failed(n.now())
	if l.expires.After(n.now()) {
		l.expires = n.now() // Vault revokes it from now on
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
		w.revokeGrant(n, g, r.IntN(3), r)
	}
}

// The doors by which a grant may be revoked.
const (
	byToken = iota
	byID
	byOAuth
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
		g.upstream.revoked = a.mark()
		for _, other := range g.upstream.grants {
			other.revoked = a.mark()
		}
		return
	}
	g.revoked = a.mark()
	g.unlisted = a.resp != nil && strings.Contains(strings.Join(a.resp.Warnings, " "), "status list does not show it")
}

// form answers the standard body of an OAuth answer.
func form(a *answer) map[string]any {
	text, _ := rawBody(a.resp)
	var body map[string]any
	_ = json.Unmarshal([]byte(text), &body)
	return body
}

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
	allowed := w.possiblyAllowed(n, g)
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
	access = w.token(g, m, text, "", scopes, n.now().Add(time.Duration(expiresIn)*time.Second))
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
	if r.IntN(4) == 0 {
		data["ttl"] = fmt.Sprint(1 + r.IntN(120))
	}
	w.exchange(w.active, tok, data)
}

// exchange exchanges a token for one that grants less.
func (w *world) exchange(n *node, subject *issued, data map[string]any) *issued {
	w.mu.Lock()
	g := subject.grant
	allowed := w.possiblyAllowed(n, g)
	w.mu.Unlock()
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "oauth/token", Data: data})
	w.say("exchange a token of grant %d at node %d, scope %q: %s", g.n, n.n, data["scope"], a)
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
	if w.keyGone(subject.text, a) {
		w.broken(2, "a token of grant %d was exchanged after its key was destroyed", g.n)
	}
	if !within(scopes, subject.scopes) || !within(scopes, allowed) && !within(scopes, w.possiblyAllowed(n, g)) {
		w.broken(1, "an exchange in grant %d gives %q: the token had %q, and the role allows %q", g.n, scopes, subject.scopes, allowed)
	}
	if len(scopes) == 0 {
		w.broken(1, "an exchange in grant %d gives a token without scopes", g.n)
	}
	return w.token(g, a.mark(), text, "", scopes, n.now().Add(time.Duration(expiresIn)*time.Second))
}

// changeRole writes a role anew, or deletes it.
func (w *world) changeRole(r *rand.Rand) {
	n := w.active
	ro := w.someRole(r)
	if ro == nil {
		return
	}
	state := ro.states.last()
	if state.exists && r.IntN(4) == 0 {
		w.deleteRole(n, ro)
		return
	}
	allowed := someScopes(r, allScopes)
	if !state.exists {
		state.life++
	}
	state.exists, state.allowed, state.scopes, state.limit = true, allowed, someScopes(r, allowed), 0
	if ro.mayLimit() && r.IntN(3) == 0 {
		state.limit = 1 + r.IntN(4)
	}
	w.writeRole(n, ro, state)
}

// someRole picks a role that can be changed now; nil: the one that was picked cannot.
func (w *world) someRole(r *rand.Rand) *role {
	var names []string
	for _, k := range kinds {
		if !k.upstream || w.upstream {
			names = append(names, k.name)
		}
	}
	ro := w.model.roles[names[r.IntN(len(names))]]
	w.mu.Lock()
	defer w.mu.Unlock()
	if ro.busy || ro.unsure || ro.upstream && (w.model.connection.current() == nil || w.model.connection.unsure != nil) {
		return nil
	}
	return ro
}

func (w *world) writeRole(n *node, ro *role, s roleState) {
	w.changed(n, ro, s, &logical.Request{Operation: logical.UpdateOperation, Path: "roles/" + ro.name, Data: ro.fields(s)})
}

func (w *world) deleteRole(n *node, ro *role) {
	s := ro.states.last()
	w.changed(n, ro, roleState{life: s.life}, &logical.Request{Operation: logical.DeleteOperation, Path: "roles/" + ro.name})
}

// changed changes a role. From the moment at which it is asked for the change may be seen.
func (w *world) changed(n *node, ro *role, s roleState, req *logical.Request) {
	w.mu.Lock()
	ro.busy = true
	ro.states = append(ro.states, moment[roleState]{mark: n.mark(), doubt: true, value: s})
	at := len(ro.states) - 1
	w.mu.Unlock()
	a := w.ask(n, req)
	w.say("%s %s at node %d, %+v: %s", req.Operation, req.Path, n.n, s, a)
	w.mu.Lock()
	defer w.mu.Unlock()
	ro.busy = false
	switch {
	case a.ok():
		ro.states = append(ro.states, moment[roleState]{mark: a.mark(), value: s})
	case a.lost || a.err != nil:
		ro.unsure = true
		if !s.exists { // some of its tokens may be revoked already
			for _, g := range w.model.grants {
				if g.role == ro {
					g.doubtful = true
				}
			}
		}
	default: // refused: nothing has changed
		ro.states = slices.Delete(ro.states, at, at+1)
	}
}

// resolve finds out what has become of changes that were not acknowledged.
func (w *world) resolve() {
	if w.active == nil || w.zombie != nil {
		return
	}
	w.resolveConnection()
	w.mu.Lock()
	var unsure []*role
	for _, k := range kinds {
		if ro := w.model.roles[k.name]; ro != nil && ro.unsure && !ro.busy {
			unsure = append(unsure, ro)
		}
	}
	w.mu.Unlock()
	for _, ro := range unsure {
		a := w.ask(w.active, &logical.Request{Operation: logical.ReadOperation, Path: "roles/" + ro.name})
		if !a.ok() {
			continue
		}
		w.mu.Lock()
		s := roleState{life: ro.states.last().life}
		if d := a.data(); d != nil {
			s.exists = true
			s.scopes, _ = d["scopes"].([]string)
			s.allowed, _ = d["allowed_scopes"].([]string)
			s.limit, _ = d["max_tokens"].(int)
			if ro.upstream {
				s.scopes, s.allowed = []string{"a:read"}, allScopes
			}
		}
		w.checkStored(ro, s)
		ro.states = append(ro.states, moment[roleState]{mark: a.mark(), value: s})
		ro.unsure = false
		w.mu.Unlock()
		w.say("role %s was found to be %+v", ro.name, s)
	}
}

func (w *world) rotateKeys(*rand.Rand) {
	a := w.ask(w.active, &logical.Request{Operation: logical.UpdateOperation, Path: "keys/rotate"})
	w.say("keys/rotate at node %d: %s", w.active.n, a)
}

func (w *world) changeConfig(r *rand.Rand) {
	data := map[string]any{}
	switch r.IntN(4) {
	case 0, 1:
		data["token_prefix"] = []string{"apt", "two", "three_x"}[r.IntN(3)]
	case 2:
		data["signing_algorithm"] = []string{"ES256", "EdDSA"}[r.IntN(2)]
	case 3:
		data["key_rotation_period"] = 3600 * (1 + r.IntN(48))
	}
	a := w.ask(w.active, &logical.Request{Operation: logical.UpdateOperation, Path: "config", Data: data})
	w.say("config %v at node %d: %s", data, w.active.n, a)
}

func (w *world) changeEntity(r *rand.Rand) {
	id := entities[1+r.IntN(len(entities)-1)]
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entitiesMu.Lock()
	defer w.entitiesMu.Unlock()
	if _, off := w.disabled[id]; off {
		delete(w.disabled, id)
		w.recentlyDisabled[id] = time.Now()
		w.say("entity %s is enabled", short(id))
	} else if r.IntN(3) == 0 {
		w.disabled[id] = time.Now()
		w.say("entity %s is disabled", short(id))
		for _, g := range w.model.grants { // whose tokens the engine revokes by itself
			if g.subject == id {
				g.mayBeSwept()
			}
		}
		for _, ro := range w.model.roles {
			w.doubtShared(ro, func(entity string) bool { return entity == id })
		}
	}
}

// look reads what can be read; what the answers say is checked.
func (w *world) look(r *rand.Rand) {
	n := w.active
	if w.standby != nil && r.IntN(2) == 0 {
		n = w.standby
	}
	switch r.IntN(6) {
	case 0:
		w.checkList(n, map[string]any{"limit": 1 + r.IntN(50)})
	case 1:
		w.ask(n, &logical.Request{Operation: logical.ListOperation, Path: "keys"})
	case 2:
		w.ask(n, &logical.Request{Operation: logical.ReadOperation, Path: "oauth/jwks"})
	case 3:
		w.ask(n, &logical.Request{Operation: logical.ReadOperation, Path: "config"})
	case 4:
		if w.upstream {
			w.ask(n, &logical.Request{Operation: logical.ReadOperation, Path: "connections/service"})
		}
	case 5:
		w.mu.Lock()
		g := pick(r, w.model.grants)
		w.mu.Unlock()
		if g != nil {
			w.checkLookup(n, g)
		}
	}
}
