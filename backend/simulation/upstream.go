package simulation

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func (w *world) serviceFails(r *rand.Rand) {
	w.service.trouble(r)
}

func (w *world) serviceHeals(*rand.Rand) {
	w.service.heal()
	w.say("the service is healed")
}

func (w *world) issueUpstream(r *rand.Rand) {
	w.issueFrom(w.active, []string{"upstream", "shared", "shared", "upstream-leaseless"}[r.IntN(4)], "", r)
}

func (w *world) rotateRoot(*rand.Rand) {
	a := w.ask(w.active, &logical.Request{Operation: logical.UpdateOperation, Path: "rotate-root/service"})
	w.say("rotate-root at node %d: %s", w.active.n, a)
}

// fly begins something at the active node that nobody waits for.
func (w *world) fly(r *rand.Rand) {
	n := w.active
	w.mu.Lock()
	l, g := pick(r, w.leases.live), pick(r, w.model.grants)
	w.mu.Unlock()
	own := rand.New(rand.NewPCG(r.Uint64(), 4))
	var do func()
	switch choice := r.IntN(4); {
	case choice == 1 && l != nil:
		do = func() { w.renew(n, l, 0) }
	case choice == 2 && l != nil:
		do = func() { w.revokeLease(n, l) }
	case choice == 3 && g != nil:
		do = func() { w.revokeGrant(n, g, own.IntN(doors), own) }
	default:
		name := []string{"upstream", "shared", "upstream-leaseless"}[r.IntN(3)]
		do = func() { w.issueFrom(n, name, "", own) }
	}
	w.say("in flight:")
	w.flying.Go(do)
}

// changeStatic makes, changes, rotates or deletes a static role.
func (w *world) changeStatic(r *rand.Rand) {
	n := w.active
	name, role := "kept", "kept"
	if w.upstream && r.IntN(2) == 0 {
		name, role = "upstream-kept", "upstream-kept"
		// The engine holds the lock of a static role while it asks the service, and in a bubble no time passes
		// while somebody waits for a lock. So nothing that takes time is going on there now.
		w.service.heal()
		w.calm.Store(true)
		time.Sleep(time.Minute)
		w.calm.Store(false)
		if w.active.dead() {
			return
		}
	}
	s := w.model.statics[name]
	if s == nil {
		s = &static{name: name, role: role}
		w.model.statics[name] = s
	}
	var a *answer
	switch {
	case !s.exists || r.IntN(5) == 0:
		s.period, s.overlap = time.Duration(1+r.IntN(30))*time.Minute, time.Duration(r.IntN(60))*time.Second
		a = w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "static-roles/" + name, Data: map[string]any{
			"role": role, "rotation_period": int(s.period.Seconds()), "overlap": int(s.overlap.Seconds()),
		}})
		if a.ok() {
			s.exists = true
		} else if a.refused == "" {
			s.exists, s.unsure = true, true
		}
	case r.IntN(4) == 0:
		a = w.deleteStatic(n, s)
	case r.IntN(3) == 0:
		a = w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "rotate-role/" + name})
	default:
		a = w.ask(n, &logical.Request{Operation: logical.ReadOperation, Path: "static-creds/" + name})
		w.checkStatic(s, a)
	}
	w.say("static role %s at node %d: %s", name, n.n, a)
}

func (w *world) deleteStatic(n *node, s *static) *answer {
	a := w.ask(n, &logical.Request{Operation: logical.DeleteOperation, Path: "static-roles/" + s.name})
	if a.ok() {
		s.exists = false
	}
	return a
}

// checkStatic checks the answer of static-creds.
func (w *world) checkStatic(s *static, a *answer) {
	text, _ := a.data()["token"].(string)
	if !a.ok() || text == "" {
		return
	}
	w.secrets.add(text)
	if s.name == "kept" {
		w.mu.Lock()
		if nonce, ok := header(text); ok {
			w.model.sealed[nonce] = text
		}
		w.mu.Unlock()
	}
}

// atRest lets the world come to rest: nothing goes wrong any more, the leases are renewed, and what is queued is done.
// Then everything must be as the model has it: invariants 1 to 4.
func (w *world) atRest() {
	w.calm.Store(true)
	w.say("at rest from here")
	w.flying.Wait()
	if w.service != nil {
		w.service.heal()
	}
	if w.pager != nil {
		w.pager.heal()
	}
	r := rand.New(rand.NewPCG(1, 1))
	if w.zombie != nil {
		w.stop(w.zombie)
		w.zombie = nil
	}
	if w.active != nil && !w.active.dead() {
		w.active.storage.schedule(plan{})
	}
	for range 18 { // minutes: what a replaced node has changed is known within 15
		w.afterStep(r)
		if w.failed.Load() != nil {
			return
		}
		if w.upstream && w.model.connection.current() == nil {
			w.connect(w.active, serviceHost, nil)
		}
		w.advance(time.Minute)
		for _, l := range append([]*lease(nil), w.leases.live...) {
			if l.n%3 != 0 {
				w.renew(w.active, l, 0)
			}
		}
	}
	w.afterStep(r)
	if w.failed.Load() != nil {
		return
	}
	w.checkAll(w.active)
	w.checkAlerts()
	if w.standby != nil {
		for w.standby.deliver(r.IntN) {
		}
		w.checkAll(w.standby)
	}
	if w.service != nil && w.failed.Load() == nil {
		time.Sleep(2 * time.Second) // for what the last minute has given the queue to do
		w.expire()
		synctest.Wait()
		w.checkService()
	}
}

