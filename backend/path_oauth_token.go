package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
)

func (b *backend) pathsOAuthToken() []*framework.Path {
	return []*framework.Path{path("oauth/token", "request", "oauth-token", native.TokenFields,
		only(logical.UpdateOperation, forward(b.answer(b.pathOAuthTokenUpdate, "Refresh or exchange a token.",
			raw(mediaJSON, "Access token response of RFC 6749 section 5.1")))),
		"The OAuth 2.0 token endpoint: refresh and exchange tokens.",
		"Takes form-encoded parameters and needs no Vault token: the refresh token, or the token to exchange, is the credential. "+
			"A refresh (RFC 6749 section 6) returns a new pair of tokens and invalidates the refresh token. Reuse of a refresh token "+
			"after more than 10 seconds revokes the whole grant. "+
			"An exchange (RFC 8693) returns a token with fewer permissions.")}
}

func (b *backend) pathOAuthTokenUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	form := native.ReadTokenForm(parameters(d))
	if err := form.CheckGrantType(); err != nil {
		return nil, err
	}
	if err := b.Fence.ProveWritable(ctx, req.Storage); err != nil {
		return nil, err
	}
	pair, err := st.Grant(ctx, req.Storage, form, req.MountPoint, remoteAddr(req))
	if err != nil {
		return nil, err
	}
	if form.GrantType == native.GrantTypeRefresh {
		b.Counters.Refreshed()
	} else {
		b.Counters.Exchanged()
	}
	return document(mediaJSON, private, pair.Answer(b.Now()))
}

// remoteAddr returns the client address of a request; empty if unknown.
func remoteAddr(req *request) string {
	if req.Connection == nil {
		return ""
	}
	return req.Connection.RemoteAddr
}
