package simulation

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// reconcile has an operator compare the tokens at the service with those of the engine. Sometimes somebody has made a token
// without the engine.
func (w *world) reconcile(r *rand.Rand) {
	life := w.model.connection.current()
	if life == nil {
		return
	}
	if r.IntN(3) == 0 {
		w.service.plant(life.host)
	}
	a := w.ask(w.active, &logical.Request{Operation: logical.UpdateOperation, Path: "connections/service/reconcile"})
	w.say("reconciliation at node %d: %s", w.active.n, a)
	if a.ok() {
		w.checkFound(w.active)
	}
}

// found reads what reconciliations have found, by reason and ID at the service.
func (w *world) found(n *node) map[string]map[string]bool {
	a := w.ask(n, &logical.Request{
		Operation: logical.ReadOperation, Path: "report/orphans", Data: map[string]any{"kind": "upstream_token"},
	})
	if !a.ok() || a.data() == nil {
		return nil
	}
	found := map[string]map[string]bool{"unknown_here": {}, "gone_there": {}, "foreign": {}}
	items, _ := a.data()["items"].([]any)
	for _, one := range items {
		item, _ := one.(map[string]any)
		reasons, _ := item["reasons"].([]string)
		id, _ := item["upstream_id"].(string)
		if len(reasons) != 1 || found[reasons[0]] == nil || id == "" {
			w.broken(4, "a reconciliation reports %v", item)
			continue
		}
		found[reasons[0]][id] = true
	}
	return found
}

// checkFound holds what a reconciliation has found against what is true while things go on: what a lease holds is not
// unknown, and what exists is not gone.
func (w *world) checkFound(n *node) {
	for reason, ids := range w.found(n) {
		for id := range ids {
			t, exists := w.service.byID(id)
			switch {
			case reason == "gone_there" && exists:
				w.broken(4, "token %s %q is reported as gone, and exists", id, t.name)
			case reason == "unknown_here" && exists && w.leased(n, t.text):
				w.broken(4, "token %s %q is reported as unknown, and a lease holds it", id, t.name)
			}
		}
	}
}

// leased reports whether a lease of a connection that exists holds a token.
func (w *world) leased(n *node, text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.model.upstreams[text]
	if u == nil || u.revoked.seq != 0 || u.doubtful || w.disownedText(text) {
		return false
	}
	return slices.ContainsFunc(u.grants, func(g *grant) bool {
		return g.lease != nil && w.leases.alive(g.lease) && g.revoked.seq == 0 && !g.doubtful && n.now().Before(g.lease.expires)
	})
}

// checkReconciled reconciles at rest. Nothing of ours is unknown or gone, but for what a connection has left behind that was
// deleted by force; what somebody has planted is foreign; and nothing has changed.
func (w *world) checkReconciled(n *node, life *connectionLife) {
	planted := w.service.plant(life.host)
	before, began := w.service.all(), time.Now()
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "connections/service/reconcile"})
	if !a.ok() || a.data()["state"] != "done" {
		w.broken(4, "at rest the tokens are not compared: %s %v", a, a.data())
		return
	}
	if time.Since(began) == 0 && !maps.Equal(before, w.service.all()) {
		w.broken(3, "a reconciliation has changed the tokens of the service: %v, %v", before, w.service.all())
	}
	found := w.found(n)
	if found == nil {
		return
	}
	for id := range found["unknown_here"] {
		if t, exists := w.service.byID(id); exists && !w.mayBeLeft(&t) {
			w.broken(4, "at rest token %s %q of ours is reported as unknown", id, t.name)
		}
	}
	for id := range found["gone_there"] {
		w.broken(4, "at rest token %s is reported as gone", id)
	}
	for id := range found["foreign"] {
		if t, exists := w.service.byID(id); exists && !t.planted && !t.brought {
			w.broken(4, "at rest token %s %q of ours is reported as foreign", id, t.name)
		}
	}
	if !found["foreign"][planted] {
		w.broken(4, "token %s, which was made without the engine, is not reported: %v", planted, a.data())
	}
}

// plant makes a token without the engine.
func (s *service) plant(host string) (id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.create(fmt.Sprintf("laptop-%d", s.next), false, time.Time{}, host)
	t.planted, t.listedAt = true, time.Now()
	return t.id
}

// byID returns the token with an ID.
func (s *service) byID(id string) (_ serviceToken, exists bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tokens[id]; t != nil {
		return *t, true
	}
	return serviceToken{}, false
}

// all returns the names of all tokens by ID.
func (s *service) all() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]string, len(s.tokens))
	for id, t := range s.tokens {
		all[id] = t.name
	}
	return all
}
