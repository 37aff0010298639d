package simulation

import "time"

// diesAlerting has a node die at each storage operation after a misuse, with the operation done or not done. atRest checks
// that no stored finding is lost.
func diesAlerting(w *world) {
	for _, applied := range []bool{false, true} {
		for at := 1; at <= 6; at++ {
			g := w.issueFrom(w.active, "opaque", "", nil)
			w.advance(5 * time.Second)
			w.misuseOf(w.active, g)
			w.active.storage.schedule(plan{crashAt: at, applied: applied})
			time.Sleep(5 * time.Second)
			w.active.storage.schedule(plan{})
			w.afterStep(someRand())
		}
	}
}
