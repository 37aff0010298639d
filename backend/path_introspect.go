package backend

import (
	"context"
	"errors"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) pathsIntrospect() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "introspect",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "introspect", OperationSuffix: "token"},
		Fields: map[string]*framework.FieldSchema{
			"token": {
				Type:         framework.TypeString,
				Description:  "The token that the API was shown.",
				Required:     true,
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
			"required_scopes": {
				Type:        framework.TypeCommaStringSlice,
				Description: "Scopes that the call to the API needs. Default: none; the API compares with \"scope\" itself.",
			},
			"audience": {
				Type:        framework.TypeString,
				Description: "The API that asks, as roles name it in their audience. Default: not checked.",
			},
			"client_ip": {
				Type:        framework.TypeString,
				Description: "Address that the token was used from. A token that is bound to addresses is not good without it.",
			},
			"host": {
				Type:        framework.TypeString,
				Description: "Host that the token was used at, as in the Host header. A token that is bound to hosts is not good without it.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback: b.introspect,
				Summary:  "Answer whether a token is good here and now.",
				Responses: ok(map[string]*framework.FieldSchema{
					"active":            {Type: framework.TypeBool, Required: true, Description: "Whether the token is good, for the use that was asked about."},
					"reason":            {Type: framework.TypeString, Description: "Why the token is not good; only where it is not."},
					"detail":            {Type: framework.TypeString, Description: "The reason in a sentence."},
					"scope":             {Type: framework.TypeString, Description: "What the token grants, separated by spaces."},
					"client_id":         {Type: framework.TypeString, Description: "The role."},
					"token_type":        {Type: framework.TypeString, Description: "Bearer, or DPoP."},
					"iss":               {Type: framework.TypeString, Description: "The mount's issuer; absent where none is set."},
					"cnf":               {Type: framework.TypeMap, Description: "The key that the token is bound to: jkt or x5t#S256, a thumbprint (RFC 7800)."},
					"grant_id":          {Type: framework.TypeString, Description: "Names the grant of a token that was refreshed or exchanged."},
					"exp":               {Type: framework.TypeInt64, Description: "When the token ends, in seconds since 1970."},
					"iat":               {Type: framework.TypeInt64, Description: "When it was issued, in seconds since 1970."},
					"sub":               {Type: framework.TypeString, Description: "Vault entity that asked for the token; absent where there is none."},
					"aud":               {Type: framework.TypeStringSlice, Description: "APIs that the token is for; absent: any."},
					"jti":               {Type: framework.TypeString, Description: "The token_id."},
					"token_id":          {Type: framework.TypeString, Description: "The token's public name, safe to log."},
					"role":              {Type: framework.TypeString, Description: "The role that it was issued from."},
					"environment":       {Type: framework.TypeString, Description: "The mount's environment."},
					"metadata":          {Type: framework.TypeKVPairs, Description: "The role's metadata."},
					"token_bound_cidrs": {Type: framework.TypeStringSlice, Description: "Where the token may be used from; absent: anywhere."},
					"bound_hosts":       {Type: framework.TypeStringSlice, Description: "API hosts that the token is for; absent: any."},
				}),
			},
		},
		HelpSynopsis: "Ask whether a token is good.",
		HelpDescription: "The answer has the members of RFC 7662, and says why a token is not good: malformed, wrong_environment, unknown, expired, revoked, " +
			"role_deleted, subject_disabled, wrong_audience, insufficient_scope, address_not_allowed, host_not_allowed.",
	}}
}

func (b *backend) introspect(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	text, err := tokenField(d)
	if err != nil {
		return nil, err
	}
	use, err := useOf(d)
	if err != nil {
		return nil, err
	}
	v, err := b.decide(ctx, req.Storage, st, text, use)
	if err != nil {
		return nil, err
	}

	data := map[string]any{"active": v.reason == access.Good}
	if v.reason != access.Good {
		data["reason"] = string(v.reason)
		data["detail"] = v.explain(use)
	}
	if v.claims == nil {
		return &logical.Response{Data: data}, nil
	}
	c := st.config.orDefaults()
	maps.Copy(data, v.members(c))
	data["token_id"] = v.claims.Name()
	if v.claims.Grant != v.claims.ID {
		data["grant_id"] = v.claims.Grant.String()
	}
	if st.config.broken() == nil {
		data["environment"] = c.environment(req.MountPoint)
	}
	if v.role != nil {
		data["role"] = v.role.Name()
	}
	if v.grant != nil {
		addLimits(data, v.grant)
		if len(v.metadata) > 0 {
			data["metadata"] = v.metadata
		}
	}
	return &logical.Response{Data: data}, nil
}

