package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathsRevoke() []*framework.Path {
	return []*framework.Path{path("revoke", "revoke", "token", tokenOrIDFields(),
		only(logical.UpdateOperation, b.change(b.pathRevokeUpdate, "Revoke a token and its grant.")),
		"Revoke a token, by the token or its token_id.",
		"For a leaked token: the caller needs no lease. Any token_id of a grant revokes the whole grant. Revoking an expired or "+
			"revoked token succeeds. Revoking an unknown token_id succeeds with a warning, and so does revoking a token whose key is "+
			"gone and whose grant is unknown. "+
			"A token that is mistyped or another mount's is an error, so that nobody takes a leak for closed that is not. The lease "+
			"stays until it ends, and cannot be renewed. Where a grant has several tokens, by refreshing or exchanging, all of them end.")}
}

func (b *backend) pathRevokeUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	text, id, err := tokenOrID(d)
	if err != nil {
		return nil, err
	}
	return warned(b.Revoke(ctx, req.Storage, st, text, id))
}
