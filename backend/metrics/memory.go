package metrics

import "runtime/metrics"

// ProcessMemory returns how much memory of the operating system the Go runtime of the process holds, in bytes.
func ProcessMemory() float64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return float64(samples[0].Value.Uint64()) - float64(samples[1].Value.Uint64())
}
