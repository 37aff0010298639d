package ledger

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// StatusPrefix is where StatusIndexes keeps its status lists in storage.
const StatusPrefix = "ledger/status/"

const (
	// ListSize is how many places a status list has.
	ListSize = 1 << 20

	blockSize  = 1 << 10
	blockCount = ListSize / blockSize

	// blockLife is how long places of a block are handed out. A list is needed until the last token of its last
	// block must have expired.
	blockLife = 24 * time.Hour
)

// StatusIndexes hands out places in status lists, each once. It takes a block of them at a time for one role, which
// is the only thing that it writes; what a process does not use of a block is given up. Blocks are taken in random
// order, and places of a block too, so that a place says nothing about how many were handed out before it. Each
// process fills lists of its own, under random numbers, so that no two hand out the same place.
type StatusIndexes struct {
	damage
	mu    sync.Mutex
	lists map[uint32]*statusList
	list  uint32                  // the list that this process is filling; 0: none yet
	free  map[token.RoleID]*block // the block at hand of each role
}

// block is a block that is being handed out.
type block struct {
	statusBlock
	list   uint32
	places []uint16 // that are left, in random order
}

// statusList is the stored form: the blocks that were taken, in that order.
type statusList struct {
	_      struct{} `cbor:",toarray"`
	Blocks []statusBlock
}

type statusBlock struct {
	_       struct{} `cbor:",toarray"`
	Number  uint16
	Role    token.RoleID // whose tokens have its places
	TakenAt int64        // seconds since 1970
}

// NewStatusIndexes returns those of one process, which knows no lists until Load.
func NewStatusIndexes() *StatusIndexes {
	return &StatusIndexes{lists: make(map[uint32]*statusList), free: make(map[token.RoleID]*block)}
}

func statusKey(number uint32) string { return StatusPrefix + strconv.FormatUint(uint64(number), 10) }

// Load reads all lists from storage, also again.
func (x *StatusIndexes) Load(ctx context.Context, s logical.Storage, now time.Time) error {
	names, err := s.List(ctx, StatusPrefix)
	if err != nil {
		return err
	}
	for _, number := range x.Lists() { // those that are gone, too
		names = append(names, strconv.FormatUint(uint64(number), 10))
	}
	for _, name := range names {
		if err := x.Reload(ctx, s, StatusPrefix+name, now); err != nil {
			return err
		}
	}
	return nil
}

// Reload reads one list that somebody else has written. A list that cannot be read is not served.
func (x *StatusIndexes) Reload(ctx context.Context, s logical.Storage, key string, _ time.Time) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	number, err := strconv.ParseUint(strings.TrimPrefix(key, StatusPrefix), 10, 32)
	if err != nil {
		x.note(key, fmt.Errorf("%s is not a status list", key))
		return nil
	}
	if uint32(number) == x.list && x.lists[x.list] != nil {
		return nil // nobody else writes it
	}
	stored, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	delete(x.lists, uint32(number))
	x.note(key, nil)
	if stored == nil {
		return nil
	}
	list := new(statusList)
	if err := cbor.Unmarshal(stored.Value, list); err != nil {
		x.note(key, err)
		return nil
	}
	x.lists[uint32(number)] = list
	return nil
}

// Next hands out a place for a token of a role.
func (x *StatusIndexes) Next(ctx context.Context, s logical.Storage, role token.RoleID, now time.Time) (token.StatusRef, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.free[role]
	if b == nil || len(b.places) == 0 || now.Unix()-b.TakenAt >= int64(blockLife/time.Second) {
		var err error
		if b, err = x.reserve(ctx, s, role, now); err != nil {
			return token.StatusRef{}, err
		}
		x.free[role] = b
	}
	place := b.places[len(b.places)-1]
	b.places = b.places[:len(b.places)-1]
	return token.StatusRef{List: b.list, Index: uint32(b.Number)*blockSize + uint32(place)}, nil
}

