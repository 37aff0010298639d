package simulation

import (
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
	from := []string(nil)
	if r != nil && !ro.upstream && !ro.static {
		from = askedRegions(r, before[len(before)-1].regions)
	}
	if from != nil {
		if data == nil {
			data = make(map[string]any)
		}
		data["bound_regions"] = regionsField(from)
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
		g = w.registered(ro, before, subject, narrowing{asked, from}, earliest, req.Path, a)
		g.lease.belong(parent, n.now())
	} else {
		w.say("issue %s at node %d for %s: %s", name, n.n, short(subject), a)
	}
	w.answered(ro, as, g, a)
	return g
}

// narrowing is what a request for creds asks for; nil: what the role has.
type narrowing struct{ scopes, regions []string }

// registered notes what an answer of creds gives. The caller holds mu.
func (w *world) registered(ro *role, before []roleState, subject string, asked narrowing, earliest time.Time, path string, a *answer) *grant {
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
	if !w.leads(n) { // it may know of an earlier life of the role
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
	from := regionsOf(d)
	g.scopes, g.reach = scopes, reach{from, from}
	allowed := func(s roleState) bool {
		return within(scopes, s.allowed) && (asked.scopes == nil || within(scopes, asked.scopes)) &&
			within(from, s.regions) && (asked.regions == nil || within(from, asked.regions))
	}
	if !slices.ContainsFunc(before, allowed) && !slices.ContainsFunc(ro.states.possible(n), allowed) {
		w.broken(1, "creds of %s grants %q from %q, more than was asked for (%q), or more than the role allows", ro.name, scopes, from, asked)
	}
	tok := w.token(g, m, text, id, scopes, g.reach, end)
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
func (w *world) token(g *grant, m mark, text, id string, scopes []string, from reach, end time.Time) *issued {
	tok := &issued{mark: m, grant: g, text: text, id: id, scopes: scopes, reach: from, end: end}
	g.tokens = append(g.tokens, tok)
	w.model.tokens = append(w.model.tokens, tok)
	w.inspect(tok)
	return tok
}

// refreshToken notes a refresh token. The caller holds mu.
func (w *world) refreshToken(g *grant, m mark, text string) *issued {
	tok := &issued{mark: m, grant: g, text: text, reach: g.reach, refresh: true}
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
			increment = time.Duration(10+r.IntN([]int{60, 1200}[r.IntN(2)])) * time.Second // the former may shorten the lease
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
	if g.suspended.binding(n, a.began, nil) != nil { // that of an entity stops a renewal only where the row of the token is known
		w.broken(2, "lease %d is renewed, although its grant was suspended", l.n)
	}
	ttl := a.resp.Secret.TTL
	g.ends = append(g.ends, moment[period]{mark: a.mark(), value: period{earliest.Add(ttl - time.Second), n.now().Add(ttl)}})
	if w.leases.alive(l) {
		w.leases.renewed(l, n, increment, a.resp.Secret)
		l.says = earliest.Add(ttl - 2*time.Second)
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
