package backend

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// leaseVersion is the version of the leases' internal data.
const leaseVersion = "1"

// leaseTerms are what every lease remembers of how long it was meant to be. It is kept as strings, as all that
// a lease remembers: numbers come back from Vault as floating point.
type leaseTerms struct {
	ttl      time.Duration // what it was issued for; the default of a renewal
	lifetime time.Duration // renewals included, counted from the issue
}

// internalData adds the terms to what else a lease remembers.
func (t leaseTerms) internalData(data map[string]any) map[string]any {
	data["version"] = leaseVersion
	data["ttl"] = t.ttl.String()
	data["lifetime"] = t.lifetime.String()
	return data
}

// parseLeaseTerms reads the terms; text gives what else the lease remembers, "" where there is nothing.
func parseLeaseTerms(secret *logical.Secret) (t leaseTerms, text func(key string) string, err error) {
	if secret == nil {
		return t, nil, errors.New("the request has no lease")
	}
	text = func(key string) string {
		s, _ := secret.InternalData[key].(string)
		return s
	}
	if v := text("version"); v != leaseVersion {
		return t, nil, fmt.Errorf("the lease has version %q, this plugin knows %s", v, leaseVersion)
	}
	if t.ttl, err = time.ParseDuration(text("ttl")); err != nil {
		return t, nil, fmt.Errorf("the lease's ttl: %w", err)
	}
	if t.lifetime, err = time.ParseDuration(text("lifetime")); err != nil {
		return t, nil, fmt.Errorf("the lease's lifetime: %w", err)
	}
	return t, text, nil
}

// renewal tells for how long a lease is renewed, and how long it may live in all. Neither the role nor the mount
// can lengthen a life that was promised shorter.
func (b *backend) renewal(secret *logical.Secret, t leaseTerms, r *role.Role) (ttl, maxTTL time.Duration, err error) {
	maxTTL = t.lifetime
	if r.MaxTTL > 0 {
		maxTTL = min(maxTTL, r.MaxTTL)
	}
	ttl, _, err = framework.CalculateTTL(b.System(), secret.Increment, t.ttl, 0, maxTTL, 0, secret.IssueTime)
	return ttl, maxTTL, err
}

// renewed is the answer to a renewal. Vault computes the end of the lease once more, from it, and warns of what
// was capped.
func renewed(secret *logical.Secret, ttl, maxTTL time.Duration) *logical.Response {
	secret.TTL, secret.MaxTTL = ttl, maxTTL
	return &logical.Response{Secret: secret}
}
