package backend

import "time"

func slowBackoff(b *backend) {
	b.Upstreams.Timings.FirstBackoff, b.Upstreams.Timings.LongestBackoff = time.Second, time.Minute
}
