package backend

import (
	"context"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
)

func (b *backend) pathsRevoke() []*framework.Path {
	operation := b.change(b.pathRevokeUpdate, "Revoke a token and its grant, or all tokens of an entity.")
	operation.Responses = ok(mount.RevokeAnswer)
	maps.Copy(operation.Responses, noContent)
	return []*framework.Path{path("revoke", "revoke", "token", mount.RevokeFields,
		only(logical.UpdateOperation, operation),
		"Revoke a token, by the token or its token_id, or all tokens of an entity.",
		"For a leaked token: the caller needs no lease. Any token_id of a grant revokes the whole grant. Revoking an expired or "+
			"revoked token succeeds. Revoking an unknown token_id succeeds with a warning, and so does revoking a token whose key is "+
			"gone and whose grant is unknown. "+
			"A token that is mistyped or another mount's is an error, so that nobody takes a leak for closed that is not. The lease "+
			"stays until it ends, and cannot be renewed. Where a grant has several tokens, by refreshing or exchanging, all of them end. "+
			"With subject, the tokens of services end too, also those that the entity shares with others. Disable the entity in Vault "+
			"first, so that the entity gets no new tokens meanwhile.")}
}

func (b *backend) pathRevokeUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	target, err := given[mount.TargetRequest](d).Target()
	if err != nil {
		return nil, err
	}
	if target.Subject == "" {
		warnings, err := b.Revoke(ctx, req.Storage, st, target.Text, target.Grant)
		if err == nil {
			b.Counters.Revoked(metrics.ByRequest, 1)
		}
		return warned(warnings, err)
	}
	revoked, warnings, err := b.RevokeSubject(ctx, req.Storage, st, target.Subject)
	if err != nil {
		return nil, err
	}
	return &response{Data: map[string]any{"revoked": revoked}, Warnings: warnings}, nil
}
