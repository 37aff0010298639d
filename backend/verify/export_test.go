package verify

import (
	"fmt"
	"testing"
	"time"
)

// Filled is a Verifier whose memory can be filled without an issuer.
type Filled struct{ v impl }

// Fill returns a Filled with room for a million tokens.
func Fill(t testing.TB, _ int) *Filled {
	t.Helper()
	f := new(Filled)
	if err := f.v.configure(Config{Issuer: "https://vault.test/v1/apitoken", AnyAudience: true, MaxTokens: 1_000_000}); err != nil {
		t.Fatal(err)
	}
	return f
}

// Fill keeps the facts of n tokens, each with a subject of its own.
func (f *Filled) Fill(n int) {
	t := &terms{role: "reader"}
	for i := range n {
		text := fmt.Sprintf("apt_%076d", i)
		one := &facts{terms: t, expires: time.Now().Add(time.Hour).Unix(), learned: time.Now().UnixNano()}
		one.setNames(fmt.Sprintf("%024x", i), fmt.Sprintf("00000000-0000-0000-0000-%012x", i))
		f.v.tokens.Set(f.v.digests.sum(text), one)
	}
}

// Len returns the number of kept tokens.
func (f *Filled) Len() int { return f.v.tokens.EstimatedSize() }

// Listed returns the number of rows that wait to be reported.
func (v *Verifier) Listed() int {
	v.usage.mu.Lock()
	defer v.usage.mu.Unlock()
	return len(v.usage.active) + len(v.usage.moved) + len(v.usage.due)
}
