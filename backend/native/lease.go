package native

import (
	"fmt"
	"time"

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
}

// InternalData returns the lease as Vault stores the lease.
func (l *Lease) InternalData() map[string]any {
	return l.LeaseTerms.InternalData(map[string]any{
		"grant":      l.Grant.String(),
		"status":     fmt.Sprintf("%d/%d", l.Status.List, l.Status.Index),
		"role_id":    l.RoleID.String(),
		"role":       l.Role,
		"expires_at": l.ExpiresAt.UTC().Format(time.RFC3339),
	})
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
	return l, nil
}
