package role

import (
	"errors"
	"fmt"
	"time"
)

// leaseVersion is the version of a lease's internal data.
const leaseVersion = "1"

// LeaseTerms are the durations that every lease stores in its internal data. A lease stores strings only: Vault returns
// numbers as floating point.
type LeaseTerms struct {
	TTL      time.Duration // TTL at the issue; the default of a renewal
	Lifetime time.Duration // longest lifetime from the issue, renewals included
}

// InternalData adds the terms to a lease's internal data.
func (t LeaseTerms) InternalData(data map[string]any) map[string]any {
	data["version"] = leaseVersion
	data["ttl"] = t.TTL.String()
	data["lifetime"] = t.Lifetime.String()
	return data
}

// ParseLeaseTerms returns the terms in a lease's internal data. text returns another string of the data; empty if absent.
func ParseLeaseTerms(data map[string]any) (t LeaseTerms, text func(key string) string, err error) {
	if data == nil {
		return t, nil, errors.New("the request has no lease")
	}
	text = func(key string) string {
		s, _ := data[key].(string)
		return s
	}
	if v := text("version"); v != leaseVersion {
		return t, nil, fmt.Errorf("the lease has version %q, this plugin knows %s", v, leaseVersion)
	}
	if t.TTL, err = time.ParseDuration(text("ttl")); err != nil {
		return t, nil, fmt.Errorf("the lease's ttl: %w", err)
	}
	if t.Lifetime, err = time.ParseDuration(text("lifetime")); err != nil {
		return t, nil, fmt.Errorf("the lease's lifetime: %w", err)
	}
	return t, text, nil
}
