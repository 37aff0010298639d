package backend

import (
	"context"
	"errors"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) pathsRevoke() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "revoke",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "revoke", OperationSuffix: "token"},
		Fields:       tokenOrIDFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: change(b.revoke, "End a token at once."),
		},
		HelpSynopsis: "End a token, by the token or its token_id.",
		HelpDescription: "For the token that has leaked: whoever finds it need not know its lease. Revoking a token that has ended, or a token_id that nothing is known of, succeeds. " +
			"A token that is mistyped or another mount's is an error, so that nobody takes a leak for closed that is not. The lease stays until it ends, and cannot be renewed. Where a grant has several tokens, by refreshing or exchanging, all of them end.",
	}}
}

func (b *backend) revoke(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	defer b.rotator.kick() // a static role may have kept it
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	text, id, refusal := tokenOrID(d)
	if refusal != nil {
		return refusal, nil
	}
	if u, known := st.upstreams.Get(id); known {
		return nil, b.endUpstream(ctx, req.Storage, st, u.ID)
	}
	if u, known := st.upstreams.Known(text); known {
		return nil, b.endUpstream(ctx, req.Storage, st, u.ID)
	}
	if text == "" {
		return nil, st.revokeGrant(ctx, req.Storage, id, token.StatusRef{})
	}

	claims, err := st.open(text)
	switch {
	case errors.Is(err, token.ErrSpentKey):
		return nil, nil
	case errors.Is(err, token.ErrMalformed):
		return fieldError("token", "is no token: its checksum does not fit, is it mistyped or cut short? Nothing was revoked"), nil
	case err != nil:
		return fieldError("token", "was not made by this mount, revoke it where it was. Nothing was revoked"), nil
	}
	return nil, st.revokeToken(ctx, req.Storage, claims)
}

// revokeToken ends the grant that a token belongs to.
func (st *state) revokeToken(ctx context.Context, s logical.Storage, claims *token.Claims) error {
	if claims.Grant == claims.ID {
		return st.revoke(ctx, s, claims.ID, claims.Status, claims.ExpiresAt)
	}
	return st.revokeGrant(ctx, s, claims.Grant, claims.Status)
}

// revokeGrant ends a grant of which only the id is known. One that is not in the inventory may be that of
// a token issued just before a crash.
func (st *state) revokeGrant(ctx context.Context, s logical.Storage, id token.ID, status token.StatusRef) error {
	end := st.now().Add(st.longestLifetime())
	if row, known := st.inventory.Get(id); known {
		end, status = row.ExpiresAt, row.Status
	}
	return st.revoke(ctx, s, id, status, end)
}
