package simulation

import (
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// leases is Vault's expiration manager. It survives every crash; its clock is that of the active node.
type leases struct {
	world   *world
	live    []*lease
	parents []*parent
}

// lease is one lease, as Vault keeps it.
type lease struct {
	n       int
	grant   *grant
	parent  *parent // nil: none that dies
	path    string
	secret  logical.Secret // InternalData as JSON gives it back
	issued  time.Time
	expires time.Time
	says    time.Time // when it ends at the earliest, by its internal data; zero: it was not renewed
	tries   int       // to revoke it that have failed
	next    time.Time // when it is tried again; zero: it is not being revoked
}

const (
	revokeTries = 6
	firstPause  = 10 * time.Second
)

// register is what Vault does with an answer that has a lease, once it has arrived.
func (ls *leases) register(g *grant, path string, secret *logical.Secret, now time.Time) *lease {
	l := &lease{n: g.n, grant: g, path: path, secret: *secret, issued: now, expires: now.Add(secret.TTL)}
	l.secret.InternalData = roundTrip(secret.InternalData)
	ls.live = append(ls.live, l)
	return l
}

func roundTrip(data map[string]any) map[string]any {
	encoded, err := json.Marshal(data)
	if err != nil {
		panic(err)
	}
	var back map[string]any
	if err := json.Unmarshal(encoded, &back); err != nil {
		panic(err)
	}
	return back
}

// request makes the lease part of a request to the active node, whose clock it speaks of.
func (l *lease) request(n *node, operation logical.Operation, increment time.Duration) *logical.Request {
	secret := l.secret
	secret.InternalData = roundTrip(l.secret.InternalData)
	secret.IssueTime = l.issued.Add(-n.skew) // the SDK asks the real clock
	secret.Increment = increment
	return &logical.Request{Operation: operation, Path: l.path, Secret: &secret}
}

// renewed is what Vault does with the answer to a renewal.
func (ls *leases) renewed(l *lease, n *node, increment time.Duration, secret *logical.Secret) {
	ttl, _, err := framework.CalculateTTL(n.system, increment, secret.TTL, 0, secret.MaxTTL, 0, l.issued.Add(-n.skew))
	if err != nil {
		return
	}
	l.expires = n.now().Add(ttl)
	l.secret = *secret
	l.secret.TTL = ttl
	l.secret.InternalData = roundTrip(secret.InternalData)
}

// drop forgets a lease that has been revoked.
func (ls *leases) drop(l *lease) {
	for i, other := range ls.live {
		if other == l {
			ls.live = append(ls.live[:i:i], ls.live[i+1:]...)
			return
		}
	}
}

func (ls *leases) alive(l *lease) bool {
	for _, other := range ls.live {
		if other == l {
			return true
		}
	}
	return false
}

// due gives the leases whose revocation is due.
func (ls *leases) due(now time.Time) []*lease {
	var due []*lease
	for _, l := range ls.live {
		if l.tries < revokeTries && !now.Before(l.expires) && !now.Before(l.next) {
			due = append(due, l)
		}
	}
	return due
}

// failed notes a try to revoke that did not succeed.
func (l *lease) failed(now time.Time) {
	l.next = now.Add(firstPause << l.tries)
	l.tries++
}

// restored is what a node does that becomes active: it begins to count anew.
func (ls *leases) restored() {
	for _, l := range ls.live {
		l.tries, l.next = 0, time.Time{}
	}
}

// tick is the periodic function.
func (w *world) tick() {
	if w.active.dead() {
		return
	}
	if a := w.ask(w.active, &logical.Request{Operation: logical.RollbackOperation}); !a.ok() {
		w.say("periodic at node %d: %s", w.active.n, a)
	}
}

func (w *world) periodic(*rand.Rand) { w.tick() }
