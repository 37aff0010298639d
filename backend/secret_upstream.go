package backend

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

func (b *backend) secretUpstream() *framework.Secret {
	return &framework.Secret{
		Type:   secretTypeUpstream,
		Fields: rendered(fields{"token": schema.Str("API token of the upstream service")}),
		Renew:  b.on(b.upstreamRenew),
		Revoke: b.on(b.upstreamRevoke),
	}
}

// upstreamRenew renews a lease, and extends its token.
func (b *backend) upstreamRenew(ctx context.Context, _ *state, req *request, _ *input) (*response, error) {
	l, err := upstream.ParseLease(leaseData(req))
	if err != nil {
		return nil, err
	}
	ttl, err := b.Upstreams.Renew(ctx, &upstream.Renewal{
		ID: l.ID, Hold: l.Hold, Now: b.Now().UTC(), TTL: b.renewal(req.Secret, l.LeaseTerms),
	})
	if err == nil {
		b.Counters.Renewed(metrics.Service)
	}
	return renewed(req.Secret, ttl, err)
}

// upstreamRevoke revokes the token.
func (b *backend) upstreamRevoke(ctx context.Context, st *state, req *request, _ *input) (*response, error) {
	l, err := upstream.ParseLease(leaseData(req))
	if err != nil {
		return nil, err
	}
	return nil, b.RevokeUpstreamLease(ctx, st, l)
}

// userAgent returns the User-Agent of requests to upstream services.
func userAgent() string {
	return "vault-plugin-secrets-apitoken/" + strings.TrimPrefix(Version, "v") +
		" (+https://github.com/vault-apitoken/vault-plugin-secrets-apitoken)"
}
