package simulation

import (
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// What is reported a minute before a crash, the next node knows. A batch that it knows it does not count again, and a
// batch that the crash has lost it counts.
func usageKept(w *world) {
	g := w.issueFrom(w.active, "opaque", "", nil)
	p := &w.reporter
	one := func() int { return 1 }
	shows := func(want uint64) {
		a := w.ask(w.active, &logical.Request{Operation: logical.ReadOperation, Path: "tokens/" + g.ids[0]})
		usage, _ := a.data()["usage"].(map[string]any)
		if uses, _ := usage["uses"].(uint64); uses != want {
			w.broken(4, "node %d shows %d uses, %d were reported", w.active.n, uses, want)
		}
	}
	crash := func() {
		w.kill(w.active)
		w.lead(nil)
		w.takeOver(plan{})
	}
	answers := func(b *batch, duplicate bool) {
		if a := w.sendBatch(w.active, b); a.data()["duplicate"] != duplicate {
			w.broken(4, "batch %d is answered with %v", b.sequence, a.data())
		}
	}
	first := p.batch([]string{g.ids[0]}, one)
	answers(first, false)
	time.Sleep(time.Minute)
	crash()
	shows(1)
	answers(first, true)
	lost := p.batch([]string{g.ids[0]}, one)
	answers(lost, false)
	shows(2)
	crash()
	shows(1)
	answers(lost, false)
	shows(2)
	time.Sleep(2 * time.Second)
	w.failOver(nil) // in good order: what was not stored yet is stored
	w.takeOver(plan{})
	shows(2)
	answers(lost, true)
}
