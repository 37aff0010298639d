package backend

import (
	"context"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
)

// staticRoleFields are the fields of a static role.
var staticRoleFields = map[string]*framework.FieldSchema{
	"name":              {Type: framework.TypeString, Required: true, Description: "Name of the static role."},
	"role":              field(framework.TypeString, "Role", "Role of the token: a role of opaque tokens without refresh and proof, or a role with a connection. The role of a static role cannot be changed."),
	"rotation_period":   field(framework.TypeDurationSecond, "Rotation period", "Time between two rotations, at least 5s. Either rotation_period or rotation_schedule is required."),
	"rotation_schedule": field(framework.TypeString, "Rotation schedule", "Times of the rotations in cron syntax, in UTC: \"0 3 * * SAT\" is Saturdays at three."),
	"rotation_window":   field(framework.TypeDurationSecond, "Rotation window", "How long after a time of rotation_schedule a rotation may still begin, at least 1h. Default: no limit."),
	"overlap":           field(framework.TypeDurationSecond, "Overlap", "How long the previous token still works after a rotation. Default: 0."),
	"entity_id":         field(framework.TypeString, "Entity ID", "Vault entity of the token. After the entity is disabled or deleted, the engine revokes the token without replacement. Default: none."),
	"description":       field(framework.TypeString, "Description", "Purpose of the static role."),
}

func (b *backend) pathsStaticRoles() []*framework.Path {
	return []*framework.Path{
		{
			Pattern:        "static-roles/" + framework.GenericNameRegex("name"),
			DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "static-role"},
			Fields:         staticRoleFields,
			ExistenceCheck: b.exists(func(st *state, name string) bool { return st.Statics.Has(name) }),
			Operations: crud(
				b.answer(b.pathStaticRolesRead, "Read a static role.", ok(withRotations(map[string]*framework.FieldSchema{
					"role":        {Type: framework.TypeString, Required: true, Description: "Role of the token."},
					"overlap":     {Type: framework.TypeInt, Required: true, Description: "How long the previous token works after a rotation, in seconds."},
					"entity_id":   {Type: framework.TypeString, Required: true, Description: "Vault entity of the token; empty if none."},
					"description": {Type: framework.TypeString, Required: true, Description: "Purpose of the static role."},
					"token_id":    {Type: framework.TypeString, Required: true, Description: "Public name of the token."},
					"last_error":  {Type: framework.TypeString, Description: "Error of the last rotation; absent if the rotation succeeded."},
				}))),
				b.change(b.pathStaticRolesWrite, "Create or change a static role. Omitted fields keep their values."),
				b.change(b.pathStaticRolesDelete, "Delete a static role and revoke its tokens."),
			),
			HelpSynopsis:    "One long-lived token of a role, rotated by the engine.",
			HelpDescription: "For clients that cannot read creds. The engine replaces the token before the token expires. After several missed rotations the engine rotates once. The engine replaces a revoked token at once.",
		},
		b.listPath("static-roles", func(st *state) []string { return st.Statics.Names() }),
	}
}

// withRotations adds the fields that rotations returns to the fields of an answer.
func withRotations(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"last_vault_rotation":       {Type: framework.TypeTime, Required: true, Description: "Time of the last rotation."},
		"next_vault_rotation":       {Type: framework.TypeTime, Required: true, Description: "Time of the next rotation."},
		"previous_token_expires_at": {Type: framework.TypeTime, Description: "Expiry of the previous token; absent if no previous token works."},
		"rotation_period":           {Type: framework.TypeInt, Required: true, Description: "Seconds between two rotations; 0 with rotation_schedule."},
		"rotation_schedule":         {Type: framework.TypeString, Required: true, Description: "Times of the rotations in cron syntax; empty with rotation_period."},
		"rotation_window":           {Type: framework.TypeInt, Required: true, Description: "How long after a scheduled time a rotation may still begin, in seconds; 0: no limit."},
	})
	return fields
}

// rotations returns the values of the fields of withRotations.
func rotations(status *static.Status) map[string]any {
	data := map[string]any{
		"last_vault_rotation": rfc3339(status.Current.RotatedAt),
		"next_vault_rotation": rfc3339(status.Next),
		"rotation_period":     int64(status.Period.Seconds()),
		"rotation_schedule":   status.Schedule,
		"rotation_window":     int64(status.Window.Seconds()),
	}
	if !status.PreviousEnds.IsZero() {
		data["previous_token_expires_at"] = rfc3339(status.PreviousEnds)
	}
	return data
}

func (b *backend) pathStaticRolesRead(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	status, err := b.Statics.Read(ctx, req.Storage, d.Get("name").(string))
	if status == nil || err != nil {
		return nil, err
	}
	data := rotations(status)
	data["role"] = status.Role
	data["entity_id"] = status.EntityID
	data["overlap"] = int64(status.Overlap.Seconds())
	data["description"] = status.Description
	data["token_id"] = status.Current.ID.String()
	if status.LastError != "" {
		data["last_error"] = status.LastError
	}
	return &logical.Response{Data: data}, nil
}

func (b *backend) pathStaticRolesWrite(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return warned(b.Statics.Write(ctx, req.Storage, d.Get("name").(string), &static.Change{
		MountPoint:       req.MountPoint,
		Role:             given[string](d, "role"),
		EntityID:         given[string](d, "entity_id"),
		RotationPeriod:   givenSeconds(d, "rotation_period"),
		RotationSchedule: given[string](d, "rotation_schedule"),
		RotationWindow:   givenSeconds(d, "rotation_window"),
		Overlap:          givenSeconds(d, "overlap"),
		Description:      given[string](d, "description"),
	}))
}

func (b *backend) pathStaticRolesDelete(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, b.Statics.Delete(ctx, req.Storage, d.Get("name").(string))
}