// checkService holds what exists at the service against what holds it: invariant 3.
func (w *world) checkService() {
	n := w.active
	kept := ""
	if s := w.model.statics["upstream-kept"]; s != nil {
		a := w.ask(n, &logical.Request{Operation: logical.ReadOperation, Path: "static-creds/upstream-kept"})
		if a.ok() && a.data() != nil {
			kept, _ = a.data()["token"].(string)
			if !w.service.alive(kept) && !w.disownedText(kept) {
				w.broken(3, "the token of static role %s does not work at the service", s.name)
			}
		}
	}
	held := make(map[string]bool)
	for _, u := range w.model.upstreams {
		held[u.text] = w.checkHeld(n, u) && u.revoked.seq == 0
		if g := u.grants[0]; !g.role.shared && w.disabledFor(g.subject) > 5*time.Minute && w.service.alive(u.text) && !w.disownedText(u.text) {
			w.broken(3, "token %s works at the service, and the entity that asked for it has long been disabled", u.text)
		}
	}
	for _, t := range w.service.live(false) {
		previous := strings.Contains(t.name, "-upstream-kept-") && kept != ""
		if !held[t.text] && t.text != kept && !previous && !w.mayBeLeft(t) {
			w.broken(3, "token %s %q is left behind at the service, and nothing holds it", t.text, t.name)
		}
	}
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "connections/service/check"})
	if !a.ok() {
		w.broken(3, "the credential that the engine has stored does not work: %s", a)
	}
	life := w.model.connection.current()
	roots := slices.DeleteFunc(w.service.live(true), func(t *serviceToken) bool { return !t.lives[life] })
	if len(roots) != 1 {
		names := make([]string, len(roots))
		for i, t := range roots {
			names[i] = t.text
		}
		w.broken(3, "the service has %d credentials of ours: %q", len(roots), names)
	}
	w.checkQueue(n, life)
	w.checkReconciled(n, life)
}

// checkHeld reports whether a grant holds a token. The token of a live lease must work at the service.
func (w *world) checkHeld(n *node, u *upstreamToken) (held bool) {
	for _, g := range u.grants {
		if g.lease == nil {
			held = held || n.now().Before(g.ends.last().hi.Add(time.Minute))
			continue
		}
		if !w.leases.alive(g.lease) || !n.now().Before(g.lease.expires) {
			continue
		}
		held = true
		surely, _ := w.roleAlive(n, g)
		if !w.service.alive(u.text) && u.revoked.seq == 0 && !u.doubtful && !g.doubtful && surely && !w.disownedText(u.text) {
			w.broken(3, "token %s of lease %d does not work at the service", u.text, g.lease.n)
		}
	}
	return held
}

// mayRemain are the keys that storage may hold when all tokens have ended. Findings of misuse remain for 90 days.
var mayRemain = []string{"config", "keys/", "role/", "provider/", "connection/", "static-role/", "ledger/writers/", "ledger/status/", "ledger/inventory/", "ledger/suspensions/", "usage/",
	"watch/", "detect/finding/", "detect/settings", "alert/entry/"}

// atTheEnd has all tokens end: storage must be small again (invariant 6).
func (w *world) atTheEnd() {
	if w.endless {
		return
	}
	for name := range w.model.statics {
		w.ask(w.active, &logical.Request{Operation: logical.DeleteOperation, Path: "static-roles/" + name})
	}
	// What a node that was replaced has written at last, only the next one knows. A node that is new also has less to
	// do while a long time passes.
	for _, d := range []time.Duration{5 * time.Minute, 8 * time.Hour, 34 * time.Hour, 72 * time.Hour} {
		w.failOver(nil)
		w.takeOver(plan{})
		w.advance(d)
		if w.failed.Load() != nil {
			return
		}
		w.expire()
		w.tick()
	}
	w.failOver(nil)
	w.takeOver(plan{})
	w.tick()
	counts := make(map[string]int)
	for _, key := range w.disk.keys() {
		known := false
		for _, prefix := range mayRemain {
			if strings.HasPrefix(key, prefix) {
				known = true
				counts[prefix]++
			}
		}
		if !known {
			w.broken(6, "%s is left in storage after all tokens have ended", key)
		}
	}
	if counts["ledger/suspensions/"] > 2*(len(entities)-1) || counts["ledger/inventory/"] > 4 || counts["usage/"] > 4 || counts["ledger/status/"] > 24 || counts["ledger/writers/"] > 24 {
		w.broken(6, "storage holds %v after all tokens have ended", counts)
	}
}
