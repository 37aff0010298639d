package backend

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// mediaIntrospectionJWT is the media type of a signed introspection answer (RFC 9701 section 4).
const mediaIntrospectionJWT = "application/" + token.TypeTokenIntrospection

func (b *backend) pathsOAuthIntrospect() []*framework.Path {
	hint := &framework.FieldSchema{Type: framework.TypeString, Description: "Ignored."}
	return []*framework.Path{
		{
			Pattern:      "oauth/introspect",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "introspect", OperationSuffix: "oauth-token"},
			Fields: map[string]*framework.FieldSchema{
				"token":           {Type: framework.TypeString, Required: true, Description: "Token that the API received.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
				"token_type_hint": hint,
				"scope":           {Type: framework.TypeString, Description: "Scopes that the API call requires, separated by spaces; an extension of this engine. Default: none."},
				"audience":        {Type: framework.TypeString, Description: "Audience of the API; an extension of this engine. Default: not checked."},
				"client_ip":       {Type: framework.TypeString, Description: "Address of the API's client; an extension of this engine. Required for a token with token_bound_cidrs: otherwise the token is not active."},
				"region":          {Type: framework.TypeString, Description: "Country of the API's client, an ISO 3166-1 alpha-2 code in upper case; an extension of this engine. Required for a token with bound_regions: otherwise the token is not active. Default: the country of client_ip in geoip_database of config."},
				"host":            {Type: framework.TypeString, Description: "Host header of the API call; an extension of this engine. Required for a token with bound_hosts: otherwise the token is not active."},
			},
			Operations:   only(logical.UpdateOperation, b.answer(b.pathOAuthIntrospectUpdate, "Check whether a token is active (RFC 7662).", rawResponses(http.StatusOK, mediaJSON, "Introspection response of RFC 7662 section 2.2"))),
			HelpSynopsis: "OAuth 2.0 token introspection (RFC 7662).",
			HelpDescription: "Takes form-encoded parameters; Vault authenticates the caller. An inactive token returns only active=false; " +
				"\"introspect\" returns the reason. With \"Accept: application/token-introspection+jwt\" the answer is signed (RFC 9701), if the mount passes that header on.",
		},
		{
			Pattern:      "oauth/revoke",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "revoke", OperationSuffix: "oauth-token"},
			Fields: map[string]*framework.FieldSchema{
				"token":           {Type: framework.TypeString, Required: true, Description: "Token or refresh token.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
				"token_type_hint": hint,
			},
			Operations:      only(logical.UpdateOperation, forward(b.answer(b.pathOAuthRevokeUpdate, "Revoke a token and its grant (RFC 7009).", rawResponses(http.StatusOK, mediaJSON, "Empty, also for an unknown token")))),
			HelpSynopsis:    "OAuth 2.0 token revocation (RFC 7009).",
			HelpDescription: "Takes form-encoded parameters; Vault authenticates the caller. Revokes the token and all other tokens of its grant. An unknown token is a success. A token whose key is gone is the error unsupported_token_type.",
		},
	}
}

func (b *backend) pathOAuthIntrospectUpdate(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	text := d.Get("token").(string)
	if text == "" {
		return nil, refusal.OAuth(refusal.InvalidRequest, "token is missing")
	}
	use := &access.Use{Audience: d.Get("audience").(string)}
	var err error
	if use.Scopes, err = access.ParseScopes(strings.Fields(d.Get("scope").(string))); err != nil {
		return nil, refusal.OAuth(refusal.InvalidRequest, "%s", err)
	}
	if v := d.Get("client_ip").(string); v != "" {
		if use.ClientIP, err = access.ParseClientIP(v); err != nil {
			return nil, refusal.OAuth(refusal.InvalidRequest, "client_ip: %s", err)
		}
	}
	if v := d.Get("region").(string); v != "" {
		if use.Region, err = access.ParseRegion(v); err != nil {
			return nil, refusal.OAuth(refusal.InvalidRequest, "region: %s", err)
		}
	}
	if v := d.Get("host").(string); v != "" {
		if use.Host, err = access.ParseHost(v); err != nil {
			return nil, refusal.OAuth(refusal.InvalidRequest, "host: %s", err)
		}
	}

	v, err := st.Verify(ctx, req.Storage, text, use)
	if err != nil {
		return nil, err
	}
	if b.WriteSafeReplicationState() {
		b.noteUse(v, use)
	}
	c, err := st.Config.Get()
	if err != nil {
		if wantsSigned(req) {
			return nil, err
		}
		c = st.Config.OrDefaults()
	}
	answer := map[string]any{"active": false}
	if v.Reason == access.Good {
		answer = v.Members(c)
		answer["active"] = true
	}
	if wantsSigned(req) && c.Issuer != "" {
		audience := cmp.Or(req.EntityID, req.DisplayName) // the caller
		signed, err := st.SignIntrospection(ctx, req.Storage, c, audience, answer)
		if err != nil {
			return nil, err
		}
		return rawResponse(http.StatusOK, mediaIntrospectionJWT, "no-store", []byte(signed)), nil
	}
	return noStore(http.StatusOK, answer)
}

// wantsSigned reports whether the caller accepts a signed answer. Vault passes the header on only if the mount is tuned to
// do that.
func wantsSigned(req *logical.Request) bool {
	for name, values := range req.Headers {
		if strings.EqualFold(name, "Accept") && strings.Contains(strings.Join(values, ","), mediaIntrospectionJWT) {
			return true
		}
	}
	return false
}

func (b *backend) pathOAuthRevokeUpdate(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	text := d.Get("token").(string)
	if text == "" {
		return nil, refusal.OAuth(refusal.InvalidRequest, "token is missing")
	}
	switch err := b.revokeText(ctx, req.Storage, st, text); {
	case errors.Is(err, token.ErrMalformed), errors.Is(err, token.ErrUnknownKey), errors.Is(err, token.ErrForged):
		// Revoking an unknown token is a success (RFC 7009 section 2.2).
	case errors.Is(err, token.ErrExpiredKey), errors.Is(err, token.ErrDestroyedKey):
		// The token is dead, but other tokens of the grant may be alive. By section 2.1 a client takes a success for the
		// revocation of the grant. The answer is therefore the error of section 2.2.1.
		return nil, refusal.OAuth(refusal.UnsupportedTokenType, "the token is not active, but its key is gone: the grant of the token is unknown, and no other token was revoked")
	case err != nil:
		return nil, err
	}
	return rawResponse(http.StatusOK, mediaJSON, "no-store", []byte("{}")), nil
}
