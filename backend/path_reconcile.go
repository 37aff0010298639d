package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// reconcileAnswer are the members of reconcile.Result.
var reconcileAnswer = fields{
	"state": must(str("never (not since this node became active), running, done or failed. A running comparison goes on after " +
		"the answer.")),
	"started_at":   must(str("Time when the last comparison began; empty if never.")),
	"compared_at":  must(str("Time when the comparison began whose numbers the answer has; empty if none succeeded.")),
	"next_at":      must(str("Time of the next comparison by itself; empty without reconcile_period.")),
	"listed":       must(num("Tokens at the service, as far as the credential can see.")),
	"unknown_here": must(num("Tokens with a name of this connection that the engine does not know.")),
	"gone_there":   must(num("Live tokens of the engine that do not exist at the service.")),
	"foreign":      must(num("Tokens with a life of more than 24 hours that were made without the engine.")),
	"unconfirmed":  must(num("Live tokens of the engine that were not listed, and that may be too young to be listed, or for which a search failed.")),
	"kept":         must(num("Items in report/orphans, at most 1,000 of a connection.")),
	"complete":     must(flag("Whether all tokens of the service were listed. gone_there is 0 if not.")),
	"error":        must(str("Error of the last comparison; empty if none.")),
}

func (b *backend) pathReconcile(nameOnly fields) *framework.Path {
	return path("connections/"+framework.GenericNameRegex("name")+"/reconcile", "", "reconciliation", nameOnly, operations{
		logical.UpdateOperation: verb("start", forward(b.answer(b.pathReconcileNow,
			"Compare the tokens at the service with the tokens of the engine.", ok(reconcileAnswer)))),
		logical.ReadOperation: forward(b.answer(b.pathReconcileRead,
			"Read the numbers of the last comparison.", ok(reconcileAnswer))),
	},
		"Compare the tokens at the service of a connection with the tokens of the engine.",
		"Finds tokens of the connection that the engine does not know, tokens that are gone at the service, and long-lived tokens "+
			"that were made without the engine. report/orphans lists them. The comparison revokes nothing.")
}

func (b *backend) pathReconcileNow(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	result, err := b.Reconciler.Reconcile(ctx, d.Get("name").(string), req.MountPoint)
	if err != nil {
		return nil, err
	}
	return members(reconcileAnswer, result), nil
}

func (b *backend) pathReconcileRead(_ context.Context, st *state, _ *request, d *input) (*response, error) {
	name := d.Get("name").(string)
	c := st.Connections.Get(name)
	if c == nil {
		return nil, refusal.Wrap(st.Connections.Broken(name))
	}
	return members(reconcileAnswer, b.Reconciler.Result(c)), nil
}