// tokenField reads the token that is asked about. What cannot be one by its size or its bytes is an
// error of the caller; what only looks wrong is answered as malformed.
func tokenField(d *framework.FieldData) (string, error) {
	text := d.Get("token").(string)
	switch {
	case text == "":
		return "", refusal.Field("token", "is missing")
	case len(text) > token.MaxLen:
		return "", refusal.Field("token", "is %d bytes long, the longest token has %d", len(text), token.MaxLen)
	case !isPrintable(text):
		return "", refusal.Field("token", "has bytes that are not printable ASCII")
	}
	return text, nil
}

// useOf reads the use that is asked about.
func useOf(d *framework.FieldData) (*access.Use, error) {
	use := &access.Use{Audience: d.Get("audience").(string)}
	if v, given := d.GetOk("required_scopes"); given {
		scopes, err := access.ParseScopes(v.([]string))
		if err != nil {
			return nil, refusal.Field("required_scopes", "%s", err)
		}
		use.Scopes = scopes
	}
	if v, given := d.GetOk("client_ip"); given {
		addr, err := access.ParseClientIP(v.(string))
		if err != nil {
			return nil, refusal.Field("client_ip", "%s", err)
		}
		use.ClientIP = addr
	}
	if v, given := d.GetOk("host"); given {
		host, err := access.ParseHost(v.(string))
		if err != nil {
			return nil, refusal.Field("host", "%s", err)
		}
		use.Host = host
	}
	return use, nil
}

// verdict is what the engine says of a token. What it does not know is zero.
type verdict struct {
	reason   access.Reason
	claims   *token.Claims
	life     access.State // renewals included
	role     *role.Role
	grant    *access.Permissions
	metadata map[string]string
}

// explain says in a sentence why the token is not good.
func (v *verdict) explain(use *access.Use) string {
	if v.claims != nil && v.claims.Generation > 0 && v.reason == access.WrongAudience {
		return "this is a refresh token, which is for oauth/token and for no API"
	}
	return access.Explain(v.reason, v.grant, use)
}

// open opens a token of either encoding. Another process may have made the key since Vault last told of a change:
// an unknown one is looked up in storage.
func (st *state) open(ctx context.Context, s logical.Storage, text string) (*token.Claims, error) {
	if token.IsJWT(text) {
		return native.Open(ctx, s, st.signers, text, token.OpenJWT)
	}
	return native.Open(ctx, s, st.keys, text, token.Open)
}

// decide opens a token and judges a use of it.
func (b *backend) decide(ctx context.Context, s logical.Storage, st *state, text string, use *access.Use) (*verdict, error) {
	claims, err := st.open(ctx, s, text)
	switch {
	case errors.Is(err, token.ErrMalformed):
		return &verdict{reason: access.Malformed}, nil
	case errors.Is(err, token.ErrUnknownKey):
		return &verdict{reason: access.WrongEnvironment}, nil
	case errors.Is(err, token.ErrSpentKey):
		return &verdict{reason: access.Expired}, nil
	case errors.Is(err, token.ErrDestroyedKey):
		return &verdict{reason: access.Revoked}, nil
	case errors.Is(err, token.ErrBrokenKey):
		return nil, err
	case err != nil:
		return &verdict{reason: access.Unknown}, nil
	}

	now := b.now()
	life := st.life(claims.ID, claims.Grant, claims.Role, claims.ExpiresAt)
	v := &verdict{claims: claims, life: life, role: st.roles.ByID(claims.Role)}
	if v.role != nil {
		v.grant, v.metadata = v.role.Permissions(claims)
	}
	if err := st.readable(claims.ID, claims.Grant, claims.Role); err != nil && !life.Revoked {
		return nil, err
	}
	if v.reason = life.Alive(now); v.reason != access.Good {
		return v, nil
	}
	if claims.Generation > 0 {
		v.reason = access.WrongAudience
		return v, nil
	}
	if v.grant == nil { // a version of the role that no live token has
		v.reason = access.Expired
		return v, nil
	}
	if life.SubjectDisabled, err = b.subjects.disabled(ctx, claims.Subject); err != nil {
		return nil, err
	}
	v.reason = access.Decide(now, life, v.grant, use)
	return v, nil
}
