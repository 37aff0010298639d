package simulation

import (
	"math/rand/v2"

	"github.com/hashicorp/vault/sdk/logical"
)

// A node dies at each storage operation of an attestation, with the operation done or not done: what was acknowledged holds,
// and an overdue role issues nothing.
func diesAttesting(w *world) {
	v := &w.reviews
	w.review(someRand())
	w.changeReview(&v.enforced, true, "config", map[string]any{"enforce_review": true})
	for _, applied := range []bool{false, true} {
		for at := 1; at <= 4; at++ {
			for _, overdue := range []bool{true, false} {
				w.changeReview(&v.overdue, overdue, "roles/"+reviewedRole, map[string]any{"review_by": map[bool]string{true: longAgo, false: farAhead}[overdue]})
				w.issueReviewed()
				w.active.storage.schedule(plan{crashAt: at, applied: applied})
				w.changeReview(&v.overdue, false, "attest/roles/"+reviewedRole, map[string]any{"review_by": farAhead})
				w.afterStep(someRand())
				if w.failed.Load() != nil {
					return
				}
				w.active.storage.schedule(plan{})
				w.issueReviewed()
				w.changeReview(&v.overdue, false, "attest/roles/"+reviewedRole, map[string]any{"review_by": farAhead})
				w.issueReviewed()
				a := w.ask(w.active, &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + reviewedRole})
				if !a.ok() {
					w.broken(0, "after an acknowledged attest the role issues nothing: %s", a)
				}
			}
		}
	}
}

// An acknowledgement of a finding survives crashes and later events of the finding.
func acknowledgementKept(w *world) {
	g := w.issueFrom(w.active, "opaque", "", nil)
	misuse := func() {
		b := w.reporter.batch([]string{g.ids[0]}, func() int { return 25 })
		w.sendBatch(w.active, b)
		w.advance(10 * 1e9)
	}
	misuse()
	for range 3 {
		for seed := range uint64(3) {
			w.acknowledgeSome(rand.New(rand.NewPCG(seed, 1)))
		}
		if len(w.model.acknowledged) == 0 {
			w.broken(0, "25 refusals make no finding")
			return
		}
		w.kill(w.active)
		w.lead(nil)
		w.takeOver(plan{})
		misuse()
	}
	w.acknowledgeSome(someRand())
}
