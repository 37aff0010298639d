package native

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Every door of revocation leads to Deviations.Revoke, by revokeGrant or RevokeLease. Only a lease knows when the grant
// expires: RevokeLease stores nothing for a grant whose tokens have expired. What is known elsewhere may be behind.

// RevokeUnopened revokes the grant of a token whose key is gone, as far as the token says in plain text which grant that
// is, and reports whether anything is known of that grant. The caller may revoke any ID, so the text need not be
// trusted.
func (t *Tokens) RevokeUnopened(ctx context.Context, s logical.Storage, text string) (known bool, _ error) {
	grant, ok := token.PlainGrant(text)
	if !ok {
		return false, nil
	}
	return t.RevokeID(ctx, s, grant)
}

// RevokeID revokes the grant with an ID, and reports whether anything is known of that ID.
func (t *Tokens) RevokeID(ctx context.Context, s logical.Storage, id token.ID) (known bool, _ error) {
	return t.revokeGrant(ctx, s, id, token.StatusRef{}, time.Time{})
}

// RevokeClaims revokes the grant that a token belongs to.
func (t *Tokens) RevokeClaims(ctx context.Context, s logical.Storage, claims *token.Claims) error {
	var latest time.Time
	switch {
	case claims.Grant == claims.ID && t.Now().Before(claims.ExpiresAt):
		latest = claims.ExpiresAt
	case claims.GrantLifetime > 0: // a refresh token, which states how long its grant may live
		latest = claims.IssuedAt.Add(claims.GrantLifetime)
	}
	_, err := t.revokeGrant(ctx, s, claims.Grant, claims.Status, latest)
	return err
}

// revokeGrant revokes a grant that expires by itself at latest at the latest, and reports whether anything is known of
// the grant. A grant of which nothing is known may be that of a token issued just before a crash, or without a lease. The
// zero latest stands for the longest that any grant may live, which Vault must be asked for.
func (t *Tokens) revokeGrant(ctx context.Context, s logical.Storage, id token.ID, status token.StatusRef, latest time.Time) (known bool, _ error) {
	end := latest
	row, listed := t.Inventory.Get(id)
	switch {
	case listed && t.Now().Before(row.ExpiresAt):
		end = row.ExpiresAt
	case latest.IsZero():
		end = t.Now().Add(t.LongestLifetime())
	}
	known, status, err := t.placed(ctx, s, id, status)
	if err != nil {
		return false, err
	}
	return known, t.Deviations.Revoke(ctx, s, id, status, end, t.Now())
}

// placed returns the place of a grant in a status list, and reports whether anything is known of the grant. status is
// the place that a token of the grant states; zero: not known.
func (t *Tokens) placed(ctx context.Context, s logical.Storage, id token.ID, status token.StatusRef) (known bool, _ token.StatusRef, _ error) {
	if row, listed := t.Inventory.Get(id); listed {
		if !row.Status.IsZero() {
			status = row.Status
		}
		return true, status, nil
	}
	// This process may not have the row of the grant. The ID itself names the place, if the list exists.
	if place := id.Place(); status.IsZero() && place.Index < ledger.ListSize {
		exists, err := t.StatusIndexes.Find(ctx, s, place.List, t.Now())
		if err != nil || exists {
			return exists, place, err
		}
	}
	_, deviates := t.Deviations.Get(id)
	return deviates, status, nil
}

// RevokeLease revokes a grant that expires at ownEnd by itself, unless the grant has expired. A grant of JWTs that a renewal
// has shortened is revoked also after its end: the JWTs state a later end, and only status lists show the earlier end.
// renewedUntil is what the lease says of its last renewal, of which this process may not know; zero: nothing.
func (t *Tokens) RevokeLease(
	ctx context.Context, s logical.Storage, grant token.ID, status token.StatusRef, ownEnd, renewedUntil time.Time,
) error {
	now := t.Now()
	end := ownEnd
	if d, ok := t.Deviations.Get(grant); ok {
		end = time.Unix(d.ExpiresAt, 0)
		if !status.IsZero() {
			end = time.Unix(d.KeepUntil, 0)
		}
	}
	if !now.Before(end) && !now.Before(renewedUntil) {
		return nil
	}
	if ownEnd.Before(renewedUntil) {
		ownEnd = renewedUntil
	}
	return t.Deviations.Revoke(ctx, s, grant, status, ownEnd, now)
}

// GrantTightened tells verifiers that a grant was revoked, or expires earlier.
func (w *World) GrantTightened(grant token.ID, until time.Time) {
	w.Feed.Add(feed.Event{Kind: feed.Grant, ID: grant.String(), Until: until})
}

// A NotRenewedError says why a token cannot be renewed.
type NotRenewedError struct{ Reason access.Reason }

func (e *NotRenewedError) Error() string { return "the token is " + string(e.Reason) }

// Renew moves the end of the grant of a lease to RenewedUntil, and sets Revision. It returns a *NotRenewedError for a grant
// that is not alive.
func (t *Tokens) Renew(ctx context.Context, s logical.Storage, l *Lease) error {
	now := t.Now()
	row, _ := t.Inventory.Get(l.Grant) // for the subject, which the lease does not name
	if dead := t.Life(l.Grant, l.Grant, row.Subject, l.RoleID, l.ExpiresAt).Alive(now); dead != access.Good {
		return &NotRenewedError{dead}
	}
	revision, err := t.Deviations.Renew(ctx, s, l.Grant, l.ExpiresAt, l.RenewedUntil, l.Revision, now)
	if errors.Is(err, ledger.ErrRevoked) {
		return &NotRenewedError{access.Revoked}
	}
	l.Revision = revision
	return err
}

// LiveJWTs yields the rows of grants with a place in a status list whose JWTs may be accepted by those who check JWTs offline,
// or would be if they were not suspended.
func (t *Tokens) LiveJWTs(now time.Time) iter.Seq[ledger.Row] {
	return func(yield func(ledger.Row) bool) {
		for row := range t.Inventory.WithStatus() {
			life := t.Life(row.ID, row.ID, row.Subject, row.RoleID, row.ExpiresAt)
			if d, ok := t.Deviations.Get(row.ID); ok { // the JWTs may state an end before a renewal
				life.ExpiresAt = time.Unix(d.KeepUntil, 0)
			}
			if !life.Ended(now) && !yield(row) {
				return
			}
		}
	}
}
