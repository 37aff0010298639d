package upstream

import (
	"fmt"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Lease is the internal data of an upstream token's lease. Storage holds the data for revoking the token.
type Lease struct {
	role.LeaseTerms
	ID   token.ID
	Hold string // hold ID of a shared token; empty if the token is not shared
}

// InternalData returns the lease as Vault stores the lease.
func (l *Lease) InternalData() map[string]any {
	return l.LeaseTerms.InternalData(map[string]any{"token_id": l.ID.String(), "hold": l.Hold})
}

// ParseLease returns the lease that Vault stores as data.
func ParseLease(data map[string]any) (*Lease, error) {
	terms, text, err := role.ParseLeaseTerms(data)
	if err != nil {
		return nil, err
	}
	l := &Lease{LeaseTerms: terms, Hold: text("hold")}
	if l.ID, err = token.ParseID(text("token_id")); err != nil {
		return nil, fmt.Errorf("the lease's token_id: %w", err)
	}
	return l, nil
}
