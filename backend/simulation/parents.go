package simulation

import (
	"math/rand/v2"
	"time"
)

// parent is a token of Vault by which a client asks for creds: when the parent dies, so do its leases.
type parent struct {
	n       int
	subject string
	expires time.Time
	dead    bool
}

// someParent gives a live parent of an entity, an old one or a new one; r nil: none, as of a root token.
func (ls *leases) someParent(r *rand.Rand, subject string, now time.Time) *parent {
	if r == nil {
		return nil
	}
	var living []*parent
	for _, p := range ls.parents {
		if !p.dead && p.subject == subject && now.Before(p.expires) {
			living = append(living, p)
		}
	}
	if len(living) > 0 && r.IntN(4) > 0 {
		return pick(r, living)
	}
	p := &parent{n: len(ls.parents) + 1, subject: subject, expires: now.Add(time.Duration(30+r.IntN(3600)) * time.Second)}
	ls.parents = append(ls.parents, p)
	return p
}

// belong notes the parent of a lease. A parent that has died while the answer was on its way takes the lease along.
func (l *lease) belong(p *parent, now time.Time) {
	if l == nil || p == nil {
		return
	}
	l.parent = p
	if p.dead {
		l.expires = now
	}
}

// die has Vault revoke the leases of a parent from now on: each has its six tries.
func (ls *leases) die(p *parent, now time.Time) {
	p.dead = true
	count := 0
	for _, l := range ls.live {
		if l.parent == p && l.expires.After(now) {
			l.expires = now
			count++
		}
	}
	ls.world.say("parent %d dies, and %d leases with it", p.n, count)
}

// expireParents has the parents die that are over; at rest nobody dies.
func (ls *leases) expireParents(now time.Time) {
	if ls.world.quiet() {
		return
	}
	for _, p := range ls.parents {
		if !p.dead && !now.Before(p.expires) {
			ls.die(p, now)
		}
	}
}

// revokeParent has a client revoke its own token, or somebody else do so.
func (w *world) revokeParent(r *rand.Rand) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := pick(r, w.leases.parents); p != nil && !p.dead {
		w.leases.die(p, w.active.now())
	}
}
