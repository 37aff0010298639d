package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// secretTypeToken is the lease type of native tokens. The type must stay registered for ever: Vault cannot disable a mount
// with a lease of an unregistered type.
const secretTypeToken = "token"

// lease is the internal data of a native token's lease. The lease's data holds the token itself; Vault encrypts the data.
type lease struct {
	leaseTerms
	grant     token.ID // the token's own ID if the grant has only this token
	status    token.StatusRef
	roleID    token.RoleID
	role      string
	expiresAt time.Time // end of the grant in the token's claims
}

func (l *lease) internalData() map[string]any {
	return l.leaseTerms.internalData(map[string]any{
		"grant":      l.grant.String(),
		"status":     fmt.Sprintf("%d/%d", l.status.List, l.status.Index),
		"role_id":    l.roleID.String(),
		"role":       l.role,
		"expires_at": rfc3339(l.expiresAt),
	})
}

func parseLease(secret *logical.Secret) (*lease, error) {
	terms, text, err := parseLeaseTerms(secret)
	if err != nil {
		return nil, err
	}
	l := &lease{leaseTerms: terms, role: text("role")}
	if l.grant, err = token.ParseID(text("grant")); err != nil {
		return nil, fmt.Errorf("the lease's grant: %w", err)
	}
	if _, err = fmt.Sscanf(text("status"), "%d/%d", &l.status.List, &l.status.Index); err != nil {
		return nil, fmt.Errorf("the lease's status: %w", err)
	}
	if err = l.roleID.UnmarshalText([]byte(text("role_id"))); err != nil {
		return nil, fmt.Errorf("the lease's role_id: %w", err)
	}
	if l.expiresAt, err = time.Parse(time.RFC3339, text("expires_at")); err != nil {
		return nil, fmt.Errorf("the lease's expires_at: %w", err)
	}
	return l, nil
}

func (b *backend) secretToken() *framework.Secret {
	return &framework.Secret{
		Type: secretTypeToken,
		Fields: map[string]*framework.FieldSchema{
			"token": {Type: framework.TypeString, Description: "API token"},
		},
		Renew:  b.on(b.tokenRenew),
		Revoke: b.on(b.tokenRevoke),
	}
}

// tokenRenew extends the token to the new expiry of the lease.
func (b *backend) tokenRenew(ctx context.Context, st *state, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, err := parseLease(req.Secret)
	if err != nil {
		return nil, err
	}
	if err := st.Unreadable(l.grant, l.grant, l.roleID); err != nil {
		return nil, err
	}
	r := st.Roles.ByID(l.roleID)
	if r == nil {
		return nil, refusal.New("the token cannot be renewed: role %q was deleted after the token was issued", l.role)
	}

	ttl, maxTTL, err := b.renewal(req.Secret, l.leaseTerms, r)
	if err != nil {
		return nil, refusal.New("the token cannot be renewed: %s", err)
	}
	err = st.Renew(ctx, req.Storage, l.grant, l.roleID, l.expiresAt, b.now().Add(ttl))
	if refused := (*native.NotRenewedError)(nil); errors.As(err, &refused) {
		return nil, refusal.New("the token cannot be renewed: the token is %s", refused.Reason)
	}
	if err != nil {
		return nil, err
	}
	return renewed(req.Secret, ttl, maxTTL), nil
}

// tokenRevoke revokes the token. tokenRevoke needs only the lease: the role may be gone. The engine stores no revocation of
// an expired token.
func (b *backend) tokenRevoke(ctx context.Context, st *state, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, err := parseLease(req.Secret)
	if err != nil {
		return nil, err
	}
	return nil, st.RevokeLease(ctx, req.Storage, l.grant, l.status, l.expiresAt)
}
