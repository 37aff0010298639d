package backend

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// leaseVersion is the version of a lease's internal data.
const leaseVersion = "1"

// leaseTerms are the durations that every lease stores. A lease stores strings only: Vault returns numbers as floating
// point.
type leaseTerms struct {
	ttl      time.Duration // TTL at the issue; the default of a renewal
	lifetime time.Duration // longest lifetime from the issue, renewals included
}

// internalData adds the terms to a lease's internal data.
func (t leaseTerms) internalData(data map[string]any) map[string]any {
	data["version"] = leaseVersion
	data["ttl"] = t.ttl.String()
	data["lifetime"] = t.lifetime.String()
	return data
}

// parseLeaseTerms returns the terms of a lease. text returns another string of the lease's internal data; empty if absent.
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

// renewal returns the TTL and the longest lifetime of a renewed lease. A later change of the role or the mount does not
// extend the lifetime that the lease was issued with.
func (b *backend) renewal(secret *logical.Secret, t leaseTerms, r *role.Role) (ttl, maxTTL time.Duration, err error) {
	maxTTL = t.lifetime
	if r.MaxTTL > 0 {
		maxTTL = min(maxTTL, r.MaxTTL)
	}
	ttl, _, err = framework.CalculateTTL(b.System(), secret.Increment, t.ttl, 0, maxTTL, 0, secret.IssueTime)
	return ttl, maxTTL, err
}

// renewed returns the answer to a renewal. Vault computes the lease's end from the answer, and warns if a limit caps the TTL.
func renewed(secret *logical.Secret, ttl, maxTTL time.Duration) *logical.Response {
	secret.TTL, secret.MaxTTL = ttl, maxTTL
	return &logical.Response{Secret: secret}
}
