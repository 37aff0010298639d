package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/reconcile"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

func (b *backend) pathReconcile() *framework.Path {
	return path("connections/"+framework.GenericNameRegex("name")+"/reconcile", "", "reconciliation", named("Name of the connection."), operations{
		logical.UpdateOperation: verb("start", forward(b.answer(b.pathReconcileNow,
			"Compare the tokens at the service with the tokens of the engine.", ok(reconcile.Answer)))),
		logical.ReadOperation: forward(b.answer(b.pathReconcileRead,
			"Read the numbers of the last comparison.", ok(reconcile.Answer))),
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
	return members(reconcile.Answer, result), nil
}

func (b *backend) pathReconcileRead(_ context.Context, st *state, _ *request, d *input) (*response, error) {
	name := d.Get("name").(string)
	c := st.Connections.Get(name)
	if c == nil {
		return nil, refusal.Wrap(st.Connections.Broken(name))
	}
	return members(reconcile.Answer, b.Reconciler.Result(c)), nil
}
