package insight

import (
	"math"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Totals is how often a token was used and refused. The zero Totals means that nothing is known.
type Totals struct {
	Uses     int64
	Refusals int64
	LastUse  time.Time // to the second
}

// Totals returns the totals of a token. Totals reads memory only.
func (u *Usage) Totals(id token.ID) Totals {
	s := &u.shards[id[0]]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil {
		return Totals{}
	}
	t := Totals{Uses: int64(min(e.uses, math.MaxInt64))} //nolint:gosec // bounded
	for _, n := range e.refusals {
		t.Refusals += int64(n)
	}
	if e.last != 0 {
		t.LastUse = fromSeconds(e.last)
	}
	return t
}
