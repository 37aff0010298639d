package backend

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

func (b *backend) pathsStaticCreds() []*framework.Path {
	name := map[string]*framework.FieldSchema{
		"name": {Type: framework.TypeString, Required: true, Description: "Name of the static role."},
	}
	return []*framework.Path{
		{
			Pattern:      "static-creds/" + framework.GenericNameRegex("name"),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "read", OperationSuffix: "static-credentials"},
			Fields:       name,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback: b.staticCredsRead,
					Summary:  "Read the token of a static role.",
					Responses: ok(withTimes(map[string]*framework.FieldSchema{
						"token":    {Type: framework.TypeString, Required: true, Description: "The token."},
						"token_id": {Type: framework.TypeString, Required: true, Description: "The token's public name, safe to log."},
						"ttl":      {Type: framework.TypeInt, Required: true, Description: "Seconds until it is rotated, or ends."},
						"name":     {Type: framework.TypeString, Description: "The token's name at the connection's service."},
						"upstream": {Type: framework.TypeMap, Description: "Further members that the service returned."},
					})),
				},
			},
			HelpSynopsis:    "Read the token of a static role.",
			HelpDescription: "Returns the same token until it is rotated. There is no lease: read again when ttl is over. If the token was revoked or has expired, the answer is an error until the next token is made. The role's request_bound_cidrs apply as for creds.",
		},
		{
			Pattern:      "rotate-role/" + framework.GenericNameRegex("name"),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "static-role"},
			Fields:       name,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: change(b.rotateRole, "Rotate the token of a static role now."),
			},
			HelpSynopsis:    "Rotate the token of a static role now.",
			HelpDescription: "The previous token works on for the overlap. The next rotation is counted from now.",
		},
	}
}

// withTimes adds what times tells to the fields of an answer.
func withTimes(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"last_vault_rotation":       {Type: framework.TypeTime, Required: true, Description: "When the token was made."},
		"next_vault_rotation":       {Type: framework.TypeTime, Required: true, Description: "When the next rotation is due."},
		"previous_token_expires_at": {Type: framework.TypeTime, Description: "When the previous token ends; absent where it has ended."},
		"rotation_period":           {Type: framework.TypeInt, Required: true, Description: "Seconds; 0 where there is a schedule."},
		"rotation_schedule":         {Type: framework.TypeString, Required: true, Description: "Cron syntax; empty where there is a period."},
		"rotation_window":           {Type: framework.TypeInt, Required: true, Description: "Seconds; 0: any time."},
	})
	return fields
}

// times tells of the rotations.
func (st *state) times(e *staticEntry, data map[string]any, now time.Time) map[string]any {
	data["last_vault_rotation"] = e.Current.RotatedAt.UTC().Format(time.RFC3339)
	data["next_vault_rotation"] = e.Next.UTC().Format(time.RFC3339)
	data["rotation_period"] = int64(e.Period.Seconds())
	data["rotation_schedule"] = e.Schedule
	data["rotation_window"] = int64(e.Window.Seconds())
	if e.Previous != nil && now.Before(e.Previous.Until) && now.Before(st.staticEnd(e.Previous)) {
		data["previous_token_expires_at"] = e.Previous.Until.UTC().Format(time.RFC3339)
	}
	return data
}

func (b *backend) staticCredsRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	e := st.statics.Get(name)
	if e == nil {
		return unreadable(st.statics.Broken(name))
	}
	if r := st.roles.Get(e.Role); r != nil {
		if err := r.CheckRequester(remoteAddr(req)); err != nil {
			return nil, logical.CodedError(http.StatusForbidden, err.Error())
		}
	}
	if reason, err := b.unusable(ctx, st, e); err != nil {
		return nil, err
	} else if reason != "" {
		b.rotator.kick()
		return nil, refusal.New("static role %q has no token that works: %s", name, reason)
	}
	now := b.now()
	data := st.times(e, map[string]any{
		"token":    e.Current.Text,
		"token_id": e.Current.ID.String(),
		"ttl":      int64(max(0, min(e.Next.Sub(now), st.staticEnd(&e.Current).Sub(now))).Seconds()),
	}, now)
	if e.Current.Name != "" {
		data["name"] = e.Current.Name
	}
	if len(e.Current.Data) > 0 {
		data["upstream"] = e.Current.Data
	}
	return &logical.Response{Data: data}, nil
}

func (b *backend) rotateRole(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return b.onStatic(ctx, req, d, func(st *state, name string, e *staticEntry) (*logical.Response, error) {
		if err := st.statics.Broken(name); err != nil {
			return nil, refusal.New("%w", err)
		}
		if e == nil {
			return nil, refusal.Field("name", "there is no static role %q", refusal.Clip(name))
		}
		err := b.rotateStatic(ctx, req.Storage, st, e, e)
		b.rotator.note(name, err)
		b.rotator.kick()
		if isTold(err) {
			return nil, refusal.New("static role %q was not rotated: %s", name, err)
		}
		return nil, err
	})
}

// unusable says why a static role's token must not be given to anybody; "" where it works.
func (b *backend) unusable(ctx context.Context, st *state, e *staticEntry) (reason string, err error) {
	if err := st.roles.Broken(e.Role); err != nil {
		return err.Error(), nil
	}
	disabled, err := b.subjects.disabled(ctx, e.EntityID)
	if err != nil {
		return "", err
	}
	if disabled {
		return fmt.Sprintf("entity_id: Vault entity %q is disabled or deleted", e.EntityID), nil
	}
	if st.works(e, b.now()) {
		return "", nil
	}
	if last := b.rotator.lastError(e.name); last != "" {
		return "it has ended, and was not rotated: " + last, nil
	}
	return "it has ended, and is being rotated: read again", nil
}
