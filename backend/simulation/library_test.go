package simulation

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestLibrary lets an API server check tokens with package verify while everything happens that happens in TestSimulate.
func TestLibrary(t *testing.T) {
	limit, allowed, refused := *forFlag, 0, 0
	if testing.Short() {
		limit = min(limit, time.Second)
	}
	first := *seedFlag
	if first == 0 {
		first = rand.Uint64() >> 24
	}
	begun := time.Now()
	for seed := first; time.Since(begun) < limit; seed++ {
		s := setting{seed: seed, profile: profiles["native"]}
		run(t, s, func(w *world) {
			l := w.attach()
			if l == nil {
				return
			}
			for _, step := range program(seed, 150, s.profile) {
				if w.failed.Load() != nil {
					break
				}
				r := rand.New(rand.NewPCG(step.Seed, 1))
				actions[step.Action].do(w, r)
				w.afterStep(r)
				l.follow()
				for range r.IntN(4) {
					w.checkLibrary(l, r)
				}
			}
			if err := l.verifier.Close(); err != nil {
				t.Error(err)
			}
			allowed, refused = allowed+l.allowed, refused+l.refused
		}, func(w *world) {
			if v := w.failed.Load(); v != nil {
				t.Fatalf("seed %d: %v\n%s", seed, v, lastLines(w.told(), 60))
			}
		})
	}
	if allowed == 0 || refused == 0 {
		t.Errorf("%d decisions allowed a use, %d refused", allowed, refused)
	}
	t.Logf("%d decisions allowed a use, %d refused", allowed, refused)
}
