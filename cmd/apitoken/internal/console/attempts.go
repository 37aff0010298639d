package console

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Attempts to sign in: an address has ten, and gets another one every six seconds. All addresses together have a hundred, and
// get five each second.
const (
	attemptsBurst     = 10
	attemptsInterval  = 6 * time.Second
	attemptsAllBurst  = 100
	attemptsAllPerSec = 5
	attemptsAddresses = 4096 // addresses in memory
)

// attempts bounds how often addresses try to sign in.
type attempts struct {
	now func() time.Time

	mu        sync.Mutex
	all       *rate.Limiter
	byAddress map[netip.Prefix]*rate.Limiter
}

func newAttempts(now func() time.Time) *attempts {
	return &attempts{
		now: now, all: rate.NewLimiter(attemptsAllPerSec, attemptsAllBurst), byAddress: map[netip.Prefix]*rate.Limiter{},
	}
}

// allow reports whether the address may try now. The /64 of an IPv6 address counts as one address.
func (a *attempts) allow(remote string) bool {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	address := peer.Addr().Unmap().WithZone("")
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	prefix, err := address.Prefix(bits)
	if err != nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	limiter := a.byAddress[prefix]
	if limiter == nil {
		if len(a.byAddress) >= attemptsAddresses {
			a.forget(now)
		}
		if len(a.byAddress) >= attemptsAddresses {
			return false
		}
		limiter = rate.NewLimiter(rate.Every(attemptsInterval), attemptsBurst)
		a.byAddress[prefix] = limiter
	}
	return limiter.AllowN(now, 1) && a.all.AllowN(now, 1)
}

// forget drops the addresses that have all their attempts.
func (a *attempts) forget(now time.Time) {
	for prefix, limiter := range a.byAddress {
		if limiter.TokensAt(now) >= attemptsBurst {
			delete(a.byAddress, prefix)
		}
	}
}
