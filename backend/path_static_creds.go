package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
)

func (b *backend) pathsStaticCreds() []*framework.Path {
	name := named("Name of the static role.")
	return []*framework.Path{
		path("static-creds/"+framework.GenericNameRegex("name"), "read", "static-credentials", name,
			only(logical.ReadOperation, b.answer(b.pathStaticCredsRead, "Read the token of a static role.", ok(static.TokenAnswer))),
			"Read the token of a static role.",
			"Returns the same token until the next rotation, without a lease. Read again after ttl. After the token was revoked or "+
				"expired, the answer is an error until the next rotation. The role's request_bound_cidrs apply as for creds."),
		path("rotate-role/"+framework.GenericNameRegex("name"), "rotate", "static-role", name,
			only(logical.UpdateOperation, b.change(b.pathRotateRoleUpdate, "Rotate the token of a static role now.")),
			"Rotate the token of a static role now.",
			"The previous token works for the overlap. The next rotation counts from this rotation."),
	}
}

func (b *backend) pathStaticCredsRead(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	status, warnings, err := b.ReadStatic(ctx, req.Storage, st, &mount.StaticRequest{
		Name: d.Get("name").(string), MountPoint: req.MountPoint, RemoteAddr: remoteAddr(req), EntityID: req.EntityID,
	})
	if status == nil || err != nil {
		return nil, err
	}
	resp := members(static.TokenAnswer, status)
	resp.Warnings = warnings
	return resp, nil
}

func (b *backend) pathRotateRoleUpdate(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	return nil, b.Statics.Rotate(ctx, req.Storage, d.Get("name").(string))
}
