package simulation

import (
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

func init() {
	actions = append(actions, action{name: "review", weight: 3, alone: true, do: (*world).review})
}

// reviews is the review of a role of its own, whose tokens have no lease, and whether the mount enforces reviews.
type reviews struct {
	made     bool
	overdue  timeline[bool]
	enforced timeline[bool]
}

const (
	reviewedRole = "reviewed"
	longAgo      = "1999-12-01"
	farAhead     = "2090-01-01"
)

// review changes the review of the role, attests the role, changes whether reviews are enforced, or requests a token. The
// steps of review are never at once.
func (w *world) review(r *rand.Rand) {
	v := &w.reviews
	if !v.made {
		v.overdue, v.enforced = timeline[bool]{{}}, timeline[bool]{{}}
		v.made = w.changeReview(&v.overdue, false, "roles/"+reviewedRole, map[string]any{
			"scopes": "a:read", "token_format": "jwt", "audience": "api", "ttl": 300, "max_ttl": 300, "generate_lease": false, "owner": "team",
		})
		return
	}
	switch r.IntN(8) {
	case 0:
		w.changeReview(&v.overdue, true, "roles/"+reviewedRole, map[string]any{"review_by": longAgo})
	case 1:
		w.changeReview(&v.overdue, false, "roles/"+reviewedRole, map[string]any{"review_by": farAhead})
	case 2, 3:
		w.changeReview(&v.overdue, false, "attest/roles/"+reviewedRole, map[string]any{"review_by": farAhead, "note": "still needed"})
	case 4:
		enforce := r.IntN(3) > 0
		w.changeReview(&v.enforced, enforce, "config", map[string]any{"enforce_review": enforce})
	default:
		w.issueReviewed()
	}
}

// changeReview writes a path that gives a timeline another value.
func (w *world) changeReview(t *timeline[bool], value bool, path string, data map[string]any) bool {
	n := w.active
	*t = append(*t, moment[bool]{mark: n.mark(), doubt: true, value: value})
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: path, Data: data})
	w.say("%s %v at node %d: %s", path, data, n.n, a)
	switch {
	case a.ok():
		*t = append(*t, moment[bool]{mark: a.mark(), value: value})
	case a.refused != "":
		*t = (*t)[:len(*t)-1]
		w.broken(4, "writing %s is refused: %s", path, a.refused)
	}
	return a.ok()
}

// issueReviewed requests a token of the role, and holds the answer against the review: invariant 1.
func (w *world) issueReviewed() {
	n, v := w.active, &w.reviews
	overdue, enforced := v.overdue.possible(n), v.enforced.possible(n)
	a := w.ask(n, &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + reviewedRole, DisplayName: "client"})
	w.say("issue %s at node %d, overdue %v, enforced %v: %s", reviewedRole, n.n, overdue, enforced, a)
	switch {
	case a.ok() && !slices.Contains(overdue, false) && !slices.Contains(enforced, false):
		w.broken(1, "a role issues whose review is overdue")
	case strings.Contains(a.refused, "review") && (!slices.Contains(overdue, true) || !slices.Contains(enforced, true)):
		w.broken(4, "a role is refused for its review, which is not overdue or not enforced: %s", a.refused)
	}
}
