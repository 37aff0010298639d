package backend

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

func (b *backend) pathsOAuthToken() []*framework.Path {
	return []*framework.Path{path("oauth/token", "request", "oauth-token", fields{
		"grant_type":           must(str("refresh_token or urn:ietf:params:oauth:grant-type:token-exchange.")),
		"refresh_token":        secret(str("Refresh token, for one use.")),
		"subject_token":        secret(str("Token to exchange, of a role with exchange=true.")),
		"subject_token_type":   str("urn:ietf:params:oauth:token-type:access_token, or ...:jwt for a JWT."),
		"requested_token_type": str("Same values as subject_token_type. Default: the token format of the role."),
		"actor_token":          secret(str("Not supported.")),
		"scope": str("Scopes of the new token, separated by spaces, within the scopes of the old token. Default: the " +
			"same."),
		"audience": str("API that the new token is for, within the audience of the old token. Default: the same."),
		"resource": str("Same as audience (RFC 8707)."),
		"ttl": str("TTL of the new token, at most the remaining lifetime of the old token; an extension of this " +
			"engine."),
		"bound_regions": str("Regions that the new token may be used from, separated by spaces, within the regions of the old " +
			"token; an extension of this engine. Default: the same."),
		"token_bound_cidrs": str("Addresses that the new token may be used from, separated by spaces, within the addresses of " +
			"the old token; an extension of this engine. Default: the same."),
	},
		only(logical.UpdateOperation, forward(b.answer(b.pathOAuthTokenUpdate, "Refresh or exchange a token.",
			raw(mediaJSON, "Access token response of RFC 6749 section 5.1")))),
		"The OAuth 2.0 token endpoint: refresh and exchange tokens.",
		"Takes form-encoded parameters and needs no Vault token: the refresh token, or the token to exchange, is the credential. "+
			"A refresh (RFC 6749 section 6) returns a new pair of tokens and invalidates the refresh token. Reuse of a refresh token "+
			"after more than 10 seconds revokes the whole grant. "+
			"An exchange (RFC 8693) returns a token with fewer permissions.")}
}

func (b *backend) pathOAuthTokenUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	grantType := d.Get("grant_type").(string)
	if grantType == native.GrantTypeRefresh || grantType == native.GrantTypeExchange {
		if err := b.Fence.ProveWritable(ctx, req.Storage); err != nil {
			return nil, err
		}
	}
	switch grantType {
	case native.GrantTypeRefresh:
		return b.oauthRefresh(ctx, st, req, d)
	case native.GrantTypeExchange:
		return b.oauthExchange(ctx, st, req, d)
	case "":
		return nil, refusal.OAuth(refusal.InvalidRequest, "grant_type is missing")
	}
	return nil, refusal.OAuth(refusal.UnsupportedGrantType, "grant_type must be %s or %s",
		native.GrantTypeRefresh, native.GrantTypeExchange)
}

func (b *backend) oauthRefresh(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	text := d.Get("refresh_token").(string)
	if text == "" {
		return nil, refusal.OAuth(refusal.InvalidRequest, "refresh_token is missing")
	}
	pair, err := st.Refresh(ctx, req.Storage, &native.RefreshRequest{
		RefreshToken: text, Scope: strings.Fields(d.Get("scope").(string)), MountPoint: req.MountPoint, RemoteAddr: remoteAddr(req),
	})
	if err != nil {
		return nil, err
	}
	b.Counters.Refreshed()
	return document(mediaJSON, private, pair.Answer(b.Now()))
}

func (b *backend) oauthExchange(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	text := func(parameter string) string { return d.Get(parameter).(string) }
	form := &native.ExchangeForm{
		SubjectToken: text("subject_token"), SubjectTokenType: text("subject_token_type"),
		RequestedTokenType: text("requested_token_type"), ActorToken: text("actor_token"),
		Scope: text("scope"), Audience: text("audience"), Resource: text("resource"), TTL: text("ttl"),
		TokenBoundCIDRs: text("token_bound_cidrs"), BoundRegions: text("bound_regions"),
	}
	q, err := form.Parse()
	if err != nil {
		return nil, err
	}
	q.MountPoint, q.RemoteAddr = req.MountPoint, remoteAddr(req)
	pair, err := st.Exchange(ctx, req.Storage, q)
	if err != nil {
		return nil, err
	}
	b.Counters.Exchanged()
	return document(mediaJSON, private, pair.Answer(b.Now()))
}

// remoteAddr returns the client address of a request; empty if unknown.
func remoteAddr(req *request) string {
	if req.Connection == nil {
		return ""
	}
	return req.Connection.RemoteAddr
}
