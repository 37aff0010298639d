package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathsRotateRoot() []*framework.Path {
	name := named("Name of the connection.")
	return []*framework.Path{path("rotate-root/"+framework.GenericNameRegex("name"), "rotate", "root-credential", name,
		only(logical.UpdateOperation, b.change(b.pathRotateRootUpdate, "Replace the credential of a connection by a new credential "+
			"that only the engine knows.")),
		"Replace the credential of a connection.",
		"Creates a new credential at the service, verifies and stores the new credential, and only then revokes the old credential. "+
			"Only the engine knows the new credential.")}
}

func (b *backend) pathRotateRootUpdate(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	warning, err := b.Upstreams.RotateRoot(ctx, d.Get("name").(string), req.MountPoint)
	if err != nil || warning == "" {
		return nil, err
	}
	return warned([]string{warning}, nil)
}
