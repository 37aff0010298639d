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

// stateActive is the state of a token that may be good; any other state is an access.Reason.
const stateActive = "active"

func (b *backend) pathsLookup() []*framework.Path {
	responses := tokenRowFields()
	for name, field := range responses {
		field.Required = name == "state" // of a token that nothing is known of, there is no more to tell
	}
	return []*framework.Path{{
		Pattern:      "lookup",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "look-up", OperationSuffix: "token"},
		Fields:       tokenOrIDFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:  b.pathLookupUpdate,
				Summary:   "Return what is known of a token.",
				Responses: ok(responses),
			},
		},
		HelpSynopsis:    "Return what is known of a token, by the token or its token_id.",
		HelpDescription: "Who got the token, from which role, when, and its state. lookup does not judge a use of the token: introspect does.",
	}}
}

// tokenOrIDFields name a token, by itself or by its public name.
func tokenOrIDFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"token": {
			Type:         framework.TypeString,
			Description:  "The token. Give it or token_id.",
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
		},
		"token_id": {Type: framework.TypeString, Description: "The token's public name: 24 hexadecimal digits; those of the grant, a dot and 24 more for a token that was refreshed or exchanged."},
	}
}

// tokenOrID reads the fields of tokenOrIDFields; exactly one of the two is set. A token_id leads to the id of the
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
		return "", token.ID{}, refusal.Field("token_id", "%s", err) // which may be a token, by mistake: it is not shown
	}
	return "", grant, nil
}

func (b *backend) pathLookupUpdate(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
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
			row, known = rowOf(st, v), true
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
	return &logical.Response{Data: data}, nil
}

// describeToken adds to what is known of a grant what is true of one token of the grant.
func describeToken(v *native.Verdict, data map[string]any, now time.Time) {
	data["token_id"] = v.Claims.Name()
	data["issued_at"] = v.Claims.IssuedAt.UTC().Format(time.RFC3339)
	data["expires_at"] = v.Life.ExpiresAt.UTC().Format(time.RFC3339)
	if reason := v.Life.Alive(now); reason != access.Good {
		data["state"], data["detail"] = string(reason), access.Explain(reason, nil, nil)
	}
}

// rowOf gives the inventory's row of a token that was opened, or as much of one as the token says.
func rowOf(st *state, v *native.Verdict) ledger.Row {
	if row, known := st.Inventory.Get(v.Claims.Grant); known {
		return row
	}
	row := ledger.Row{
		ID: v.Claims.Grant, IssuedAt: v.Claims.IssuedAt, ExpiresAt: v.Claims.ExpiresAt,
		Holder: ledger.Holder{RoleID: v.Claims.Role, RoleVersion: v.Claims.RoleVersion, Subject: v.Claims.Subject},
	}
	if v.Role != nil {
		row.Role = v.Role.Name()
	}
	if v.Permissions != nil {
		row.Scopes = v.Permissions.Scopes.Parameter()
	}
	return row
}

// tokenRowFields describe the answer of describe.
func tokenRowFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"token_id":     {Type: framework.TypeString, Required: true, Description: "The token's public name."},
		"state":        {Type: framework.TypeString, Required: true, Description: "active, or why it is not: expired, revoked, role_deleted, subject_disabled; unknown where storage cannot be read; in lookup also malformed, wrong_environment."},
		"detail":       {Type: framework.TypeString, Description: "The state in a sentence; absent where it is active."},
		"role":         {Type: framework.TypeString, Required: true, Description: "The role it was issued from."},
		"role_version": {Type: framework.TypeInt, Required: true, Description: "The version of that role."},
		"scopes":       {Type: framework.TypeStringSlice, Required: true, Description: "What was granted."},
		"entity_id":    {Type: framework.TypeString, Required: true, Description: "Vault entity that asked for it; empty where there is none."},
		"display_name": {Type: framework.TypeString, Required: true, Description: "Display name of the Vault token that asked for it."},
		"issued_at":    {Type: framework.TypeTime, Required: true, Description: "When it was issued."},
		"expires_at":   {Type: framework.TypeTime, Required: true, Description: "When it ends, renewals included."},
	}
}

// describe shows a row and what has become of its token.
func (b *backend) describe(ctx context.Context, st *state, row *ledger.Row) (map[string]any, error) {
	life := st.rowLife(row, st.DestroyedKeys())
	var err error
	if life.SubjectDisabled, err = b.world.Subjects.Disabled(ctx, row.Subject); err != nil {
		return nil, err
	}
	data := map[string]any{
		"token_id":     row.ID.String(),
		"state":        stateActive,
		"role":         row.Role,
		"role_version": int(row.RoleVersion),
		"scopes":       strings.Fields(row.Scopes),
		"entity_id":    row.Subject,
		"display_name": row.DisplayName,
		"issued_at":    row.IssuedAt.UTC().Format(time.RFC3339),
		"expires_at":   life.ExpiresAt.UTC().Format(time.RFC3339),
	}
	if err := st.unreadable(row); err != nil && !life.Revoked {
		data["state"], data["detail"] = string(access.Unknown), err.Error()
	} else if reason := life.Alive(b.now()); reason != access.Good {
		data["state"] = string(reason)
		data["detail"] = access.Explain(reason, nil, nil)
	}
	return data, nil
}
