package simulation

import (
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// A node that was replaced suspends and resumes, and its clock is ahead. Its resumes do not undo what the active node has
// suspended. A node that knows of both undoes both.
func suspendedAtTwo(w *world) {
	for _, of := range []func(*grant) (*suspended, map[string]any){
		func(g *grant) (*suspended, map[string]any) { return &g.suspended, map[string]any{"token_id": g.ids[0]} },
		func(g *grant) (*suspended, map[string]any) {
			return w.entity(g.subject), map[string]any{"subject": g.subject}
		},
	} {
		g := w.issueFrom(w.active, "opaque", entities[1], nil)
		signed := w.issueFrom(w.active, "signed", entities[1], nil)
		s, by := of(g)
		w.advance(5 * time.Second)
		w.replace()
		replaced := w.zombie
		w.takeOver(plan{})
		for _, step := range []struct {
			n    *node
			path string
		}{{replaced, "suspend"}, {replaced, "resume"}, {replaced, "suspend"}, {w.active, "suspend"}, {replaced, "resume"}} {
			w.suspend(step.n, step.path, s, "it", by)
		}
		w.checkAll(w.active)
		for range 2 {
			w.stop(w.active)
			w.lead(nil)
			w.takeOver(plan{})
			if !w.mustBeSuspended(w.active, g, w.stamp()) {
				w.broken(0, "the model takes the suspension of the active node for undone")
			}
			w.checkAll(w.active)
		}
		w.stop(replaced)
		w.zombie = nil
		w.suspend(w.active, "resume", s, "it", by)
		w.failOver(nil)
		w.takeOver(plan{})
		if !w.surelyLive(w.active, g) || !w.surelyLive(w.active, signed) {
			w.broken(0, "the model takes the grant for suspended")
		}
		w.checkAll(w.active)
	}
}

// The node dies at each storage operation of a suspension and of a resume, with the operation done or not done.
func diesSuspending(w *world) {
	for _, applied := range []bool{false, true} {
		for at := 1; at <= 3; at++ {
			for _, path := range []string{"suspend", "resume"} {
				g := w.issueFrom(w.active, "signed", "", nil)
				w.advance(5 * time.Second)
				by := map[string]any{"token": g.tokens[0].text}
				if path == "resume" {
					w.suspend(w.active, "suspend", &g.suspended, "it", by)
				}
				w.active.storage.schedule(plan{crashAt: at, applied: applied})
				w.suspend(w.active, path, &g.suspended, "it", by)
				w.afterStep(someRand()) // another node takes over, if this one has died
				w.active.storage.schedule(plan{})
				for _, then := range []struct {
					path string
					want bool
				}{{"suspend", false}, {"resume", true}} {
					w.suspend(w.active, then.path, &g.suspended, "it", by)
					w.checkAll(w.active)
					a := w.asked(logical.UpdateOperation, "introspect", by)
					if active, _ := a["active"].(bool); active != then.want {
						w.broken(4, "after an acknowledged %s the token is active: %v, %v", then.path, active, a["reason"])
					}
				}
			}
		}
	}
}
