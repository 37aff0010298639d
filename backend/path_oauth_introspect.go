package backend

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// mediaIntrospectionJWT is the media type of an introspection answer that is signed (RFC 9701 section 4).
const mediaIntrospectionJWT = "application/" + token.TypeTokenIntrospection

func (b *backend) pathsOAuthIntrospect() []*framework.Path {
	hint := &framework.FieldSchema{Type: framework.TypeString, Description: "Ignored."}
	return []*framework.Path{
		{
			Pattern:      "oauth/introspect",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "introspect", OperationSuffix: "oauth-token"},
			Fields: map[string]*framework.FieldSchema{
				"token":           {Type: framework.TypeString, Required: true, Description: "The token that the API was shown.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
				"token_type_hint": hint,
				"scope":           {Type: framework.TypeString, Description: "Scopes that the call to the API needs, separated by spaces; an extension of this engine."},
				"audience":        {Type: framework.TypeString, Description: "The API that asks; an extension of this engine."},
				"client_ip":       {Type: framework.TypeString, Description: "Address that the token was used from; an extension of this engine. A token that is bound to addresses is not active without it."},
				"host":            {Type: framework.TypeString, Description: "Host that the token was used at; an extension of this engine. A token that is bound to hosts is not active without it."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{
					Callback:  b.oauthIntrospect,
					Summary:   "Answer whether a token is active (RFC 7662).",
					Responses: rawResponses(http.StatusOK, mediaJSON, "Introspection response of RFC 7662 section 2.2"),
				},
			},
			HelpSynopsis: "OAuth 2.0 token introspection (RFC 7662).",
			HelpDescription: "Takes form-encoded parameters; the caller is authenticated by Vault. The answer of a token that is not active says nothing else; " +
				"\"introspect\" returns the reason. With \"Accept: application/token-introspection+jwt\" the answer is signed (RFC 9701), if the mount passes that header on.",
		},
		{
			Pattern:      "oauth/revoke",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "revoke", OperationSuffix: "oauth-token"},
			Fields: map[string]*framework.FieldSchema{
				"token":           {Type: framework.TypeString, Required: true, Description: "The token, or refresh token.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
				"token_type_hint": hint,
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{
					Callback:                    b.oauthRevoke,
					Summary:                     "Revoke a token and its grant (RFC 7009).",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					Responses:                   rawResponses(http.StatusOK, mediaJSON, "Empty, also for a token that is not known"),
				},
			},
			HelpSynopsis:    "OAuth 2.0 token revocation (RFC 7009).",
			HelpDescription: "Takes form-encoded parameters; the caller is authenticated by Vault. Revokes the token and all others of its grant. An unknown token is a success; a token whose key is gone is unsupported_token_type.",
		},
	}
}

func (b *backend) oauthIntrospect(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	text := d.Get("token").(string)
	if text == "" {
		return nil, oauthError(invalidRequest, "token is missing")
	}
	use := &access.Use{Audience: d.Get("audience").(string)}
	if use.Scopes, err = access.ParseScopes(strings.Fields(d.Get("scope").(string))); err != nil {
		return nil, oauthError(invalidRequest, "%s", err)
	}
	if v := d.Get("client_ip").(string); v != "" {
		if use.ClientIP, err = access.ParseClientIP(v); err != nil {
			return nil, oauthError(invalidRequest, "client_ip: %s", err)
		}
	}
	if v := d.Get("host").(string); v != "" {
		if use.Host, err = access.ParseHost(v); err != nil {
			return nil, oauthError(invalidRequest, "host: %s", err)
		}
	}

	v, err := b.decide(ctx, req.Storage, st, text, use)
	if err != nil {
		return nil, err
	}
	c, err := st.config.get()
	if err != nil {
		if wantsSigned(req) {
			return nil, err
		}
		c = st.config.orDefaults()
	}
	answer := map[string]any{"active": false}
	if v.reason == access.Good {
		answer = v.members(c)
		answer["active"] = true
	}
	if wantsSigned(req) && c.Issuer != "" {
		return st.signIntrospection(ctx, req, c, answer)
	}
	return noStore(http.StatusOK, answer)
}

// wantsSigned tells whether the caller accepts a signed answer. Vault passes the header on only where the
// mount is tuned to.
func wantsSigned(req *logical.Request) bool {
	for name, values := range req.Headers {
		if strings.EqualFold(name, "Accept") && strings.Contains(strings.Join(values, ","), mediaIntrospectionJWT) {
			return true
		}
	}
	return false
}

// signIntrospection is the answer as a JWT (RFC 9701 section 5). It is for whoever asked, by Vault entity, or
// display name where there is none.
func (st *state) signIntrospection(ctx context.Context, req *logical.Request, c *config, answer map[string]any) (*logical.Response, error) {
	audience := req.EntityID
	if audience == "" {
		audience = req.DisplayName
	}
	payload, err := json.Marshal(map[string]any{
		"iss": c.Issuer, "aud": audience, "iat": st.now().Unix(), "token_introspection": answer,
	})
	if err != nil {
		return nil, err
	}
	var signed string
	if err := st.signers.Sign(ctx, req.Storage, c.SigningAlgorithm, 0, func(ring *token.SigningRing) error {
		signed, err = ring.Sign(token.TypeTokenIntrospection, payload)
		return err
	}); err != nil {
		return nil, err
	}
	return rawResponse(http.StatusOK, mediaIntrospectionJWT, "no-store", []byte(signed)), nil
}

func (b *backend) oauthRevoke(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	text := d.Get("token").(string)
	if text == "" {
		return nil, oauthError(invalidRequest, "token is missing")
	}
	switch err := b.revokeText(ctx, req.Storage, st, text); {
	case errors.Is(err, token.ErrMalformed), errors.Is(err, token.ErrUnknownKey), errors.Is(err, token.ErrForged):
		// A token that is not known needs no revoking (RFC 7009 section 2.2).
	case errors.Is(err, token.ErrSpentKey), errors.Is(err, token.ErrDestroyedKey):
		// The token is dead, but its grant may not be, and section 2.1 has the client take a success for the end of the
		// grant. So it is told that this token cannot be used for that (section 2.2.1).
		return nil, oauthError(unsupportedTokenType, "the token is not active, but its key is gone: which grant it is of cannot be read, and no other token was revoked")
	case err != nil:
		return nil, err
	}
	return rawResponse(http.StatusOK, mediaJSON, "no-store", []byte("{}")), nil
}
