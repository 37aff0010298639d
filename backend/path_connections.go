package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

func (b *backend) pathsConnections() []*framework.Path {
	return append(b.pathsEntries("connections", func(st *state) entries { return st.Connections }, upstream.ConnectionFields,
		crud(
			b.answer(b.pathConnectionsRead, "Read a connection without secrets.", ok(upstream.ConnectionAnswer)),
			b.change(b.pathConnectionsWrite, "Create or change a connection. Omitted fields keep their values."),
			b.change(b.pathConnectionsDelete, "Delete an unused connection."),
		),
		"An upstream service and the credential for minting tokens.",
		"A connection holds the URL of an upstream service and the engine's credential. Roles with the connection issue tokens of "+
			"the service. Write the connection, then verify the credential by check."),
		path("connections/"+framework.GenericNameRegex("name")+"/check", "check", "connection", named("Name of the connection."),
			only(logical.UpdateOperation,
				b.answer(b.pathConnectionsCheck, "Verify the credential of a connection.", ok(upstream.CheckAnswer))),
			"Verify the credential of a connection, and return its permissions.",
			"Asks the service for the account of the credential, and retries the queue. The check changes nothing at the service, with "+
				"two exceptions: provider vault renews the credential's token, and oauth2 requests a token."),
		path("rotate-root/"+framework.GenericNameRegex("name"), "rotate", "root-credential", named("Name of the connection."),
			only(logical.UpdateOperation, b.change(b.pathRotateRootUpdate, "Replace the credential of a connection by a new credential "+
				"that only the engine knows.")),
			"Replace the credential of a connection.",
			"Creates a new credential at the service, verifies and stores the new credential, and only then revokes the old credential. "+
				"Only the engine knows the new credential."),
		b.pathReconcile())
}

func (b *backend) pathConnectionsRead(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	name := d.Get("name").(string)
	c := st.Connections.Get(name)
	if c == nil {
		return nil, refusal.Wrap(st.Connections.Broken(name))
	}
	return members(upstream.ConnectionAnswer, st.Connections.Public(c), map[string]any{
		"attested": c.Attested(),
		"tokens":   st.Upstreams.Count(c.ID, upstream.Live),
		"queue":    b.Upstreams.Describe(c),
	}), nil
}

func (b *backend) pathConnectionsWrite(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	if _, forced := d.GetOk("force"); forced {
		return nil, refusal.Field("force", "is for deleting a connection")
	}
	change := given[upstream.Change](d)
	change.MountPoint = req.MountPoint
	return warned(b.Upstreams.WriteConnection(ctx, req.Storage, d.Get("name").(string), change))
}

func (b *backend) pathConnectionsDelete(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	return warned(b.Upstreams.DeleteConnection(ctx, req.Storage, upstream.Deletion{
		Name: d.Get("name").(string), Force: d.Get("force").(bool), MountPoint: req.MountPoint,
	}))
}

func (b *backend) pathConnectionsCheck(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	provider, data, err := b.Upstreams.Check(ctx, d.Get("name").(string))
	if err != nil {
		return nil, err
	}
	return members(upstream.CheckAnswer, map[string]any{"provider": provider, "credential": data}), nil
}

func (b *backend) pathRotateRootUpdate(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	warning, err := b.Upstreams.RotateRoot(ctx, d.Get("name").(string), req.MountPoint)
	if err != nil || warning == "" {
		return nil, err
	}
	return warned([]string{warning}, nil)
}
