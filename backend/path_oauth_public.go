package backend

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Media types of RFC 7517 section 8.5.1 and draft-ietf-oauth-status-list section 14.7.
const (
	mediaJWKS       = "application/jwk-set+json"
	mediaStatusList = "application/" + token.TypeStatusList
)

// unauthenticated are the paths that need no Vault token: the documents that verifiers read, the token endpoint, and the
// reports of leaked tokens. The credential at the last two is the token in the request.
var unauthenticated = []string{
	"leaked",
	"oauth/token",
	"oauth/jwks",
	"oauth/status",
	"oauth/status/*",
	".well-known/openid-configuration",
	".well-known/oauth-authorization-server",
}

func (b *backend) pathsOAuthPublic() []*framework.Path {
	read := func(pattern, suffix, media string, h handler, f fields, what, help string) *framework.Path {
		return path(pattern, "", suffix, f, only(logical.ReadOperation, b.answer(h, what, raw(media, what))),
			what, help+" The path needs no Vault token.")
	}
	metadata := func(pattern, suffix string) *framework.Path {
		return read(pattern, suffix, mediaJSON, b.pathWellKnownRead, nil, "The issuer's metadata.",
			"Lists the endpoints and their features (RFC 8414, OpenID Connect Discovery 1.0).")
	}
	number := fields{"number": schema.Str("Number of the list, from the URI in the token's status.").Must()}
	return []*framework.Path{
		read("oauth/jwks", "jwks", mediaJWKS, b.pathOAuthJWKSRead, nil, "The public keys of JWTs.",
			"Returns a JWK set (RFC 7517): the current key, the next key, and the former keys whose tokens may still be live."),
		read("oauth/status/"+framework.GenericNameRegex("number"), "status-list", mediaStatusList, b.pathOAuthStatusRead, number,
			"A signed status list.", "Lists the JWTs that were revoked before their expiry (draft-ietf-oauth-status-list)."),
		read("oauth/status/?$", "status-lists", mediaJSON, b.pathOAuthStatusList, nil, "The URIs of all status lists.",
			"For API servers that fetch the lists in advance (draft-ietf-oauth-status-list section 9)."),
		metadata(`\.well-known/openid-configuration`, "openid-configuration"),
		metadata(`\.well-known/oauth-authorization-server`, "oauth-authorization-server"),
	}
}

func (b *backend) pathOAuthJWKSRead(ctx context.Context, st *state, req *request, _ *input) (*response, error) {
	caching := private // if the config cannot be read, how long verifiers may cache the answer is unknown
	if c, err := st.Config.Get(); err == nil {
		caching = maxAge(c.JWKSMaxAge)
	}
	return document(mediaJWKS, caching, st.Signing.Ring().PublicKeys())
}

func (b *backend) pathWellKnownRead(ctx context.Context, st *state, req *request, _ *input) (*response, error) {
	c, err := st.Config.Get()
	if err != nil {
		return nil, err
	}
	if c.Issuer == "" {
		return refused(http.StatusNotFound, map[string]string{"error": "no issuer is configured"}), nil
	}
	return document(mediaJSON, maxAge(c.JWKSMaxAge), c.Metadata())
}

func (b *backend) pathOAuthStatusList(ctx context.Context, st *state, req *request, _ *input) (*response, error) {
	c, err := st.Config.Get()
	if err != nil {
		return nil, err
	}
	uris := []string{}
	for _, number := range st.StatusIndexes.Lists() {
		uris = append(uris, c.StatusURI(number))
	}
	return document(mediaJSON, maxAge(c.StatusListTTL), map[string]any{"status_lists": uris})
}

func (b *backend) pathOAuthStatusRead(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	c, err := st.Config.Get()
	if err != nil {
		return nil, err
	}
	number, known := st.StatusIndexes.Named(d.Get("number").(string))
	if !known {
		return refused(http.StatusNotFound, map[string]string{"error": "there is no such status list"}), nil
	}
	body, err := b.StatusLists.Get(ctx, req.Storage, &st.Tokens, c, number)
	if err != nil {
		return nil, err
	}
	return rawResponse(http.StatusOK, mediaStatusList, maxAge(c.StatusListTTL), body), nil
}
