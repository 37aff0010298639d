package server

import (
	"net/netip"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"

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
	cache *otter.Cache[user, *rate.Limiter]
}

func newLimiters() *limiters {
	return &limiters{cache: otter.Must(&otter.Options[user, *rate.Limiter]{MaximumSize: maxLimiters})}
}

// take counts a request. It returns how long to wait if the request is over the rate, and 0 if not.
func (l *limiters) take(rule *rules.Rule, token string, client netip.Addr) time.Duration {
	if rule.Rate.Requests == 0 {
		return 0
	}
	u := user{rule: rule, token: token}
	if token == "" {
		u.addr = network(client)
	}
	limiter, ok := l.cache.GetIfPresent(u)
	if !ok {
		per := rate.Limit(float64(rule.Rate.Requests) / rule.Rate.Window.Seconds())
		limiter, _ = l.cache.SetIfAbsent(u, rate.NewLimiter(per, rule.Rate.Requests))
	}
	reservation := limiter.Reserve()
	wait := reservation.Delay()
	if wait > 0 {
		reservation.Cancel()
	}
	return wait
}

// network returns the range of one client: an IPv4 address, or 64 bits of an IPv6 address.
func network(addr netip.Addr) netip.Prefix {
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	p, _ := addr.Prefix(bits)
	return p
}
