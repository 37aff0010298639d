package detect

import (
	"net/netip"
	"runtime"
	"testing"
	"time"
	"unsafe"
)

// The state of a token stays within the bound that docs/insight.md has.
func TestSizes(t *testing.T) {
	if size := unsafe.Sizeof(Token{}); size > 56 {
		t.Errorf("the state of a token has %d bytes, want at most 56", size)
	}
	if size := unsafe.Sizeof(window{}); size > 112 {
		t.Errorf("the window of a token has %d bytes, want at most 112", size)
	}
	if size := unsafe.Sizeof(baseline{}); size > 160 {
		t.Errorf("a baseline has %d bytes, want at most 160", size)
	}
	if size := unsafe.Sizeof(addressState{}); size > 256 {
		t.Errorf("the state of an address has %d bytes, want at most 256", size)
	}
}

// Seeing an ordinary use allocates nothing.
func TestNoAllocations(t *testing.T) {
	b := newBench(t)
	refusals := []Refusals{{Reason: "rate_limited", Count: 1}}
	seen := Seen{Uses: 3, At: b.now, Address: ip(berlin), Region: "DE", Network: 64496, Refusals: refusals}
	state, before := new(Token), Before{At: seconds(b.now), Address: ip(berlin), Region: [2]byte{'D', 'E'}, Network: 64496}
	b.Saw(idOf(1), state, &before, &seen)
	if n := testing.AllocsPerRun(100, func() { b.Saw(idOf(1), state, &before, &seen) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// A million active tokens, each used from one network, and each used from several.
func BenchmarkMillion(b *testing.B) {
	const tokens = 1_000_000
	for name, addresses := range map[string]int{"one_network": 1, "several_networks": 4} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				d := newBench(b)
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				states := make([]*Token, tokens)
				start := time.Now()
				for i := range states {
					states[i] = new(Token)
					last := Before{}
					for n := range addresses {
						addr := netip.AddrFrom4([4]byte{10, byte(i % 250), byte(n), 1})
						d.Saw(idOf(i), states[i], &last, &Seen{Uses: 1, At: d.now, Address: addr})
						last = Before{At: seconds(d.now), Address: addr}
					}
				}
				b.ReportMetric(float64(time.Since(start).Nanoseconds())/float64(tokens*addresses), "ns/use")
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/tokens, "B/token")
				runtime.KeepAlive(states)
				runtime.KeepAlive(d)
			}
		})
	}
}
