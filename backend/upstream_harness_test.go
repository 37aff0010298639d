package backend

import "time"

func slowBackoff(b *backend) {
	b.upstreams.Timings.FirstBackoff, b.upstreams.Timings.LongestBackoff = time.Second, time.Minute
}
