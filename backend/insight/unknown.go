package insight

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// maxAddresses is the maximum number of addresses with refused unknown tokens: about 1 MB.
	maxAddresses = 10_000

	// unknownFor is how long an address is kept after its last refusal.
	unknownFor = 24 * time.Hour
)

// unknown counts refused tokens that nobody can attribute to a grant, by the address of the client. The counts are in
// memory only. If the table is full, the addresses with the fewest refusals are dropped.
type unknown struct {
	mu        sync.Mutex
	addresses map[netip.Addr]Address
}

// Address is an address from which unknown tokens came.
type Address struct {
	Address  netip.Addr
	Refusals uint64
	First    time.Time
	Last     time.Time
}

func (t *unknown) add(client netip.Addr, count uint64, now time.Time) {
	if !client.IsValid() || count == 0 {
		return
	}
	client = client.Unmap().WithZone("")
	t.mu.Lock()
	defer t.mu.Unlock()
	a, known := t.addresses[client]
	if !known {
		if len(t.addresses) >= maxAddresses {
			t.makeRoom()
		}
		if t.addresses == nil {
			t.addresses = make(map[netip.Addr]Address)
		}
		a = Address{Address: client, First: now}
	}
	a.Refusals += count
	a.Last = now
	t.addresses[client] = a
}

// makeRoom drops an eighth of the addresses: those with the fewest refusals, and of these the oldest.
func (t *unknown) makeRoom() {
	for _, a := range t.sorted()[maxAddresses-maxAddresses/8:] {
		delete(t.addresses, a.Address)
	}
}

// sorted returns the addresses, the one with the most refusals first. The caller holds mu.
func (t *unknown) sorted() []Address {
	list := make([]Address, 0, len(t.addresses))
	for _, a := range t.addresses {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b Address) int {
		return cmp.Or(cmp.Compare(b.Refusals, a.Refusals), b.Last.Compare(a.Last), a.Address.Compare(b.Address))
	})
	return list
}

func (t *unknown) prune(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for client, a := range t.addresses {
		if now.Sub(a.Last) > unknownFor {
			delete(t.addresses, client)
		}
	}
}

// Unknown returns at most limit addresses from which unknown tokens came, the one with the most refusals first.
func (u *Usage) Unknown(limit int) []Address {
	u.unknown.mu.Lock()
	defer u.unknown.mu.Unlock()
	list := u.unknown.sorted()
	return list[:min(limit, len(list))]
}
