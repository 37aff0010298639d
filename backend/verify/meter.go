package verify

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

// maxMeterScopes is the number of scopes that are remembered of a token until the next report.
const maxMeterScopes = 20

// meter counts the uses of a token. Facts that are learned again keep the meter of the token.
type meter struct {
	rate access.Bucket

	mu       sync.Mutex
	listed   bool // whether the next report has the meter
	early    bool // whether an early report is to have the meter
	uses     uint64
	last     time.Time
	addr     netip.Addr
	region   string
	scopes   []string
	refusals map[access.Reason]uint64 // nil: none
	left     []visit                  // before the uses above, in networks that the token was used in since the last report
}

// maxVisits is the number of networks that are remembered of a token until the next report. More are counted as the last.
const maxVisits = 5

// visit is a number of uses in one network.
type visit struct {
	uses   uint64
	last   time.Time
	addr   netip.Addr
	region string
}

// meterOf returns the meter of facts: that of earlier facts if there are any. Nil: nothing is counted yet.
func (v *impl) meterOf(f *facts, before *facts) *meter {
	if before != nil {
		if m := before.meter.Load(); m != nil {
			return m
		}
	}
	if f.terms.rate.IsZero() {
		return nil
	}
	return new(meter)
}

func (m *meter) isListed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.listed
}

// refuse counts a refusal. The caller holds mu.
func (m *meter) refuse(reason access.Reason) {
	if m.refusals == nil {
		m.refusals = make(map[access.Reason]uint64)
	}
	m.refusals[reason]++
}

// limit takes one use of the rate_limit. A token without one is not limited.
func (v *impl) limit(f *facts, now time.Time, d *Decision) {
	r := f.terms.rate
	if r.IsZero() {
		return
	}
	m := v.metered(f)
	if v.config.ShareRate {
		r = divided(r, int(v.usage.reporters.Load()))
	}
	left, retry, ok := m.rate.Take(r, now)
	d.Limit = &RateStatus{Limit: r.Count, Remaining: left, Window: r.Window, Reset: m.rate.Reset(now)}
	if !ok {
		d.Reason, d.RetryAfter, d.Detail = RateLimited, retry, "the token was used more often than the rate_limit of its role allows"
	}
}

// metered returns the meter of facts, which a first use makes.
func (v *impl) metered(f *facts) *meter {
	if m := f.meter.Load(); m != nil {
		return m
	}
	f.meter.CompareAndSwap(nil, new(meter))
	return f.meter.Load()
}

// count counts a use for the next report.
func (v *impl) count(f *facts, use *Use, now time.Time, reason access.Reason) {
	if v.config.silent {
		return
	}
	m := v.metered(f)
	m.mu.Lock()
	var moved bool
	if reason == access.Good {
		if moved = m.addr != use.Client && otherNetwork(m.addr, use.Client); moved && m.uses > 0 && len(m.left) < maxVisits-1 {
			m.left = append(m.left, visit{m.uses, m.last, m.addr, m.region})
			m.uses = 0
		}
		m.uses++
		m.last, m.addr, m.region = now, use.Client, use.Region
		for _, scope := range use.Scopes {
			if len(m.scopes) < maxMeterScopes && !slices.Contains(m.scopes, scope) {
				m.scopes = append(m.scopes, scope)
			}
		}
	} else {
		m.refuse(reason)
	}
	fresh := !m.listed
	moved = moved && !m.early // a token that goes back and forth is in the list once
	m.listed, m.early = true, m.early || moved
	m.mu.Unlock()
	if fresh {
		v.usage.list(f.id(), m)
	}
	if moved {
		v.usage.move(f.id(), m)
	}
}

// otherNetwork reports whether two addresses are known, and are in different networks: an IPv4 /24 or an IPv6 /48, as in the
// engine's rules of misuse.
func otherNetwork(a, b netip.Addr) bool {
	if !a.IsValid() || !b.IsValid() {
		return false
	}
	a, b = a.Unmap().WithZone(""), b.Unmap().WithZone("")
	bits := 48
	if a.Is4() {
		bits = 24
	}
	network, err := a.Prefix(bits)
	return err != nil || !network.Contains(b)
}
