package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
)

func (b *backend) pathsStaticRoles() []*framework.Path {
	return b.pathsEntries("static-roles", func(st *state) entries { return st.Statics }, static.Fields,
		crud(
			b.answer(b.pathStaticRolesRead, "Read a static role.", ok(static.Answer)),
			b.change(b.pathStaticRolesWrite, "Create or change a static role. Omitted fields keep their values."),
			b.change(b.pathStaticRolesDelete, "Delete a static role and revoke its tokens."),
		),
		"One long-lived token of a role, rotated by the engine.",
		"For clients that cannot read creds. The engine replaces the token before the token expires. After several missed rotations "+
			"the engine rotates once. The engine replaces a revoked token at once.")
}

func (b *backend) pathStaticRolesRead(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	status, err := b.Statics.Read(ctx, req.Storage, d.Get("name").(string))
	if status == nil || err != nil {
		return nil, err
	}
	return members(static.Answer, status, map[string]any{"attested": status.Attested()}), nil
}

func (b *backend) pathStaticRolesWrite(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	change := given[static.Change](d)
	change.MountPoint = req.MountPoint
	return warned(b.Statics.Write(ctx, req.Storage, d.Get("name").(string), change))
}

func (b *backend) pathStaticRolesDelete(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	return nil, b.Statics.Delete(ctx, req.Storage, d.Get("name").(string))
}
