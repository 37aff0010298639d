package backend

import (
	"cmp"
	"context"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// mediaIntrospectionJWT is the media type of a signed introspection answer (RFC 9701 section 4).
const mediaIntrospectionJWT = "application/" + token.TypeTokenIntrospection

func (b *backend) pathsOAuthIntrospect() []*framework.Path {
	hint := str("Ignored.")
	return []*framework.Path{
		path("oauth/introspect", "introspect", "oauth-token", fields{
			"token":           must(secret(str("Token that the API received."))),
			"token_type_hint": hint,
			"scope":           str("Scopes that the API call requires, separated by spaces; an extension of this engine. Default: none."),
			"audience":        str("Audience of the API; an extension of this engine. Default: not checked."),
			"client_ip": str("Address of the API's client; an extension of this engine. Required for a token with " +
				"token_bound_cidrs: otherwise the token is not active."),
			"region": str("Country of the API's client, an ISO 3166-1 alpha-2 code in upper case; an extension of this engine. " +
				"Required for a token with bound_regions: otherwise the token is not active. Default: the country of client_ip in " +
				"geoip_database of config."),
			"host": str("Host header of the API call; an extension of this engine. Required for a token with bound_hosts: " +
				"otherwise the token is not active."),
		},
			only(logical.UpdateOperation, b.answer(b.pathOAuthIntrospectUpdate, "Check whether a token is active (RFC 7662).",
				raw(mediaJSON, "Introspection response of RFC 7662 section 2.2"))),
			"OAuth 2.0 token introspection (RFC 7662).",
			"Takes form-encoded parameters; Vault authenticates the caller. An inactive token returns only active=false; "+
				"\"introspect\" returns the reason. With \"Accept: application/token-introspection+jwt\" the answer is signed (RFC 9701), "+
				"if the mount passes that header on."),
		path("oauth/revoke", "revoke", "oauth-token", fields{
			"token":           must(secret(str("Token or refresh token."))),
			"token_type_hint": hint,
		},
			only(logical.UpdateOperation, forward(b.answer(b.pathOAuthRevokeUpdate, "Revoke a token and its grant (RFC 7009).",
				raw(mediaJSON, "Empty, also for an unknown token")))),
			"OAuth 2.0 token revocation (RFC 7009).",
			"Takes form-encoded parameters; Vault authenticates the caller. Revokes the token and all other tokens of its grant. An "+
				"unknown token is a success. A token whose key is gone is the error unsupported_token_type."),
	}
}

func (b *backend) pathOAuthIntrospectUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	text := d.Get("token").(string)
	if text == "" {
		return nil, refusal.OAuth(refusal.InvalidRequest, "token is missing")
	}
	scopes, err := access.ParseScopes(strings.Fields(d.Get("scope").(string)))
	if err != nil {
		return nil, refusal.OAuth(refusal.InvalidRequest, "%s", err)
	}
	asked := &native.UseRequest{
		Audience: sent(d, "audience"), ClientIP: sent(d, "client_ip"), Region: sent(d, "region"), Host: sent(d, "host"),
	}
	use, err := asked.Parse()
	if err != nil {
		return nil, err
	}
	use.Scopes = scopes
	v, err := st.Verify(ctx, req.Storage, text, use)
	if err != nil {
		return nil, err
	}
	b.Counters.Decided(metrics.Introspection, v.Reason, 1)
	if b.WriteSafeReplicationState() {
		b.NoteUse(v, use, text)
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
		return rawResponse(http.StatusOK, mediaIntrospectionJWT, private, []byte(signed)), nil
	}
	return document(mediaJSON, private, answer)
}

// wantsSigned reports whether the caller accepts a signed answer. Vault passes the header on only if the mount is tuned to
// do that.
func wantsSigned(req *request) bool {
	for name, values := range req.Headers {
		if strings.EqualFold(name, "Accept") && strings.Contains(strings.Join(values, ","), mediaIntrospectionJWT) {
			return true
		}
	}
	return false
}

func (b *backend) pathOAuthRevokeUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	text := d.Get("token").(string)
	if text == "" {
		return nil, refusal.OAuth(refusal.InvalidRequest, "token is missing")
	}
	if err := b.RevokeOAuth(ctx, req.Storage, st, text); err != nil {
		return nil, err
	}
	return document(mediaJSON, private, struct{}{})
}
