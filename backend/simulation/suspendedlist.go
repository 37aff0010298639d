package simulation

import (
	"math/rand/v2"

	"github.com/hashicorp/vault/sdk/logical"
)

func init() {
	actions = append(actions, action{name: "list suspended", weight: 2, do: func(w *world, r *rand.Rand) {
		w.checkSuspensions(w.active, 1+r.IntN(5))
	}})
}

// checkSuspensions holds the list of suspensions, read in pages, against what is true: invariant 4.
func (w *world) checkSuspensions(n *node, limit int) {
	listed := make(map[string]bool)
	began := w.stamp() // of the first page
	for after := ""; ; {
		a := w.ask(n, &logical.Request{
			Operation: logical.ListOperation, Path: "suspended/", Data: map[string]any{"limit": limit, "after": after},
		})
		if !a.ok() {
			return
		}
		keys, _ := a.data()["keys"].([]string)
		for _, key := range keys {
			if listed[key] {
				w.broken(4, "node %d lists the suspension of %s twice", n.n, key)
			}
			listed[key] = true
		}
		if len(keys) < limit {
			break
		}
		after = keys[len(keys)-1]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	ended := w.stamp()
	for _, id := range entities[1:] {
		w.checkListed(n, began, ended, w.entity(id), listed[id], "entity "+short(id))
	}
	for _, g := range w.model.grants {
		if g.upstream != nil || g.doubtful || g.revoked.seq != 0 || !n.now().Before(g.period(n).lo) {
			continue // a revoked grant is not listed
		}
		is := false
		for _, id := range g.ids {
			is = is || listed[grantID(id)]
		}
		w.checkListed(n, began, ended, &g.suspended, is, "grant "+itoa(g.n))
	}
}

func (w *world) checkListed(n *node, began, ended uint64, s *suspended, listed bool, what string) {
	switch {
	case !listed && s.binding(n, began, nil) != nil && s.binding(n, ended, nil) != nil:
		w.broken(4, "%s is not in the list of suspensions of node %d after its suspension was acknowledged", what, n.n)
	case listed && !s.maybe(n):
		w.broken(4, "%s is in the list of suspensions of node %d, and is not suspended", what, n.n)
	}
}
