package native

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Lease is the internal data of a native token's lease. The data is enough to revoke the token after the role is gone.
type Lease struct {
	role.LeaseTerms
	Grant     token.ID // the token's own ID if the grant has only this token
	Status    token.StatusRef
	RoleID    token.RoleID
	Role      string    // name of the role
	ExpiresAt time.Time // end of the grant in the token's claims

	// RenewedUntil is the end of the grant since the last renewal, and Revision the revision of the grant's deviation; zero: never
	// renewed. A process may not know of a renewal by another.
	RenewedUntil time.Time
	Revision     uint32
}

// InternalData returns the lease as Vault stores the lease.
func (l *Lease) InternalData() map[string]any {
	data := map[string]any{
		"grant":      l.Grant.String(),
		"status":     fmt.Sprintf("%d/%d", l.Status.List, l.Status.Index),
		"role_id":    l.RoleID.String(),
		"role":       l.Role,
		"expires_at": l.ExpiresAt.UTC().Format(time.RFC3339),
	}
	if !l.RenewedUntil.IsZero() {
		data["renewed_until"] = l.RenewedUntil.UTC().Format(time.RFC3339)
		data["revision"] = strconv.FormatUint(uint64(l.Revision), 10)
	}
	return l.LeaseTerms.InternalData(data)
}

// ParseLease returns the lease that Vault stores as data.
func ParseLease(data map[string]any) (*Lease, error) {
	terms, text, err := role.ParseLeaseTerms(data)
	if err != nil {
		return nil, err
	}
	l := &Lease{LeaseTerms: terms, Role: text("role")}
	if l.Grant, err = token.ParseID(text("grant")); err != nil {
		return nil, fmt.Errorf("the lease's grant: %w", err)
	}
	if _, err = fmt.Sscanf(text("status"), "%d/%d", &l.Status.List, &l.Status.Index); err != nil {
		return nil, fmt.Errorf("the lease's status: %w", err)
	}
	if err = l.RoleID.UnmarshalText([]byte(text("role_id"))); err != nil {
		return nil, fmt.Errorf("the lease's role_id: %w", err)
	}
	if l.ExpiresAt, err = time.Parse(time.RFC3339, text("expires_at")); err != nil {
		return nil, fmt.Errorf("the lease's expires_at: %w", err)
	}
	if renewed := text("renewed_until"); renewed != "" {
		if l.RenewedUntil, err = time.Parse(time.RFC3339, renewed); err != nil {
			return nil, fmt.Errorf("the lease's renewed_until: %w", err)
		}
		revision, err := strconv.ParseUint(text("revision"), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("the lease's revision: %w", err)
		}
		l.Revision = uint32(revision)
	}
	return l, nil
}

// RenewLease moves the end of the grant of a lease, sets RenewedUntil and Revision, and returns the TTL of the renewed lease. ttl
// computes the TTL for the role of the grant. RenewLease refuses a grant that is not alive, and a grant whose role was deleted.
func (t *Tokens) RenewLease(
	ctx context.Context, s logical.Storage, l *Lease, ttl func(*role.Role) (time.Duration, error),
) (time.Duration, error) {
	if err := t.Unreadable(l.Grant, l.Grant, "", l.RoleID); err != nil {
		return 0, err
	}
	r := t.Roles.ByID(l.RoleID)
	if r == nil {
		return 0, refusal.New("the token cannot be renewed: role %q was deleted after the token was issued", l.Role)
	}
	renewed, err := ttl(r)
	if err != nil {
		return 0, refusal.New("the token cannot be renewed: %s", err)
	}
	l.RenewedUntil = t.Now().Add(renewed)
	err = t.Renew(ctx, s, l)
	if refused := (*NotRenewedError)(nil); errors.As(err, &refused) {
		return 0, refusal.New("the token cannot be renewed: the token is %s", refused.Reason)
	}
	return renewed, err
}
