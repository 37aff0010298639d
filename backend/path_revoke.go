package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) pathsRevoke() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "revoke",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "revoke", OperationSuffix: "token"},
		Fields:       tokenOrIDFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: change(b.revoke, "Revoke a token and its grant."),
		},
		HelpSynopsis: "Revoke a token, by the token or its token_id.",
		HelpDescription: "For the token that has leaked: whoever finds it need not know its lease. Any token_id of a grant leads to the whole grant. Revoking a token that has ended succeeds; a token_id that nothing is known of succeeds with a warning, and so does a token whose key is gone, where its grant cannot be told. " +
			"A token that is mistyped or another mount's is an error, so that nobody takes a leak for closed that is not. The lease stays until it ends, and cannot be renewed. Where a grant has several tokens, by refreshing or exchanging, all of them end.",
	}}
}

func (b *backend) revoke(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
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
		known, err := b.revokeID(ctx, req.Storage, st, id)
		if err != nil || known {
			return nil, err
		}
		resp := new(logical.Response)
		resp.AddWarning(fmt.Sprintf("nothing is known of token_id %q. If this mount issued a token of that id just before a crash, or without a lease, the token "+
			"is revoked now for introspection; a status list does not show it. Revoke by token where you have it", id))
		return resp, nil
	}
	switch err := b.revokeText(ctx, req.Storage, st, text); {
	case errors.Is(err, token.ErrMalformed):
		return nil, refusal.Field("token", "is no token: its checksum does not fit, is it mistyped or cut short? Nothing was revoked")
	case errors.Is(err, token.ErrSpentKey), errors.Is(err, token.ErrDestroyedKey):
		return b.revokeUnopened(ctx, req.Storage, st, text, err)
	case errors.Is(err, token.ErrUnknownKey), errors.Is(err, token.ErrForged):
		return nil, refusal.Field("token", "was not made by this mount, revoke it where it was. Nothing was revoked")
	case err != nil:
		return nil, err
	}
	return nil, nil
}

// revokeUnopened revokes the grant of a token whose key is gone for a reason, as far as the token says in plain text which
// one that is, and warns where that leads to no grant. Whoever calls may revoke any id, so the text need not be trusted.
func (b *backend) revokeUnopened(ctx context.Context, s logical.Storage, st *state, text string, reason error) (*logical.Response, error) {
	if grant, ok := token.PlainGrant(text); ok {
		known, err := b.revokeID(ctx, s, st, grant)
		if err != nil || known {
			return nil, err
		}
	}
	resp := new(logical.Response)
	resp.AddWarning(fmt.Sprintf("the token was %s and is good for nothing, but nobody can read any more which grant it is of: tokens of that grant that were "+
		"made with another key, by refreshing or exchanging, may be active. To end the grant revoke its token_id or its lease", reason))
	return resp, nil
}

// revokeUpstream revokes a token of a service, and warns where that is not done yet.
func (b *backend) revokeUpstream(ctx context.Context, id token.ID) (*logical.Response, error) {
	defer b.statics.Wake() // a static role may have kept it
	o, err := b.upstreams.Revoke(ctx, id)
	if err != nil || !o.Queued {
		return nil, err
	}
	resp := new(logical.Response)
	if !o.EndsAt.IsZero() {
		resp.AddWarning(fmt.Sprintf("the service of connection %q cannot revoke the token, which works there until %s: limit what it may do there", o.Service, o.EndsAt.UTC().Format(time.RFC3339)))
	} else {
		resp.AddWarning(fmt.Sprintf("the service of connection %q has not confirmed the revocation yet, the engine tries again until it does: see its queue", o.Service))
	}
	return resp, nil
}

// Every door of revocation leads to state.revoke, or to endUpstream for a token at an upstream: revokeUpstream,
// revokeText and revokeID from the paths, revokeToken from the reuse of a refresh token, tokenRevoke from the lease.
// Only the lease's knows when the grant ends: it ends the grant on time, which needs no note. What is known elsewhere
// may be behind.

// revokeText revokes the grant of a token, or the token at an upstream. A token that has ended is no error; one
// that this mount did not make, or of which no key can tell the grant any more, is, with the errors of token.Open.
func (b *backend) revokeText(ctx context.Context, s logical.Storage, st *state, text string) error {
	defer b.statics.Wake() // a static role may have kept it
	if u, known := st.upstreams.Known(text); known {
		return b.endUpstream(ctx, s, st, u.ID)
	}
	claims, err := st.open(ctx, s, text)
	if err != nil {
		return err
	}
	return b.revokeToken(ctx, s, st, claims)
}

// revokeID revokes the grant with an ID, and reports whether anything is known of that ID.
func (b *backend) revokeID(ctx context.Context, s logical.Storage, st *state, id token.ID) (known bool, _ error) {
	defer b.statics.Wake()
	return st.revokeGrant(ctx, s, id, token.StatusRef{}, b.latestEnd(st))
}

// revokeToken revokes the grant that a token belongs to.
func (b *backend) revokeToken(ctx context.Context, s logical.Storage, st *state, claims *token.Claims) error {
	latest := b.latestEnd(st)
	switch {
	case claims.Grant == claims.ID && b.now().Before(claims.ExpiresAt):
		latest = claims.ExpiresAt
	case claims.GrantLifetime > 0: // a refresh token, which states how long its grant may live
		latest = claims.IssuedAt.Add(claims.GrantLifetime)
	}
	_, err := st.revokeGrant(ctx, s, claims.Grant, claims.Status, latest)
	return err
}

// latestEnd returns when a grant ends at the latest of which nothing else is known.
func (b *backend) latestEnd(st *state) time.Time { return b.now().Add(b.longestLifetime(st)) }

// revokeGrant revokes a grant that ends by itself at latest at the latest, and reports whether anything is known of it.
// Where nothing is, it may be that of a token issued just before a crash, or without a lease.
func (st *state) revokeGrant(ctx context.Context, s logical.Storage, id token.ID, status token.StatusRef, latest time.Time) (known bool, _ error) {
	end := latest
	row, known := st.inventory.Get(id)
	if known && st.now().Before(row.ExpiresAt) {
		end = row.ExpiresAt
	}
	if known && !row.Status.IsZero() {
		status = row.Status
	}
	if !known {
		if place := id.Place(); status.IsZero() && place.Index < ledger.ListSize && st.indexes.Has(place.List) {
			known, status = true, place // the row was lost, and the id says itself what it names
		}
		_, deviates := st.deviations.Get(id)
		known = known || deviates
	}
	return known, st.deviations.Revoke(ctx, s, id, status, end, st.now())
}

// revoke revokes a grant that ends at ownEnd by itself, unless it has ended.
func (st *state) revoke(ctx context.Context, s logical.Storage, grant token.ID, status token.StatusRef, ownEnd time.Time) error {
	now := st.now()
	end := ownEnd
	if d, ok := st.deviations.Get(grant); ok {
		end = time.Unix(d.ExpiresAt, 0)
	}
	if !now.Before(end) {
		return nil
	}
	return st.deviations.Revoke(ctx, s, grant, status, ownEnd, now)
}
