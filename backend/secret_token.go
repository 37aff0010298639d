package backend

import (
	"context"
	"errors"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// secretTypeToken is the lease type of native tokens. The type must stay registered for ever: Vault cannot disable a mount
// with a lease of an unregistered type. The lease's data holds the token itself; Vault encrypts the data.
const secretTypeToken = "token"

func (b *backend) secretToken() *framework.Secret {
	return &framework.Secret{
		Type: secretTypeToken,
		Fields: fields{
			"token": str("API token"),
		},
		Renew:  b.on(b.tokenRenew),
		Revoke: b.on(b.tokenRevoke),
	}
}

// tokenRenew extends the token to the new expiry of the lease.
func (b *backend) tokenRenew(ctx context.Context, st *state, req *request, _ *input) (*response, error) {
	l, err := native.ParseLease(leaseData(req))
	if err != nil {
		return nil, err
	}
	if err := st.Unreadable(l.Grant, l.Grant, "", l.RoleID); err != nil {
		return nil, err
	}
	r := st.Roles.ByID(l.RoleID)
	if r == nil {
		return nil, refusal.New("the token cannot be renewed: role %q was deleted after the token was issued", l.Role)
	}

	ttl, maxTTL, err := b.renewal(req.Secret, l.LeaseTerms, r)
	if err != nil {
		return nil, refusal.New("the token cannot be renewed: %s", err)
	}
	err = st.Renew(ctx, req.Storage, l.Grant, l.RoleID, l.ExpiresAt, b.Now().Add(ttl))
	if refused := (*native.NotRenewedError)(nil); errors.As(err, &refused) {
		return nil, refusal.New("the token cannot be renewed: the token is %s", refused.Reason)
	}
	if err != nil {
		return nil, err
	}
	b.Counters.Renewed(metrics.Native)
	return renewed(req.Secret, ttl, maxTTL), nil
}

// tokenRevoke revokes the token. tokenRevoke needs only the lease: the role may be gone. The engine stores no revocation of
// an expired token.
func (b *backend) tokenRevoke(ctx context.Context, st *state, req *request, _ *input) (*response, error) {
	l, err := native.ParseLease(leaseData(req))
	if err != nil {
		return nil, err
	}
	return nil, b.RevokeLease(ctx, req.Storage, st, l)
}
