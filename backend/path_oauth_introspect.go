package backend

import (
	"cmp"
	"context"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// mediaIntrospectionJWT is the media type of a signed introspection answer (RFC 9701 section 4).
const mediaIntrospectionJWT = "application/" + token.TypeTokenIntrospection

func (b *backend) pathsOAuthIntrospect() []*framework.Path {
	return []*framework.Path{
		path("oauth/introspect", "introspect", "oauth-token", native.IntrospectFields,
			only(logical.UpdateOperation, b.answer(b.pathOAuthIntrospectUpdate, "Check whether a token is active (RFC 7662).",
				raw(mediaJSON, "Introspection response of RFC 7662 section 2.2"))),
			"OAuth 2.0 token introspection (RFC 7662).",
			"Takes form-encoded parameters; Vault authenticates the caller. An inactive token returns only active=false; "+
				"\"introspect\" returns the reason. With \"Accept: application/token-introspection+jwt\" the answer is signed (RFC 9701), "+
				"if the mount passes that header on."),
		path("oauth/revoke", "revoke", "oauth-token", native.RevokeFields,
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
	use, err := native.ReadUseForm(parameters(d))
	if err != nil {
		return nil, err
	}
	answer, signed, err := b.IntrospectOAuth(ctx, req.Storage, st, &mount.OAuthIntrospection{
		Text: text, Use: use, Signed: wantsSigned(req), Caller: cmp.Or(req.EntityID, req.DisplayName),
	})
	if err != nil {
		return nil, err
	}
	if signed != "" {
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
