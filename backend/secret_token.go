package backend

import (
	"context"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

func (b *backend) secretToken() *framework.Secret {
	return &framework.Secret{
		Type:   secretTypeToken,
		Fields: rendered(fields{"token": schema.Str("API token")}),
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
	ttl, err := st.RenewLease(ctx, req.Storage, l, b.renewal(req.Secret, l.LeaseTerms))
	if err == nil {
		b.Counters.Renewed(metrics.Native)
		maps.Copy(req.Secret.InternalData, l.InternalData()) // which has the lease's type besides
	}
	return renewed(req.Secret, ttl, err)
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
