package backend

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) pathsRevoke() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "revoke",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "revoke", OperationSuffix: "token"},
		Fields:       tokenOrIDFields(),
		Operations:   only(logical.UpdateOperation, b.change(b.pathRevokeUpdate, "Revoke a token and its grant.")),
		HelpSynopsis: "Revoke a token, by the token or its token_id.",
		HelpDescription: "For a leaked token: the caller needs no lease. Any token_id of a grant revokes the whole grant. Revoking an expired or revoked token succeeds. Revoking an unknown token_id succeeds with a warning, and so does revoking a token whose key is gone and whose grant is unknown. " +
			"A token that is mistyped or another mount's is an error, so that nobody takes a leak for closed that is not. The lease stays until it ends, and cannot be renewed. Where a grant has several tokens, by refreshing or exchanging, all of them end.",
	}}
}

func (b *backend) pathRevokeUpdate(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	defer b.statics.Wake() // a static role may have kept the token
	text, id, err := tokenOrID(d)
	if err != nil {
		return nil, err
	}
	t, isUpstream := st.upstreams.Known(text)
	if text == "" {
		if t, isUpstream, err = st.upstreams.Find(ctx, id); err != nil {
			return nil, err
		}
	}
	if isUpstream {
		return b.revokeUpstream(ctx, t.ID)
	}
	if text == "" {
		known, err := st.RevokeID(ctx, req.Storage, id)
		if err != nil || known {
			return nil, err
		}
		return warned([]string{fmt.Sprintf("token_id %q is unknown. If this mount issued a token of that id just before a crash, or without a lease, introspection "+
			"now rejects the token; a status list does not show the revocation. If you have the token, revoke by token", id)}, nil)
	}
	switch err := b.revokeText(ctx, req.Storage, st, text); {
	case errors.Is(err, token.ErrMalformed):
		return nil, refusal.Field("token", "is no token: the checksum is wrong, so the token may be mistyped or cut short. Nothing was revoked")
	case errors.Is(err, token.ErrExpiredKey), errors.Is(err, token.ErrDestroyedKey):
		return b.revokeUnopened(ctx, req.Storage, st, text, err)
	case errors.Is(err, token.ErrUnknownKey), errors.Is(err, token.ErrForged):
		return nil, refusal.Field("token", "was not made by this mount: revoke the token at the mount that issued it. Nothing was revoked")
	case err != nil:
		return nil, err
	}
	return nil, nil
}

// revokeUnopened revokes the grant of a token whose key is gone, and warns if the grant is unknown.
func (b *backend) revokeUnopened(ctx context.Context, s logical.Storage, st *state, text string, reason error) (*logical.Response, error) {
	if known, err := st.RevokeUnopened(ctx, s, text); err != nil || known {
		return nil, err
	}
	return warned([]string{fmt.Sprintf("the token was %s and is not valid, but its grant is unknown: other tokens of the grant, refreshed or exchanged with another "+
		"key, may be active. To revoke the grant, revoke its token_id or its lease", reason)}, nil)
}

// revokeUpstream revokes an upstream token, and warns if the service has not confirmed the revocation.
func (b *backend) revokeUpstream(ctx context.Context, id token.ID) (*logical.Response, error) {
	defer b.statics.Wake() // a static role may have kept the token
	o, err := b.upstreams.Revoke(ctx, id)
	if err != nil || !o.Queued {
		return nil, err
	}
	warning := fmt.Sprintf("the service of connection %q has not confirmed the revocation yet. The engine retries until the service confirms: see the queue of the connection", o.Service)
	if !o.EndsAt.IsZero() {
		warning = fmt.Sprintf("the service of connection %q cannot revoke the token. The token works there until %s: limit its permissions there", o.Service, rfc3339(o.EndsAt))
	}
	return warned([]string{warning}, nil)
}

// revokeText revokes the grant of a native token, or an upstream token.
func (b *backend) revokeText(ctx context.Context, s logical.Storage, st *state, text string) error {
	defer b.statics.Wake() // a static role may have kept the token
	if u, known := st.upstreams.Known(text); known {
		_, err := b.upstreams.Revoke(ctx, u.ID)
		return err
	}
	return st.Revoke(ctx, s, text)
}
