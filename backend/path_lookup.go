package backend

import (
	"context"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) pathsLookup() []*framework.Path {
	responses := maps.Clone(lookupAnswer)
	for name, field := range responses {
		optional := *field
		optional.Required = name == "state" // the answer for an unknown token has only the state
		responses[name] = &optional
	}
	return []*framework.Path{path("lookup", "look-up", "token", tokenOrIDFields(),
		only(logical.UpdateOperation, b.answer(b.pathLookupUpdate, "Return the record and state of a token.", ok(responses))),
		"Return the record and state of a token, by the token or its token_id.",
		"Returns the holder, role, times and state of a token. lookup does not check a use of the token: introspect does.")}
}

// tokenOrIDFields are the fields that identify a token, by the token or by its public name.
func tokenOrIDFields() fields {
	return fields{
		"token": secret(str("Token. A request has either token or token_id.")),
		"token_id": str("Public name of the token: 24 hexadecimal digits. For a refreshed or exchanged token: the digits of the " +
			"grant, a dot and 24 more digits."),
	}
}

// tokenOrID returns the values of tokenOrIDFields; exactly one value is set. For a token_id, tokenOrID returns the ID of the
// grant.
func tokenOrID(d *input) (text string, grant token.ID, _ error) {
	_, byToken := d.GetOk("token")
	idText, byID := d.GetOk("token_id")
	if byToken == byID {
		return "", token.ID{}, refusal.New("give either token or token_id")
	}
	if byToken {
		text = d.Get("token").(string)
		return text, token.ID{}, native.CheckText(text)
	}
	_, grant, err := token.ParseName(idText.(string))
	if err != nil {
		return "", token.ID{}, refusal.Field("token_id", "%s", err) // without the value, which may be a token by mistake
	}
	return "", grant, nil
}

func (b *backend) pathLookupUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	text, id, err := tokenOrID(d)
	if err != nil {
		return nil, err
	}
	record, reason, err := b.Lookup(ctx, req.Storage, st, text, id)
	if err != nil {
		return nil, err
	}
	if record == nil {
		return &logical.Response{Data: map[string]any{"state": string(reason), "detail": access.Explain(reason, nil, nil)}}, nil
	}
	resp := members(lookupAnswer, record)
	maps.Copy(resp.Data, record.Limits) // an empty list is not the same as an absent list
	return resp, nil
}

// lookupAnswer are the members of mount.Record for a token that the request has shown.
var lookupAnswer = joined(tokenRowFields, fields{
	"token_bound_cidrs": strs("Addresses that the token may be used from; only with token, absent if any. Empty: the token is good nowhere."),
	"bound_regions":     strs("Countries that the token may be used from (ISO 3166-1 alpha-2); only with token, absent if any."),
	"bound_hosts":       strs("API hosts that the token is for; only with token, absent if any."),
})

// tokenRowFields are the members of mount.Record.
var tokenRowFields = fields{
	"token_id": must(str("Public name of the token.")),
	"state": must(str("State of the token: active, expired, revoked, role_deleted, suspended, subject_disabled; unknown if " +
		"storage cannot be read; in lookup also malformed, wrong_environment.")),
	"detail":       str("The state in a sentence; absent if the token is active."),
	"role":         must(str("Role that the token was issued from.")),
	"role_version": must(num("Version of the role at the issue.")),
	"scopes":       must(strs("Granted scopes.")),
	"entity_id":    must(str("Vault entity that requested the token; empty if none.")),
	"display_name": must(str("Display name of the Vault token that requested the token.")),
	"issued_at":    must(date("Time of issue.")),
	"expires_at":   must(date("Expiry of the token, renewals included.")),
	"usage": must(object("Uses of the token and its grant: uses; if used: first_used_at, last_used_at, last_ip, last_region, " +
		"last_network, scopes (that uses needed), more_scopes (whether uses needed more); if refused: refusals, a number for each " +
		"reason. Unknown values are absent.")),
}
