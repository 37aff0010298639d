package insight

import (
	"math"
	"net/netip"
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
	t := Totals{Uses: int64(min(e.uses, math.MaxInt64))}
	for r := e.refusals; r != nil; r = r.next {
		t.Refusals += int64(r.count)
	}
	if e.last != 0 {
		t.LastUse = fromSeconds(e.last)
	}
	return t
}

// LastSeen is the circumstances of the last use of a token, and the scopes that all uses needed. The zero value of a field
// means that nothing is known.
type LastSeen struct {
	At         time.Time // to the second
	Address    netip.Addr
	Region     string
	Scopes     []string // sorted; not to be changed
	MoreScopes bool     // uses needed more scopes than Scopes has
}

// LastSeen returns the circumstances of the last use of a token; false if no use is known. LastSeen reads memory only.
func (u *Usage) LastSeen(id token.ID) (_ LastSeen, used bool) {
	s := &u.shards[id[0]]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil || e.last == 0 {
		return LastSeen{}, false
	}
	seen := LastSeen{At: fromSeconds(e.last), MoreScopes: e.more}
	if e.address != [16]byte{} {
		seen.Address = netip.AddrFrom16(e.address).Unmap()
	}
	if e.region != [2]byte{} {
		seen.Region = string(e.region[:])
	}
	if e.scopes != nil {
		seen.Scopes = e.scopes.list
	}
	return seen, true
}
