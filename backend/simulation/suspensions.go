package simulation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// suspended is what was done to a grant or an entity to suspend and to resume it.
type suspended struct {
	suspends []*request
	resumes  []*request
}

// request is one suspend or resume. It takes effect between begun and mark, or, if its answer was lost, at any time after
// begun.
type request struct {
	mark     // when it was acknowledged; zero: it was not, or not yet
	at       *node
	begun    uint64
	read     uint64 // once it is over: from which moment on the node may not have known what others did
	unlisted bool   // it was acknowledged with a warning: no status list shows it
}

// mayUndo reports whether a resume may undo a suspension: the node that resumes must have read the suspension.
func (resume *request) mayUndo(suspend *request) bool {
	read := resume.read
	if read == 0 {
		read = resume.at.read.Load()
	}
	return (resume.at == suspend.at || suspend.begun < read) && (resume.seq == 0 || suspend.begun < resume.seq)
}

// undoes reports whether a resume has certainly undone a suspension, and a node must know of that.
func (resume *request) undoes(suspend *request, n *node) bool {
	return resume.seq != 0 && suspend.seq != 0 && suspend.seq < resume.begun && resume.at.knows(suspend.seq, suspend.at) && n.knows(resume.seq, resume.at)
}

// binding gives a suspension that a node must know of, in what it begins to do at a moment: it was acknowledged before,
// and no resume that may undo it has begun; nil: there is none. listed nil: any, else only suspensions that it accepts.
func (s *suspended) binding(n *node, began uint64, accept func(*request) bool) *request {
	for _, suspend := range s.suspends {
		if suspend.seq == 0 || suspend.seq >= began || !n.knows(suspend.seq, suspend.at) || accept != nil && !accept(suspend) {
			continue
		}
		if !slices.ContainsFunc(s.resumes, func(resume *request) bool { return resume.mayUndo(suspend) }) {
			return suspend
		}
	}
	return nil
}

// maybe reports whether a node may take a grant or an entity for suspended.
func (s *suspended) maybe(n *node) bool {
	return slices.ContainsFunc(s.suspends, func(suspend *request) bool {
		return !slices.ContainsFunc(s.resumes, func(resume *request) bool { return resume.undoes(suspend, n) })
	})
}

// entity gives what was done to an entity. The caller holds mu.
func (w *world) entity(id string) *suspended {
	if id == "" {
		return new(suspended)
	}
	if w.model.suspended[id] == nil {
		w.model.suspended[id] = new(suspended)
	}
	return w.model.suspended[id]
}

// mustBeSuspended reports whether a node must refuse the tokens of a grant in what it begins to do at a moment. The
// caller holds mu.
func (w *world) mustBeSuspended(n *node, g *grant, began uint64) bool {
	return g.upstream == nil && (g.suspended.binding(n, began, nil) != nil || w.entity(g.subject).binding(n, began, nil) != nil)
}

// maybeSuspended reports whether a node may take a grant for suspended. The caller holds mu.
func (w *world) maybeSuspended(n *node, g *grant) bool {
	return g.upstream == nil && (g.suspended.maybe(n) || w.entity(g.subject).maybe(n))
}

// mustBeListed reports whether the status lists of a node must show a grant as suspended. Of an entity, a node lists the
// grants whose rows it has. The caller holds mu.
func (w *world) mustBeListed(n *node, g *grant, began uint64, accept func(*request) bool) bool {
	listed := func(s *request) bool { return !s.unlisted && (accept == nil || accept(s)) }
	return g.suspended.binding(n, began, listed) != nil || g.ends[0].by == n && w.entity(g.subject).binding(n, began, listed) != nil
}

// suspendSome suspends or resumes a grant, or an entity, at the active node.
func (w *world) suspendSome(r *rand.Rand) { w.suspendAt(w.active, r, "suspend") }

func (w *world) resumeSome(r *rand.Rand) { w.suspendAt(w.active, r, "resume") }

func (w *world) suspendAt(n *node, r *rand.Rand, path string) {
	w.mu.Lock()
	var grants []*grant
	for _, g := range w.model.grants {
		if g.upstream == nil && (path == "suspend" || r.IntN(8) == 0 || g.suspended.maybe(n)) {
			grants = append(grants, g)
		}
	}
	g := pick(r, grants)
	if kept := w.verifier.grants(); path == "suspend" && len(kept) > 0 && r.IntN(2) == 0 {
		g = pick(r, kept)
	}
	w.mu.Unlock()
	if r.IntN(3) == 0 {
		defer w.poll(r)
	}
	if r.IntN(6) == 0 {
		id := entities[1+r.IntN(len(entities)-1)]
		w.suspend(n, path, w.entityLocked(id), "entity "+short(id), map[string]any{"subject": id})
		return
	}
	if g == nil {
		return
	}
	w.mu.Lock()
	var by []map[string]any
	for _, tok := range slices.Concat(g.tokens, g.refreshes) {
		if !w.keyMayBeGone(tok.text) {
			by = append(by, map[string]any{"token": tok.text})
		}
	}
	for _, id := range g.ids {
		by = append(by, map[string]any{"token_id": id})
	}
	w.mu.Unlock()
	w.suspend(n, path, &g.suspended, fmt.Sprintf("grant %d", g.n), by[r.IntN(len(by))])
}

func (w *world) entityLocked(id string) *suspended {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.entity(id)
}

// suspend suspends or resumes something at a node.
func (w *world) suspend(n *node, path string, s *suspended, what string, data map[string]any) {
	one := &request{at: n}
	w.mu.Lock()
	one.begun = w.stamp()
	if path == "suspend" {
		s.suspends = append(s.suspends, one)
	} else {
		s.resumes = append(s.resumes, one)
	}
	w.mu.Unlock()
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: path, Data: data})
	warnings := ""
	if a.resp != nil {
		warnings = strings.Join(a.resp.Warnings, " ")
	}
	w.say("%s %s at node %d: %s %s", path, what, n.n, a, clip(warnings))
	w.mu.Lock()
	defer w.mu.Unlock()
	one.read = n.read.Load()
	nothing := a.refused != "" || strings.Contains(warnings, "nothing was suspended") || strings.Contains(warnings, "was not suspended")
	switch {
	case !a.lost && nothing: // nothing has happened
		is := func(other *request) bool { return other == one }
		s.suspends, s.resumes = slices.DeleteFunc(s.suspends, is), slices.DeleteFunc(s.resumes, is)
	case a.ok():
		one.mark = a.mark()
		one.unlisted = strings.Contains(warnings, "status list does not show")
	}
}

// checkSuspended holds against the model that a grant has just been of use: invariant 2. The caller holds mu.
func (w *world) checkSuspended(a *answer, g *grant, what string) {
	if w.mustBeSuspended(a.node, g, a.began) {
		w.broken(2, "%s of grant %d (%s) at node %d after its suspension was acknowledged", what, g.n, g.role.name, a.node.n)
	}
}

// until accepts the suspensions that were acknowledged before a time.
func until(t time.Time) func(*request) bool {
	return func(s *request) bool { return s.mark.at.Before(t) }
}
