package backend

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/leaks"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

func (b *backend) pathsLeaked() []*framework.Path {
	return []*framework.Path{path("leaked", "report", "leaked-tokens", leaks.Fields,
		only(logical.UpdateOperation, forward(b.answer(b.pathLeakedUpdate, "Report leaked tokens, and revoke those that are alive.",
			ok(leaks.Answer)))),
		"Report leaked tokens, and revoke those that are alive.",
		"For the finder of a token: the path needs no Vault token, since the token in the request is the credential. A live token, "+
			"also a refresh token, is revoked with its grant, and yields a finding of the rule leaked. The answer does not say whether "+
			"a token was alive. public_revocation of config turns the path off.")}
}

func (b *backend) pathLeakedUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	c, err := st.Config.Get()
	if err != nil {
		return nil, err
	}
	if !c.PublicRevocation {
		off := refusal.New("public_revocation of config is off: revoke a leaked token by \"revoke\", which needs a Vault token")
		off.HTTP = http.StatusForbidden
		return nil, off
	}
	value, given := d.Raw["tokens"]
	if !given {
		return nil, refusal.Field("tokens", "is required: 1 to %d tokens", leaks.MaxReports)
	}
	reports, err := leaks.Parse("tokens", value)
	if err != nil {
		return nil, err
	}
	ours, err := b.Leaked(ctx, req.Storage, st, reports, remoteAddr(req))
	if err != nil {
		return nil, err
	}
	results := make([]any, len(reports))
	for i := range reports {
		results[i] = reports[i].Answer(ours[i])
	}
	return &response{Data: map[string]any{"results": results}}, nil
}
