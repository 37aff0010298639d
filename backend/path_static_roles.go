package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
)

// staticRoleFields are the fields of a static role.
var staticRoleFields = fields{
	"name": must(str("Name of the static role.")),
	"role": titled("Role", str("Role of the token: a role of opaque tokens without refresh and proof, or a role "+
		"with a connection. The role of a static role cannot be changed.")),
	"rotation_period": titled("Rotation period", secs("Time between two rotations, at least 5s. Either rotation_period or "+
		"rotation_schedule is required.")),
	"rotation_schedule": titled("Rotation schedule", str("Times of the rotations in cron syntax, in UTC: \"0 3 * * SAT\" is "+
		"Saturdays at three.")),
	"rotation_window": titled("Rotation window", secs("How long after a time of rotation_schedule a rotation may still begin, "+
		"at least 1h. Default: no limit.")),
	"overlap": titled("Overlap", secs("How long the previous token still works after a rotation. Default: 0.")),
	"entity_id": titled("Entity ID", str("Vault entity of the token. After the entity is disabled or deleted, the engine "+
		"revokes the token without replacement. Default: none.")),
	"description": titled("Description", str("Purpose of the static role.")),
	"owner":       ownerField,
	"review_by":   reviewByField,
}

// rotationFields are the members of the rotation of a static role.
var rotationFields = fields{
	"last_vault_rotation":       must(date("Time of the last rotation.")),
	"next_vault_rotation":       must(date("Time of the next rotation.")),
	"previous_token_expires_at": date("Expiry of the previous token; absent if no previous token works."),
	"rotation_period":           must(num("Seconds between two rotations; 0 with rotation_schedule.")),
	"rotation_schedule":         must(str("Times of the rotations in cron syntax; empty with rotation_period.")),
	"rotation_window":           must(num("How long after a scheduled time a rotation may still begin, in seconds; 0: no limit.")),
}

// staticRoleAnswer are the members of a static role.
var staticRoleAnswer = joined(rotationFields, fields{
	"role":        must(str("Role of the token.")),
	"overlap":     must(num("How long the previous token works after a rotation, in seconds.")),
	"entity_id":   must(str("Vault entity of the token; empty if none.")),
	"description": must(str("Purpose of the static role.")),
	"owner":       must(str("Team or person that answers for the static role; empty if none.")),
	"review_by":   must(str("Last day for the next review; empty if none.")),
	"attested":    attestedField,
	"token_id":    must(str("Public name of the token.")),
	"last_error":  str("Error of the last rotation; absent if the rotation succeeded."),
})

func (b *backend) pathsStaticRoles() []*framework.Path {
	return b.pathsEntries("static-roles", func(st *state) entries { return st.Statics }, staticRoleFields,
		crud(
			b.answer(b.pathStaticRolesRead, "Read a static role.", ok(staticRoleAnswer)),
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
	return members(staticRoleAnswer, status, map[string]any{"attested": attested(&status.Review)}), nil
}

func (b *backend) pathStaticRolesWrite(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	change := given[static.Change](d)
	change.MountPoint = req.MountPoint
	return warned(b.Statics.Write(ctx, req.Storage, d.Get("name").(string), change))
}

func (b *backend) pathStaticRolesDelete(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	return nil, b.Statics.Delete(ctx, req.Storage, d.Get("name").(string))
}
