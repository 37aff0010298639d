package simulation

import "time"

// diesAlerting has a node die at each storage operation after a misuse, with the operation done or not done. atRest checks
// that no stored finding is lost.
func diesAlerting(w *world) {
	for _, applied := range []bool{false, true} {
		for at := 1; at <= 6; at++ {
			g := w.issueFrom(w.active, "opaque", "", nil)
			w.advance(5 * time.Second)
			w.pager.mu.Lock()
			w.pager.faults = append(w.pager.faults, fails) // the notice waits when the node dies
			w.pager.mu.Unlock()
			w.misuseOf(w.active, g)
			w.active.storage.schedule(plan{crashAt: at, applied: applied})
			time.Sleep(5 * time.Second)
			w.active.storage.schedule(plan{})
			w.afterStep(someRand())
		}
	}
}

// A node that was replaced stores a finding and its notice, and can neither deliver the notice nor tell the active node.
func alertOfReplaced(w *world) {
	g := w.issueFrom(w.active, "opaque", "", nil)
	w.advance(5 * time.Second)
	w.replace()
	w.takeOver(plan{})
	w.pager.mu.Lock()
	w.pager.down = true
	w.pager.mu.Unlock()
	w.misuseOf(w.zombie, g)
	time.Sleep(5 * time.Second)
	w.stop(w.zombie)
	w.zombie = nil
	if len(w.disk.list("alert/queue/")) != 1 {
		w.broken(0, "the replaced node has stored no notice")
	}
}
