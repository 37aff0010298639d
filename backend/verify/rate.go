package verify

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// rate is a rate_limit: count uses in each window, of which burst at once. The zero rate has no limit.
type rate struct {
	count, burst int
	window       time.Duration
}

// parseRate parses "100/1m" and "100/1m burst 20". An empty text is the zero rate. The default of burst is count.
func parseRate(s string) (r rate, err error) {
	if s == "" {
		return rate{}, nil
	}
	limit, burst, has := strings.Cut(s, " burst ")
	count, window, ok := strings.Cut(limit, "/")
	if r.count, err = strconv.Atoi(count); err != nil || r.count < 1 || !ok {
		return rate{}, fmt.Errorf("rate_limit %q is not such as 100/1m", s)
	}
	if r.window, err = time.ParseDuration(window); err != nil || r.window <= 0 {
		return rate{}, fmt.Errorf("rate_limit %q is not such as 100/1m", s)
	}
	r.burst = r.count
	if has {
		if r.burst, err = strconv.Atoi(burst); err != nil || r.burst < 1 {
			return rate{}, fmt.Errorf("rate_limit %q has no number of uses after burst", s)
		}
	}
	return r, nil
}

// divided returns the share of one of n verifiers: at least one use in each window.
func (r rate) divided(n int) rate {
	if n > 1 {
		r.count, r.burst = max(1, r.count/n), max(1, r.burst/n)
	}
	return r
}

// gcra counts uses by the generic cell rate algorithm (ITU-T I.371): one number, the time at which nothing of the burst
// is used any more.
type gcra struct{ empty atomic.Int64 } // nanoseconds since 1970

// take counts one use, and returns how many more are left at once. A use over the rate is not counted: retry is when it
// would be within the rate.
func (g *gcra) take(r rate, now time.Time) (left int, retry time.Duration, ok bool) {
	each := int64(r.window) / int64(r.count)
	at := now.UnixNano()
	for {
		old := g.empty.Load()
		next := max(old, at) + each
		free := int64(r.burst)*each - (next - at)
		if free < 0 {
			return 0, time.Duration(-free), false
		}
		if g.empty.CompareAndSwap(old, next) {
			return int(free / max(each, 1)), 0, true
		}
	}
}

// giveBack takes one use back.
func (g *gcra) giveBack(r rate) { g.empty.Add(-int64(r.window) / int64(r.count)) }

// reset returns when the whole burst is free again.
func (g *gcra) reset(now time.Time) time.Duration {
	return max(0, time.Duration(g.empty.Load()-now.UnixNano()))
}
