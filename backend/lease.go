package backend

import (
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// The lease types of native tokens and of tokens of services. A type must stay registered for ever: Vault cannot disable a
// mount with a lease of an unregistered type. The lease's data holds the token itself; Vault encrypts the data.
const (
	secretTypeToken    = "token"
	secretTypeUpstream = "upstream_token"
)

// lifetimes returns the TTL of a token of a role if a TTL is asked for (0: none), and the token's longest lifetime, renewals
// included.
func (b *backend) lifetimes(r *role.Role, asked time.Duration) (ttl, lifetime time.Duration, warnings []string, _ error) {
	defaultTTL, maxTTL, err := r.Lives(asked)
	if err != nil {
		return 0, 0, nil, err
	}
	view := mount.AskOnce(b.System())
	if ttl, warnings, err = framework.CalculateTTL(view, asked, defaultTTL, 0, maxTTL, 0, time.Time{}); err != nil {
		return 0, 0, nil, err
	}
	lifetime = view.MaxLeaseTTL()
	if maxTTL > 0 {
		lifetime = min(lifetime, maxTTL)
	}
	return ttl, lifetime, warnings, nil
}

// leaseData returns the internal data of a request's lease; nil if the request has no lease.
func leaseData(req *request) map[string]any {
	if req.Secret == nil {
		return nil
	}
	return req.Secret.InternalData
}

// renewal returns a function that computes the TTL of a renewed lease, and sets the longest lifetime of the lease. A later
// change of the role or the mount does not extend the lifetime that the lease was issued with.
func (b *backend) renewal(secret *logical.Secret, t role.LeaseTerms) func(*role.Role) (time.Duration, error) {
	return func(r *role.Role) (time.Duration, error) {
		secret.MaxTTL = t.Lifetime
		if r.MaxTTL > 0 {
			secret.MaxTTL = min(secret.MaxTTL, r.MaxTTL)
		}
		ttl, _, err := framework.CalculateTTL(b.System(), secret.Increment, t.TTL, 0, secret.MaxTTL, 0, secret.IssueTime)
		return ttl, err
	}
}

// renewed returns the answer to a renewal. Vault computes the lease's end from the answer, and warns if a limit caps the TTL.
func renewed(secret *logical.Secret, ttl time.Duration, err error) (*response, error) {
	if err != nil {
		return nil, err
	}
	secret.TTL = ttl
	return &logical.Response{Secret: secret}, nil
}
