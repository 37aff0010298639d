package backend

import (
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// leaseData returns the internal data of a request's lease; nil if the request has no lease.
func leaseData(req *request) map[string]any {
	if req.Secret == nil {
		return nil
	}
	return req.Secret.InternalData
}

// renewal returns the TTL and the longest lifetime of a renewed lease. A later change of the role or the mount does not
// extend the lifetime that the lease was issued with.
func (b *backend) renewal(secret *logical.Secret, t role.LeaseTerms, r *role.Role) (ttl, maxTTL time.Duration, err error) {
	maxTTL = t.Lifetime
	if r.MaxTTL > 0 {
		maxTTL = min(maxTTL, r.MaxTTL)
	}
	ttl, _, err = framework.CalculateTTL(b.System(), secret.Increment, t.TTL, 0, maxTTL, 0, secret.IssueTime)
	return ttl, maxTTL, err
}

// renewed returns the answer to a renewal. Vault computes the lease's end from the answer, and warns if a limit caps the TTL.
func renewed(secret *logical.Secret, ttl, maxTTL time.Duration) *logical.Response {
	secret.TTL, secret.MaxTTL = ttl, maxTTL
	return &logical.Response{Secret: secret}
}
