package verify

import "github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"

// divided returns the share of one of n verifiers: at least one use in each window.
func divided(r access.Rate, n int) access.Rate {
	if n > 1 {
		r.Count, r.Burst = max(1, r.Count/n), max(1, r.Burst/n)
	}
	return r
}
