package simulation

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/hashicorp/vault/sdk/logical"
)

func init() {
	actions = append(actions, action{name: "acknowledge", weight: 2, do: (*world).acknowledgeSome})
}

// acknowledged is what operators have written about a finding of misuse.
type acknowledged struct {
	notes   timeline[string]
	busy    bool // a request writes a note
	doubted bool // a node that was replaced may have stored the finding meanwhile: storage has no compare-and-swap
}

// doubtFindings notes that a node was replaced that has not noticed.
func (w *world) doubtFindings() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range w.model.acknowledged {
		one.doubted = true
	}
}

// acknowledgeSome has an operator list the findings at the active node, and acknowledge one.
func (w *world) acknowledgeSome(r *rand.Rand) {
	n := w.active
	a := w.ask(n, &logical.Request{Operation: logical.ListOperation, Path: "findings/", Data: map[string]any{"limit": 1 + r.IntN(100)}})
	if !a.ok() {
		return
	}
	ids, _ := a.data()["keys"].([]string)
	if len(ids) == 0 {
		return
	}
	w.checkFindings(n, a)
	id := ids[r.IntN(len(ids))]
	w.mu.Lock()
	one := w.model.acknowledged[id]
	if one == nil {
		one = new(acknowledged)
		w.model.acknowledged[id] = one
	}
	if one.busy {
		w.mu.Unlock()
		return
	}
	one.busy = true
	note := fmt.Sprintf("note %d", r.IntN(1000))
	one.notes = append(one.notes, moment[string]{mark: n.mark(), doubt: true, value: note})
	w.mu.Unlock()
	a = w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "findings/" + id, Data: map[string]any{"note": note}})
	w.say("finding %s acknowledged at node %d with %q: %s", id, n.n, note, a)
	w.mu.Lock()
	defer w.mu.Unlock()
	one.busy = false
	if a.ok() {
		one.notes = append(one.notes, moment[string]{mark: a.mark(), value: note})
		one.doubted = w.zombie != nil
	}
}

// checkFindings holds a list of findings against what was acknowledged: invariant 10. An acknowledgement stays.
func (w *world) checkFindings(n *node, a *answer) {
	info, _ := a.data()["key_info"].(map[string]any)
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, listed := range info {
		one := w.model.acknowledged[id]
		f, _ := listed.(map[string]any)
		if one == nil || one.busy || one.doubted {
			continue
		}
		note, _ := f["note"].(string)
		state, _ := f["state"].(string)
		sure := slices.ContainsFunc(one.notes, func(m moment[string]) bool { return !m.doubt && m.seq < a.began && n.knows(m.seq, m.by) })
		possible := one.notes.possible(n)
		switch {
		case sure && state != "acknowledged":
			w.broken(10, "finding %s is %s at node %d after its acknowledgement with %q", id, state, n.n, possible)
		case state == "acknowledged" && !slices.Contains(possible, note):
			w.broken(10, "finding %s has the note %q at node %d, written was %q", id, note, n.n, possible)
		}
	}
}
