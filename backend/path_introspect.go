package backend

import (
	"context"
	"maps"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
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
			"required_scopes": {Type: framework.TypeCommaStringSlice, Description: "Scopes that the call to the API needs. Default: none; the API compares with \"scope\" itself."},
			"audience":        {Type: framework.TypeString, Description: "The API that asks, as roles name it in their audience. Default: not checked."},
			"client_ip":       {Type: framework.TypeString, Description: "Address that the token was used from. A token that is bound to addresses is not good without it."},
			"host":            {Type: framework.TypeString, Description: "Host that the token was used at, as in the Host header. A token that is bound to hosts is not good without it."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback: b.pathIntrospectUpdate,
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

func (b *backend) pathIntrospectUpdate(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
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
	v, err := st.Verify(ctx, req.Storage, text, use)
	if err != nil {
		return nil, err
	}

	data := map[string]any{"active": v.Reason == access.Good}
	if v.Reason != access.Good {
		data["reason"] = string(v.Reason)
		data["detail"] = v.Explain(use)
	}
	if v.Claims == nil {
		return &logical.Response{Data: data}, nil
	}
	c := st.Config.OrDefaults()
	maps.Copy(data, members(v, c))
	data["token_id"] = v.Claims.Name()
	if v.Claims.Grant != v.Claims.ID {
		data["grant_id"] = v.Claims.Grant.String()
	}
	if st.Config.Broken() == nil {
		data["environment"] = c.EnvironmentOf(req.MountPoint)
	}
	if v.Role != nil {
		data["role"] = v.Role.Name()
	}
	if v.Permissions != nil {
		addLimits(data, v.Permissions)
		if len(v.Metadata) > 0 {
			data["metadata"] = v.Metadata
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
	case strings.IndexFunc(text, func(r rune) bool { return r < 0x20 || r > 0x7e }) >= 0:
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

// members returns the members of an introspection answer (RFC 7662 section 2.2) of a token that could be opened.
func members(v *native.Verdict, c *native.Config) map[string]any {
	data := map[string]any{
		"jti":        v.Claims.Name(),
		"token_type": native.PresentedAs(v.Claims),
		"exp":        v.Life.ExpiresAt.Unix(),
		"iat":        v.Claims.IssuedAt.Unix(),
	}
	if c.Issuer != "" {
		data["iss"] = c.Issuer
	}
	if v.Claims.Subject != "" {
		data["sub"] = v.Claims.Subject
	}
	if v.Role != nil {
		data["client_id"] = v.Role.Name()
	}
	if v.Permissions != nil {
		data["scope"] = v.Permissions.Scopes.Parameter()
		if v.Permissions.Audience != nil {
			data["aud"] = v.Permissions.Audience
		}
	}
	if cnf := v.Claims.Confirmation; cnf.JKT != "" {
		data["cnf"] = map[string]any{"jkt": cnf.JKT}
	} else if cnf.X5T != "" {
		data["cnf"] = map[string]any{"x5t#S256": cnf.X5T}
	}
	return data
}
