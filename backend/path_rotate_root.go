package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathsRotateRoot() []*framework.Path {
	return []*framework.Path{{
		Pattern:         "rotate-root/" + framework.GenericNameRegex("name"),
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "root-credential"},
		Fields:          named("Name of the connection."),
		Operations:      only(logical.UpdateOperation, b.change(b.pathRotateRootUpdate, "Replace the credential of a connection by a new credential that only the engine knows.")),
		HelpSynopsis:    "Replace the credential of a connection.",
		HelpDescription: "Creates a new credential at the service, verifies and stores the new credential, and only then revokes the old credential. Only the engine knows the new credential.",
	}}
}

func (b *backend) pathRotateRootUpdate(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	warning, err := b.Upstreams.RotateRoot(ctx, d.Get("name").(string), req.MountPoint)
	if err != nil || warning == "" {
		return nil, err
	}
	return warned([]string{warning}, nil)
}
