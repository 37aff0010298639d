package server

import (
	"net/netip"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/rules"
)

// maxLimiters bounds memory. A limiter that is pushed out begins anew.
const maxLimiters = 100_000

// user is who a rate counts: a token, or the address of a client of a public rule.
type user struct {
	rule  *rules.Rule // a rule that a reload changes begins anew
	token string
	addr  netip.Prefix
}

// limiters hold the rates of rules in this process.
type limiters struct {
	cache *otter.Cache[user, *access.Bucket]
}

func newLimiters() *limiters {
	return &limiters{cache: otter.Must(&otter.Options[user, *access.Bucket]{MaximumSize: maxLimiters})}
}

// take counts a request. It returns how long to wait if the request is over the rate, and 0 if not.
func (l *limiters) take(rule *rules.Rule, token string, client netip.Addr) time.Duration {
	if rule.Rate.IsZero() {
		return 0
	}
	u := user{rule: rule, token: token}
	if token == "" {
		u.addr = access.ClientRange(client)
	}
	bucket, ok := l.cache.GetIfPresent(u)
	if !ok {
		bucket, _ = l.cache.SetIfAbsent(u, new(access.Bucket))
	}
	_, wait, _ := bucket.Take(rule.Rate, time.Now())
	return wait
}
