package main

import (
	"fmt"
	"net/netip"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// attack is an attack, or a fault that an operator has to mend, with what the rules found.
type attack struct {
	kind        string
	tokens      map[token.ID]bool
	addresses   map[netip.Addr]bool
	from, until int64
	found       map[detect.Rule]bool
}

// scenario is a kind of attack. The truth is the scenario, whatever the thresholds are: rules are the rules that promise to
// find such an attack.
type scenario struct {
	kind  string
	rules []detect.Rule
	do    func(*world, *attack) bool // begins the attack; false: there was no victim
}

var places = []detect.Rule{detect.ImpossibleTravel, detect.NewNetwork, detect.SeveralNetworks}

var scenarios = []scenario{
	{"stolen, used in another country", append([]detect.Rule{detect.NewRegion}, places...), func(w *world, a *attack) bool {
		return w.theft(a, func(t *issued) netip.Addr {
			to := w.net.cityWhere(func(c *city) bool { return c.country != cities[t.city].country })
			return w.net.address(w.net.provider(cities[to].country), to)
		})
	}},
	{"stolen, used in another city", places, func(w *world, a *attack) bool {
		return w.theft(a, func(t *issued) netip.Addr {
			country := cities[t.city].country
			to := w.net.cityOf(country)
			for range 20 {
				if to == t.city {
					to = w.net.cityOf(country)
				}
			}
			return w.net.address(w.net.provider(country), to)
		})
	}},
	{"stolen, used in the same city", places[1:], func(w *world, a *attack) bool {
		return w.theft(a, func(t *issued) netip.Addr { return w.net.address(w.net.provider(cities[t.city].country), t.city) })
	}},
	{"stolen, used from a cloud or VPN", places[1:], func(w *world, a *attack) bool {
		return w.theft(a, func(*issued) netip.Addr {
			hosts := append(append([]*network{}, w.net.clouds...), w.net.vpns...)
			return w.net.address(hosts[w.rand.IntN(len(hosts))], w.net.cityWhere(anywhere))
		})
	}},
	{"shared among many", []detect.Rule{detect.Shared, detect.SeveralNetworks}, (*world).sharing},
	{"dormant token used", []detect.Rule{detect.DormantAwake}, (*world).awakening},
	{"mass download", []detect.Rule{detect.Surge}, (*world).download},
	{"probing what a token may do", []detect.Rule{detect.RefusedBurst}, (*world).probing},
	{"stuffing from one address", []detect.Rule{detect.Guessing}, (*world).stuffing},
	{"spraying from one address", []detect.Rule{detect.Guessing}, (*world).spraying},
	{"guessing, one try in three minutes", []detect.Rule{detect.Guessing}, (*world).slowGuessing},
	{"guessing from 50 addresses", []detect.Rule{detect.Guessing}, (*world).spreadGuessing},
	{"revoked token shown by a thief", []detect.Rule{detect.UsedAfterEnd}, (*world).afterEnd},
	{"client to mend: goes on with a dead token", []detect.Rule{detect.UsedAfterEnd}, (*world).lingering},
	{"refresh token used twice", []detect.Rule{detect.RefreshReuse}, (*world).reuse},
	{"bound token without proof", []detect.Rule{detect.ProofFailed}, (*world).unproven},
	{"client to mend: token of another environment", []detect.Rule{detect.WrongEnvironment}, (*world).strayed},
}

// plan has each scenario happen some times, at random times after the first week.
func (w *world) plan() {
	for _, s := range scenarios {
		for range w.each {
			w.at(begin+7*day+int64(w.rand.Float64()*float64(w.until-begin-9*day)), func() {
				a := &attack{
					kind: s.kind, tokens: make(map[token.ID]bool), addresses: make(map[netip.Addr]bool), from: w.now, until: w.now,
					found: make(map[detect.Rule]bool),
				}
				if s.do(w, a) {
					w.attacks = append(w.attacks, a)
					w.at(a.until+7*hour, func() { w.look(a) }) // a report may be six hours late
				}
			})
		}
	}
}

// victim returns a live token that was not attacked; nil if there is none.
func (w *world) victim(is func(*issued) bool) *issued {
	for range 300 {
		if len(w.live) == 0 {
			return nil
		}
		t := w.live[w.rand.IntN(len(w.live))]
		if t.alive(w.now) && w.now-t.holder.IssuedAt.Unix() > 10*minute && !w.attacked(t) && is(t) {
			return t
		}
	}
	return nil
}

func (w *world) attacked(t *issued) bool {
	for _, a := range w.attacks {
		if a.tokens[t.id] {
			return true
		}
	}
	return false
}

// inUse reports whether a token has an active holder for at least another half an hour.
func (w *world) inUse(t *issued) bool {
	return t.kind != "job" && t.kind != "dormant" && t.ends-w.now > 30*minute
}

// spread has a thief use a token some times, within ten minutes to eight hours.
func (w *world) spread(a *attack, t *issued, n int, from func() netip.Addr) {
	a.tokens[t.id] = true
	takes := min(w.lasting(10*minute, 8*hour), t.ends-w.now-1)
	a.until = w.now + takes
	for range n {
		w.in(int64(w.rand.Float64()*float64(takes)), func() { w.use(t, 1, from()) })
	}
}

// theft has a thief use the token of another while the holder goes on.
func (w *world) theft(a *attack, where func(*issued) netip.Addr) bool {
	t := w.victim(w.inUse)
	if t == nil {
		return false
	}
	from := where(t)
	w.spread(a, t, int(w.lasting(5, 300)), func() netip.Addr { return from })
	return true
}

// sharing has eight to thirty people use a token, each at home.
func (w *world) sharing(a *attack) bool {
	t := w.victim(w.inUse)
	if t == nil {
		return false
	}
	var homes []netip.Addr
	country := cities[t.city].country
	for range w.between(8, 30) {
		homes = append(homes, w.net.address(w.net.provider(country), w.net.cityOf(country)))
	}
	w.spread(a, t, len(homes)*w.between(1, 10), func() netip.Addr { return homes[w.rand.IntN(len(homes))] })
	return true
}

// prepareDormant has tokens used once, before they lie unused until an attack.
func (w *world) prepareDormant() {
	for i := range w.each + w.clients/200 {
		w.at(begin-w.lasting(20*day, 140*day), func() {
			t := w.issue("dormant", fmt.Sprintf("left-%d", i), 400*day, w.net.cityWhere(anywhere), w.server())
			w.use(t, 1, w.net.address(w.net.provider(cities[t.city].country), t.city))
		})
	}
}

func (w *world) awakening(a *attack) bool {
	t := w.victim(func(t *issued) bool { return t.kind == "dormant" })
	if t == nil {
		return false
	}
	from := w.net.address(w.net.provider(cities[t.city].country), t.city)
	w.spread(a, t, w.between(3, 50), func() netip.Addr { return from })
	return true
}

// download has a thief use a token five to two hundred times as often as its holder, for five minutes to an hour.
func (w *world) download(a *attack) bool {
	t := w.victim(w.inUse)
	if t == nil {
		return false
	}
	from := w.net.address(w.net.clouds[w.rand.IntN(3)], w.net.cityWhere(anywhere))
	rate := min(max(t.rate*float64(w.lasting(5, 200)), 20), 3000)
	minutes := w.between(5, 60)
	a.tokens[t.id], a.until = true, w.now+int64(minutes)*minute
	for i := range minutes {
		w.in(int64(i)*minute, func() { w.use(t, w.poisson(rate), from) })
	}
	return true
}

// tries has something happen n times, with the same mean pause.
func (w *world) tries(a *attack, n int, pause int64, do func(i int)) {
	at := w.now
	for i := range n {
		at += w.about(pause)
		w.at(at, func() { do(i) })
	}
	a.until = max(a.until, at)
}

// probing has a thief try 15 to 300 requests that the token does not allow, with pauses of one to thirty seconds.
func (w *world) probing(a *attack) bool {
	t := w.victim(w.inUse)
	if t == nil {
		return false
	}
	a.tokens[t.id] = true
	from := w.net.address(w.net.vpns[w.rand.IntN(3)], w.net.cityWhere(anywhere))
	w.tries(a, int(w.lasting(15, 300)), w.lasting(1, 30), func(int) { w.refuse(t, access.InsufficientScope, 1, from) })
	return true
}

// guess shows n unknown tokens from an address.
func (w *world) guess(a *attack, n int, pause int64) {
	from := w.net.address(w.net.clouds[w.rand.IntN(3)], w.net.cityWhere(anywhere))
	server, first := w.server(), uint32(w.rand.IntN(1<<30))
	a.addresses[from] = true
	w.tries(a, n, pause, func(i int) { w.unknown(server, from, first+uint32(i)) })
}

func (w *world) stuffing(a *attack) bool {
	w.guess(a, int(w.lasting(30, 500)), w.lasting(1, 30))
	return true
}

func (w *world) slowGuessing(a *attack) bool {
	w.guess(a, 300, 3*minute)
	return true
}

func (w *world) spreadGuessing(a *attack) bool {
	for range 50 {
		w.guess(a, 10, 6*minute)
	}
	return true
}

// spraying has a thief with five to twenty tokens try each two to six times, in places that the tokens are not good for.
func (w *world) spraying(a *attack) bool {
	from := w.net.address(w.net.vpns[w.rand.IntN(3)], w.net.cityWhere(anywhere))
	a.addresses[from] = true
	var stolen []*issued
	for range w.between(5, 20) {
		if t := w.victim(func(t *issued) bool { return !a.tokens[t.id] }); t != nil {
			a.tokens[t.id] = true
			stolen = append(stolen, t)
		}
	}
	if len(stolen) == 0 {
		return false
	}
	w.tries(a, len(stolen)*w.between(2, 6), w.lasting(5, 60), func(i int) {
		w.refuse(stolen[i%len(stolen)], access.HostNotAllowed, 1, from)
	})
	return true
}

// afterEnd has an operator revoke a stolen token, and the thief try again later.
func (w *world) afterEnd(a *attack) bool {
	t := w.victim(w.inUse)
	if t == nil {
		return false
	}
	a.tokens[t.id] = true
	t.revoked = true
	from := w.net.address(w.net.vpns[w.rand.IntN(3)], w.net.cityWhere(anywhere))
	w.tries(a, w.between(1, 20), w.lasting(minute, 2*hour), func(int) { w.use(t, 1, from) })
	return true
}

// lingering has a client not notice that its token was revoked, for half an hour to a day.
func (w *world) lingering(a *attack) bool {
	t := w.victim(w.inUse)
	if t == nil {
		return false
	}
	a.tokens[t.id] = true
	t.revoked = true
	from := w.net.address(w.net.provider(cities[t.city].country), t.city)
	w.tries(a, int(w.lasting(30, 24*60)), minute, func(int) { w.use(t, 1, from) })
	return true
}

func (w *world) reuse(a *attack) bool {
	t := w.victim(func(t *issued) bool { return t.kind == "mobile" })
	if t == nil {
		return false
	}
	a.tokens[t.id] = true
	w.refreshReused(t, w.net.address(w.net.vpns[0], w.net.cityWhere(anywhere)))
	return true
}

func (w *world) unproven(a *attack) bool {
	t := w.victim(w.inUse)
	if t == nil {
		return false
	}
	a.tokens[t.id] = true
	from := w.net.address(w.net.vpns[w.rand.IntN(3)], w.net.cityWhere(anywhere))
	reason := []access.Reason{"proof_required", "proof_invalid", "proof_replayed"}[w.rand.IntN(3)]
	w.tries(a, w.between(1, 20), minute, func(int) { w.refuse(t, reason, 1, from) })
	return true
}

// strayed has a client show the token of another environment. Introspection can tell.
func (w *world) strayed(a *attack) bool {
	from := w.net.address(w.net.clouds[w.rand.IntN(3)], w.net.cityWhere(anywhere))
	a.addresses[from] = true
	w.tries(a, w.between(1, 100), minute, func(int) { w.foreign(from) })
	return true
}
