package access

import (
	"sync/atomic"
	"time"
)

// bucketSlack is by how much a clock may step back without effect on a Bucket.
const bucketSlack = time.Second

// Bucket counts uses at a Rate by the generic cell rate algorithm (ITU-T I.371): one number, the time at which nothing of the
// burst is used any more. The zero Bucket is full. It is safe for concurrent use.
type Bucket struct{ empty atomic.Int64 } // nanoseconds since 1970

// Take counts one use at a rate that is not zero, and returns how many more are left at once. A use over the rate is not
// counted: ok is false, and retry is how long to wait until the use would be within the rate.
func (b *Bucket) Take(r Rate, now time.Time) (left int, retry time.Duration, ok bool) {
	each := int64(r.Window) / int64(r.Count)
	at := now.UnixNano()
	for {
		old := b.empty.Load()
		full := int64(r.Burst) * each
		begin := max(old, at)
		if begin-at > 2*full+int64(bucketSlack) { // counted before the clock stepped back
			begin = at
		}
		next := begin + each
		free := full - (next - at)
		if free < 0 {
			return 0, time.Duration(-free), false
		}
		if b.empty.CompareAndSwap(old, next) {
			return int(free / max(each, 1)), 0, true
		}
	}
}

// GiveBack takes one use back.
func (b *Bucket) GiveBack(r Rate) { b.empty.Add(-int64(r.Window) / int64(r.Count)) }

// Reset returns how long it takes until the whole burst is free again.
func (b *Bucket) Reset(now time.Time) time.Duration {
	return max(0, time.Duration(b.empty.Load()-now.UnixNano()))
}
