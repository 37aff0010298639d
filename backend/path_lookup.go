package backend

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// stateActive is the state of a valid token. Every other state is an access.Reason.
const stateActive = "active"

func (b *backend) pathsLookup() []*framework.Path {
	responses := tokenRowFields()
	for name, field := range responses {
		field.Required = name == "state" // the answer for an unknown token has only the state
	}
	for name, what := range map[string]string{"token_bound_cidrs": "Addresses", "bound_regions": "Countries (ISO 3166-1 alpha-2)"} {
		responses[name] = &framework.FieldSchema{Type: framework.TypeStringSlice, Description: what + " that the token may be used from; only with token, absent if any."}
	}
	responses["bound_hosts"] = &framework.FieldSchema{Type: framework.TypeStringSlice, Description: "API hosts that the token is for; only with token, absent if any."}
	return []*framework.Path{{
		Pattern:         "lookup",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "look-up", OperationSuffix: "token"},
		Fields:          tokenOrIDFields(),
		Operations:      only(logical.UpdateOperation, b.answer(b.pathLookupUpdate, "Return the record and state of a token.", ok(responses))),
		HelpSynopsis:    "Return the record and state of a token, by the token or its token_id.",
		HelpDescription: "Returns the holder, role, times and state of a token. lookup does not check a use of the token: introspect does.",
	}}
}

// tokenOrIDFields are the fields that identify a token, by the token or by its public name.
func tokenOrIDFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"token": {
			Type:         framework.TypeString,
			Description:  "Token. A request has either token or token_id.",
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
		},
		"token_id": {Type: framework.TypeString, Description: "Public name of the token: 24 hexadecimal digits. For a refreshed or exchanged token: the digits of the grant, a dot and 24 more digits."},
	}
}

// tokenOrID returns the values of tokenOrIDFields; exactly one value is set. For a token_id, tokenOrID returns the ID of the
// grant.
func tokenOrID(d *framework.FieldData) (text string, grant token.ID, _ error) {
	_, byToken := d.GetOk("token")
	idText, byID := d.GetOk("token_id")
	if byToken == byID {
		return "", token.ID{}, refusal.New("give either token or token_id")
	}
	if byToken {
		text, err := tokenField(d)
		return text, token.ID{}, err
	}
	_, grant, err := token.ParseName(idText.(string))
	if err != nil {
		return "", token.ID{}, refusal.Field("token_id", "%s", err) // without the value, which may be a token by mistake
	}
	return "", grant, nil
}

func (b *backend) pathLookupUpdate(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	text, id, err := tokenOrID(d)
	if err != nil {
		return nil, err
	}

	var row ledger.Row
	var known bool
	var v *native.Verdict
	reason := access.Unknown
	if u, isUpstream := st.upstreams.Known(text); isUpstream {
		text, id = "", u.ID
	}
	if text != "" {
		if v, err = st.Verify(ctx, req.Storage, text, &access.Use{}); err != nil {
			return nil, err
		}
		reason = v.Reason
		if v.Claims != nil {
			row, known = st.RowOf(v), true
		}
	} else {
		row, known = st.Inventory.Get(id)
	}
	if !known {
		return &logical.Response{Data: map[string]any{"state": string(reason), "detail": access.Explain(reason, nil, nil)}}, nil
	}
	data, err := b.describe(ctx, st, &row)
	if err != nil {
		return nil, err
	}
	if v != nil && v.Claims.Grant != v.Claims.ID {
		describeToken(v, data, b.now())
	}
	if v != nil && v.Permissions != nil {
		addLimits(data, v.Permissions)
	}
	return &logical.Response{Data: data}, nil
}

// describeToken adds the state of one token to the description of its grant.
func describeToken(v *native.Verdict, data map[string]any, now time.Time) {
	data["token_id"] = v.Claims.Name()
	data["issued_at"] = rfc3339(v.Claims.IssuedAt)
	data["expires_at"] = rfc3339(v.Life.ExpiresAt)
	if reason := v.Life.Alive(now); reason != access.Good {
		data["state"], data["detail"] = string(reason), access.Explain(reason, nil, nil)
	}
}

// tokenRowFields returns the fields of the answer of describe.
func tokenRowFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"token_id":     {Type: framework.TypeString, Required: true, Description: "Public name of the token."},
		"state":        {Type: framework.TypeString, Required: true, Description: "State of the token: active, expired, revoked, role_deleted, subject_disabled; unknown if storage cannot be read; in lookup also malformed, wrong_environment."},
		"detail":       {Type: framework.TypeString, Description: "The state in a sentence; absent if the token is active."},
		"role":         {Type: framework.TypeString, Required: true, Description: "Role that the token was issued from."},
		"role_version": {Type: framework.TypeInt, Required: true, Description: "Version of the role at the issue."},
		"scopes":       {Type: framework.TypeStringSlice, Required: true, Description: "Granted scopes."},
		"entity_id":    {Type: framework.TypeString, Required: true, Description: "Vault entity that requested the token; empty if none."},
		"display_name": {Type: framework.TypeString, Required: true, Description: "Display name of the Vault token that requested the token."},
		"issued_at":    {Type: framework.TypeTime, Required: true, Description: "Time of issue."},
		"expires_at":   {Type: framework.TypeTime, Required: true, Description: "Expiry of the token, renewals included."},
		"usage":        {Type: framework.TypeMap, Required: true, Description: usageHelp},
	}
}

// describe returns the fields of a row, and the state of the row's token.
func (b *backend) describe(ctx context.Context, st *state, row *ledger.Row) (map[string]any, error) {
	life := st.rowLife(row, st.DestroyedKeys())
	var err error
	if life.SubjectDisabled, err = b.world.Subjects.Disabled(ctx, row.Subject); err != nil {
		return nil, err
	}
	used, err := b.usage.Get(ctx, row.ID)
	if err != nil {
		return nil, err
	}
	data := map[string]any{
		"usage":        usageData(&used),
		"token_id":     row.ID.String(),
		"state":        stateActive,
		"role":         row.Role,
		"role_version": int(row.RoleVersion),
		"scopes":       strings.Fields(row.Scopes),
		"entity_id":    row.Subject,
		"display_name": row.DisplayName,
		"issued_at":    rfc3339(row.IssuedAt),
		"expires_at":   rfc3339(life.ExpiresAt),
	}
	if err := st.unreadable(row); err != nil && !life.Revoked {
		data["state"], data["detail"] = string(access.Unknown), err.Error()
	} else if reason := life.Alive(b.now()); reason != access.Good {
		data["state"] = string(reason)
		data["detail"] = access.Explain(reason, nil, nil)
	}
	return data, nil
}
