package simulation

import (
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// budget is how many storage operations a request may take on an active node, at the worst: when it is the first of
// its node, a key is due, a service fails. TestScenario/budgets has the usual case, and docs/reliability.md both.
type budget struct {
	operation     logical.Operation // "": any
	path          string            // that it begins with
	reads, writes int
}

var worst = []budget{
	{"", "introspect", 0, 0},
	{"", "lookup", 0, 0},
	{"", "tokens/", 0, 0},
	{"", "oauth/introspect", 0, 0},
	{"", "oauth/jwks", 0, 0},
	{"", "usage", 0, 0},
	{logical.RenewOperation, "creds/", 4, 4},
	{logical.RevokeOperation, "creds/", 6, 5},
	{"", "creds/", 12, 14}, // three tries at a service, a writer, a key, a block of a status list
	{"", "oauth/token", 12, 6},
	{"", "revoke", 8, 5},
	{"", "leaked", 8, 5}, // of one token
	{"", "suspend", 2, 1},
	{"", "resume", 2, 1},
	{"", "oauth/revoke", 8, 5},
}

// revokes returns how many tokens a request revokes at most: all of an entity, or one. A budget is that of one token.
func (w *world) revokes(path string, data map[string]any) int {
	subject, given := data["subject"].(string)
	if path != "revoke" || !given {
		return 1
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	count := 1
	for _, g := range w.model.grants {
		if g.subject == subject {
			count++
		}
	}
	return count
}

// checkBudget counts what a request has taken for a number of tokens: invariant 6.
func (w *world) checkBudget(operation logical.Operation, path string, tokens int, a *answer) {
	if a.node.standby || !a.node.alone || a.node.replaced.Load() || a.lost {
		return // others read what was written elsewhere
	}
	keys := len(w.disk.list("keys/opaque/")) + len(w.disk.list("keys/signing/")) // all are read before one is added
	for _, b := range worst {
		if (b.operation == "" || b.operation == operation) && strings.HasPrefix(path, b.path) {
			if a.reads > tokens*b.reads+keys && b.reads > 0 || a.reads > 0 && b.reads == 0 || a.writes > tokens*b.writes {
				w.broken(6, "%s %s takes %d reads and %d writes, at most %d and %d are promised", operation, path, a.reads, a.writes, b.reads, b.writes)
			}
			return
		}
	}
}
