package verify

import (
	"sync/atomic"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

// divided returns the share of one of n verifiers: at least one use in each window.
func divided(r access.Rate, n int) access.Rate {
	if n > 1 {
		r.Count, r.Burst = max(1, r.Count/n), max(1, r.Burst/n)
	}
	return r
}

// gcra counts uses by the generic cell rate algorithm (ITU-T I.371): one number, the time at which nothing of the burst
// is used any more.
type gcra struct{ empty atomic.Int64 } // nanoseconds since 1970

// take counts one use, and returns how many more are left at once. A use over the rate is not counted: retry is when it
// would be within the rate.
func (g *gcra) take(r access.Rate, now time.Time) (left int, retry time.Duration, ok bool) {
	each := int64(r.Window) / int64(r.Count)
	at := now.UnixNano()
	for {
		old := g.empty.Load()
		full := int64(r.Burst) * each
		begin := max(old, at)
		if begin-at > 2*full+int64(clockSlack) { // counted before the clock stepped back
			begin = at
		}
		next := begin + each
		free := full - (next - at)
		if free < 0 {
			return 0, time.Duration(-free), false
		}
		if g.empty.CompareAndSwap(old, next) {
			return int(free / max(each, 1)), 0, true
		}
	}
}

// giveBack takes one use back.
func (g *gcra) giveBack(r access.Rate) { g.empty.Add(-int64(r.Window) / int64(r.Count)) }

// reset returns when the whole burst is free again.
func (g *gcra) reset(now time.Time) time.Duration {
	return max(0, time.Duration(g.empty.Load()-now.UnixNano()))
}
