package simulation

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// freed is how long after its revocation or end a token may still take a place below max_tokens: a second, by the
// second.
const freed = 2 * time.Second

// flushed is after how long the row of a token is in storage, where storage refuses nothing.
const flushed = 2 * time.Second

// asking is a request for creds while it is on its way.
type asking struct {
	subject string
	at      time.Time
	before  []roleState // of its role, as the node may know it
	flying  int         // others that were on their way
	earlier int         // requests for creds of the role until then
}

// asks notes that creds of a role are asked for. The caller holds mu.
func (ro *role) asks(n *node, subject string) *asking {
	as := &asking{subject, time.Now(), ro.states.possible(n), ro.flying, ro.begun + 1}
	ro.flying++
	ro.begun++
	return as
}

// limitOf gives the least and the most max_tokens that a role may have had; 0: there may have been none.
func limitOf(states []roleState) (least, most int) {
	for _, s := range states {
		switch {
		case s.limit == 0:
			most = -1
		case least == 0 || s.limit < least:
			least = s.limit
		}
		if most >= 0 {
			most = max(most, s.limit)
		}
	}
	return least, max(most, 0)
}

// answered holds the answer of creds against the max_tokens of the role: invariants 1 and 4. g is nil where no token
// was given. The caller holds mu.
func (w *world) answered(ro *role, as *asking, g *grant, a *answer) {
	ro.flying--
	n := a.node
	if g == nil && ro.shared && (a.lost || a.err != nil) {
		ro.unknown = append(ro.unknown, unknownHold{as.subject, as.at, time.Now()})
	}
	w.doubtShared(ro, w.everDisabled)
	states := slices.Concat(as.before, ro.states.possible(n))
	least, most := limitOf(states)
	switch {
	case a.lost, a.err != nil && ro.shared: // there may be a token that nobody has, until it ends
		ro.lost = append(ro.lost, time.Now().Add(ro.ttl+reuse+w.spread()+freed))
	case g != nil:
		// A shared token that is given again takes no place. If a crash lost its row, others may take the place meanwhile.
		made := !ro.shared || w.service.madeSince(g.upstream.text, a.began)
		g.limited = most > 0 && made
		w.fresh = append(w.fresh, g)
		g.faults = w.faults.Load()
		for _, s := range states {
			if !s.exists || s.life != g.life {
				return
			}
		}
		if ro.shared && as.flying > 0 || !made {
			return // it may be a token that was made for somebody else, perhaps for one who never got it
		}
		if live := w.surelyCounted(ro, n, a.began, g); most > 0 && live > most {
			w.broken(1, "creds of %s gives grant %d at node %d: %d tokens are alive, and max_tokens is %d", ro.name, g.n, n.n, live, most)
		}
	case strings.HasPrefix(a.refused, "max_tokens:"):
		if ro.static && !n.alone {
			return // another node may have ended a token of the static role, and taken it from the static role
		}
		live := as.flying + ro.begun - as.earlier + w.maybeCounted(ro, n, as, states)
		if least == 0 || live < least {
			w.broken(4, "creds of %s at node %d: at most %d tokens are alive or being made, and max_tokens is %d: %s", ro.name, n.n, live, least, a.refused)
		}
	}
}

// surelyCounted counts the tokens of a role that are alive, and that a node knows of: that it has issued, or that were
// in storage when it was started. One whose answer came after the request began counts if it took a place.
func (w *world) surelyCounted(ro *role, n *node, began uint64, made *grant) int {
	count := 0
	counted := make(map[*upstreamToken]bool)
	for _, g := range w.model.grants {
		given := g.ends[0].mark
		known := given.by == n || g.stored != 0 && g.stored <= n.loaded
		if g.role != ro || g.life != made.life || !known || given.seq >= began && !g.limited {
			continue
		}
		if g.doubtful || g.revoked.seq != 0 || !n.now().Before(g.period(n).lo) || w.everDisabled(g.subject) {
			continue
		}
		if u := g.upstream; u != nil {
			// A node whose clock is ahead may have ended it before, and who deletes its connection by force leaves it.
			if u.doubtful || u.revoked.seq != 0 || counted[u] || w.disowned(u, w.stamp()) || !time.Now().Add(slices.Max(w.skews)).Before(g.period(n).lo) {
				continue
			}
			counted[u] = true
		}
		if !slices.ContainsFunc(slices.Concat(g.tokens, g.refreshes), func(tok *issued) bool { return w.keyMayBeGone(tok.text) }) {
			count++
		}
	}
	return count
}

// maybeCounted counts the tokens of a role that may have been alive shortly before they were counted for a request.
func (w *world) maybeCounted(ro *role, n *node, as *asking, states []roleState) int {
	before := as.at.Add(-freed)
	over := func(m mark) bool { return m.seq != 0 && m.at.Before(before) && n.knows(m.seq, m.by) }
	ro.lost = slices.DeleteFunc(ro.lost, func(end time.Time) bool { return end.Before(as.at) })
	count := len(ro.lost)
	counted := make(map[*upstreamToken]bool)
	for _, g := range w.model.grants {
		sameLife := func(s roleState) bool { return g.life == 0 || s.life == g.life }
		if g.role != ro || !slices.ContainsFunc(states, sameLife) {
			continue
		}
		last := g.period(n).hi
		gone := over(g.revoked)
		if u := g.upstream; u != nil {
			if counted[u] {
				continue
			}
			counted[u] = true
			for _, other := range u.grants { // of a shared token
				last = maxTime(last, other.period(n).hi)
				gone = gone && over(other.revoked)
			}
			if ro.shared {
				last = last.Add(reuse)
			}
			gone = gone || over(u.revoked)
		}
		if !gone && before.Add(n.skew).Before(last) {
			count++
		}
	}
	return count
}

// noteStored notes which tokens have their rows in storage by now: those that were issued a while ago by a node that is
// active still, while storage has refused nothing. The caller holds mu.
func (w *world) noteStored() {
	w.fresh = slices.DeleteFunc(w.fresh, func(g *grant) bool {
		given := g.ends[0].mark
		if !w.leads(given.by) || w.faults.Load() != g.faults {
			return true
		}
		if time.Since(given.at) < flushed {
			return false
		}
		g.stored = w.stamp()
		return true
	})
}

// crowd has more clients at once ask for tokens of a role than it may have.
func (w *world) crowd(r *rand.Rand) {
	n := w.active
	ro := w.someRole(r)
	if ro == nil || !ro.mayLimit() {
		return
	}
	s := ro.states.last()
	if !s.exists {
		return
	}
	if s.limit == 0 {
		s.limit = 1 + r.IntN(4)
		w.writeRole(n, ro, s)
	}
	w.say("a crowd:")
	w.atOnce(r, 1+r.IntN(s.limit+2), func(_ int, r *rand.Rand) { w.issueFrom(n, ro.name, entities[r.IntN(len(entities))], r) })
	w.say("done.")
}

// mayLimit reports whether roles of a kind can have max_tokens.
func (k *kind) mayLimit() bool { return k.upstream || !k.leaseless }
