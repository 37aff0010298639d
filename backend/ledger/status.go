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

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// StatusPrefix is where status lists are stored.
const StatusPrefix = "ledger/status/"

const (
	// ListSize is the number of places in a status list.
	ListSize = 1 << 20

	blockSize  = 1 << 10
	blockCount = ListSize / blockSize

	// blockLife is how long places of a block are handed out. A list is needed until all tokens of its last block must
	// have expired.
	blockLife = 24 * time.Hour
)

// StatusIndexes hands out places in status lists. Each place is handed out once. A write reserves a block of places for
// one role. A process that stops loses the unused places of its blocks. Blocks and places are taken in random order, so
// that a place does not reveal how many tokens were issued. Each process fills lists of its own with random numbers, so
// that two processes never hand out the same place.
type StatusIndexes struct {
	store.Damage
	mu    sync.Mutex
	lists map[uint32]*statusList
	list  uint32                  // the list that this process is filling; 0 if there is none yet
	free  map[token.RoleID]*block // the block whose places are being handed out
}

// block is a block that is being handed out.
type block struct {
	statusBlock
	list   uint32
	places []uint16 // unused places, in random order
}

// statusList is the stored form of a list: the reserved blocks, in the order of reservation.
type statusList struct {
	_      struct{} `cbor:",toarray"`
	Blocks []statusBlock
}

type statusBlock struct {
	_       struct{} `cbor:",toarray"`
	Number  uint16
	Role    token.RoleID // role of the tokens
	TakenAt int64        // seconds since 1970
}

// NewStatusIndexes returns empty StatusIndexes. Load fills them.
func NewStatusIndexes() *StatusIndexes {
	return &StatusIndexes{lists: make(map[uint32]*statusList), free: make(map[token.RoleID]*block)}
}

func statusKey(number uint32) string { return StatusPrefix + strconv.FormatUint(uint64(number), 10) }

// Load reads all lists from storage. Another call brings memory up to date.
func (x *StatusIndexes) Load(ctx context.Context, s logical.Storage, now time.Time) error {
	names, err := s.List(ctx, StatusPrefix)
	if err != nil {
		return err
	}
	for _, number := range x.Lists() { // deleted lists, too
		names = append(names, strconv.FormatUint(uint64(number), 10))
	}
	for _, name := range names {
		if err := x.Reload(ctx, s, StatusPrefix+name, now); err != nil {
			return err
		}
	}
	return nil
}

// Reload reads a list that another process has written. An unreadable list is not served.
func (x *StatusIndexes) Reload(ctx context.Context, s logical.Storage, key string, _ time.Time) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	number, err := strconv.ParseUint(strings.TrimPrefix(key, StatusPrefix), 10, 32)
	if err != nil {
		x.NoteDamage(key, fmt.Errorf("%s is not a status list", key))
		return nil
	}
	if uint32(number) == x.list && x.lists[x.list] != nil {
		return nil // no other process writes this list
	}
	stored, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	delete(x.lists, uint32(number))
	x.NoteDamage(key, nil)
	if stored == nil {
		return nil
	}
	list := new(statusList)
	if err := cbor.Unmarshal(stored.Value, list); err != nil {
		x.NoteDamage(key, err)
		return nil
	}
	x.lists[uint32(number)] = list
	return nil
}

// Next returns a new place for a token of a role.
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

// reserve reserves a block for a role. It begins a new list if the current list is full. The caller holds mu.
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

// unused returns a random 31-bit number that no list has. The caller holds mu.
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

// PlacesOf returns the places in a list that are reserved for certain roles.
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

// Lists returns the numbers of the existing lists, in order.
func (x *StatusIndexes) Lists() []uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Sorted(maps.Keys(x.lists))
}

// Has reports whether a list of this number exists.
func (x *StatusIndexes) Has(number uint32) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.lists[number] != nil
}

// Named returns the number of a list from the text of the number, and reports whether the list exists. A number has one text.
func (x *StatusIndexes) Named(text string) (number uint32, exists bool) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != text {
		return 0, false
	}
	return uint32(n), x.Has(uint32(n))
}

// Find is Has for a list that another process may have begun: Find reads a list that memory does not have.
func (x *StatusIndexes) Find(ctx context.Context, s logical.Storage, number uint32, now time.Time) (bool, error) {
	if x.Has(number) {
		return true, nil
	}
	if err := x.Reload(ctx, s, statusKey(number), now); err != nil {
		return false, err
	}
	return x.Has(number), nil
}

// Prune deletes the lists whose tokens must have expired, and drops blocks whose places are no longer handed out.
func (x *StatusIndexes) Prune(ctx context.Context, s logical.Storage, longest time.Duration, now time.Time) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(x.free, func(_ token.RoleID, b *block) bool { return now.Unix()-b.TakenAt >= int64(blockLife/time.Second) })
	for number, list := range x.lists {
		if !list.over(longest, now) {
			continue
		}
		// The writer of the list may have reserved a block since.
		stored, err := s.Get(ctx, statusKey(number))
		if err != nil {
			return err
		}
		if stored != nil {
			latest := new(statusList)
			if err := cbor.Unmarshal(stored.Value, latest); err != nil {
				x.NoteDamage(statusKey(number), err)
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

// over reports whether the tokens of all blocks of a list must have expired.
func (l *statusList) over(longest time.Duration, now time.Time) bool {
	for _, b := range l.Blocks {
		if now.Before(time.Unix(b.TakenAt, 0).Add(blockLife + longest + ClockSkew)) {
			return false
		}
	}
	return true
}

// shuffled returns the numbers below n in an unpredictable random order.
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