// reserve takes a block, of a new list where the last one is full. The caller holds mu.
func (x *StatusIndexes) reserve(ctx context.Context, s logical.Storage, role token.RoleID, now time.Time) (*block, error) {
	number := x.list
	var next statusList
	if current := x.lists[number]; current != nil && len(current.Blocks) < blockCount {
		next.Blocks = slices.Clone(current.Blocks)
	} else {
		var err error
		if number, err = x.unused(ctx, s); err != nil {
			return nil, err
		}
	}
	taken := make(map[uint16]bool, len(next.Blocks))
	for _, b := range next.Blocks {
		taken[b.Number] = true
	}
	order, err := shuffled(blockCount)
	if err != nil {
		return nil, err
	}
	first := slices.IndexFunc(order, func(n uint16) bool { return !taken[n] })
	b := &block{statusBlock: statusBlock{Number: order[first], Role: role, TakenAt: now.Unix()}, list: number}
	if b.places, err = shuffled(blockSize); err != nil {
		return nil, err
	}
	next.Blocks = append(next.Blocks, b.statusBlock)
	encoded, err := cbor.Marshal(next)
	if err != nil {
		return nil, err
	}
	if err := s.Put(ctx, &logical.StorageEntry{Key: statusKey(number), Value: encoded}); err != nil {
		return nil, err
	}
	x.list, x.lists[number] = number, &next
	return b, nil
}

// unused returns a random number of 31 bits that no list has. The caller holds mu.
func (x *StatusIndexes) unused(ctx context.Context, s logical.Storage) (uint32, error) {
	for {
		var random [4]byte
		if _, err := rand.Read(random[:]); err != nil {
			return 0, err
		}
		number := binary.BigEndian.Uint32(random[:]) >> 1
		if stored, err := s.Get(ctx, statusKey(number)); err != nil || stored == nil && number > 0 {
			return number, err
		}
	}
}

// PlacesOf lists the places of a list that are, or may be, those of tokens of certain roles.
func (x *StatusIndexes) PlacesOf(list uint32, roles func(token.RoleID) bool) []uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	var places []uint32
	if l := x.lists[list]; l != nil {
		for _, b := range l.Blocks {
			if !roles(b.Role) {
				continue
			}
			for place := range uint32(blockSize) {
				places = append(places, uint32(b.Number)*blockSize+place)
			}
		}
	}
	return places
}

// Lists gives the numbers of the lists there are, in order.
func (x *StatusIndexes) Lists() []uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Sorted(maps.Keys(x.lists))
}

// Has reports whether there is a list of this number.
func (x *StatusIndexes) Has(number uint32) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.lists[number] != nil
}

// Prune drops lists of whose places no token can be live any more, and forgets the blocks at hand that are too old.
func (x *StatusIndexes) Prune(ctx context.Context, s logical.Storage, longest time.Duration, now time.Time) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(x.free, func(_ token.RoleID, b *block) bool { return now.Unix()-b.TakenAt >= int64(blockLife/time.Second) })
	for number, list := range x.lists {
		if !list.over(longest, now) {
			continue
		}
		// The writer of the list may have taken a block since.
		stored, err := s.Get(ctx, statusKey(number))
		if err != nil {
			return err
		}
		if stored != nil {
			latest := new(statusList)
			if err := cbor.Unmarshal(stored.Value, latest); err != nil {
				x.note(statusKey(number), err)
				delete(x.lists, number)
				continue
			}
			if x.lists[number] = latest; !latest.over(longest, now) {
				continue
			}
			if err := s.Delete(ctx, statusKey(number)); err != nil {
				return err
			}
		}
		delete(x.lists, number)
	}
	return nil
}

// over reports whether the tokens of all blocks must have expired.
func (l *statusList) over(longest time.Duration, now time.Time) bool {
	for _, b := range l.Blocks {
		if now.Before(time.Unix(b.TakenAt, 0).Add(blockLife + longest + ClockSkew)) {
			return false
		}
	}
	return true
}

// shuffled is the numbers below n, in an order that nobody can foretell.
func shuffled(n int) ([]uint16, error) {
	list := make([]uint16, n)
	for i := range list {
		list[i] = uint16(i)
	}
	random := make([]byte, 8*n)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	for i := n - 1; i > 0; i-- {
		j := binary.BigEndian.Uint64(random[8*i:]) % uint64(i+1)
		list[i], list[j] = list[j], list[i]
	}
	return list, nil
}
