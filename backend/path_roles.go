package backend

import (
	"context"
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

func (b *backend) pathsRoles() []*framework.Path {
	return b.pathsEntries("roles", func(st *state) entries { return st.Roles }, role.Fields,
		crud(
			b.answer(b.pathRolesRead, "Read a role.", ok(role.Answer)),
			b.change(b.pathRolesWrite, "Create or change a role. Omitted fields keep their values."),
			b.change(b.pathRolesDelete, "Delete a role and revoke all its tokens."),
		),
		"The tokens that may be issued, and their permitted use.",
		"A role defines what a token may be used for, where, and how long. Tightening a role also restricts the live tokens at once. "+
			"Widening a role does not extend live tokens. Deleting a role revokes its tokens, and a new role of the same name does not "+
			"revive these tokens.")
}

func (b *backend) pathRolesRead(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	name := d.Get("name").(string)
	r := st.Roles.Get(name)
	if r == nil {
		return nil, refusal.Wrap(st.Roles.Broken(name))
	}
	return members(role.Answer, &r.Entry, map[string]any{"generate_lease": !r.NoLease, "attested": r.Attested()}), nil
}

func (b *backend) pathRolesWrite(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	q := given[native.WriteRoleRequest](d)
	q.Name, q.MountPoint = d.Get("name").(string), req.MountPoint
	q.Given, q.Change = slices.Collect(maps.Keys(d.Raw)), given[role.Change](d)
	return warned(b.WriteRole(ctx, req.Storage, st, q))
}

func (b *backend) pathRolesDelete(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	return nil, b.DeleteRole(ctx, req.Storage, st, d.Get("name").(string))
}
