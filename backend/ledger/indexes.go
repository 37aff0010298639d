package ledger

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// IndexesPrefix is where Indexes keeps its status lists in storage.
const IndexesPrefix = "ledger/status/"

const (
	// ListSize is how many places a status list has.
	ListSize = 1 << 20

	blockSize  = 1 << 12
	blockCount = ListSize / blockSize
)

// Indexes hands out places in status lists, each once. It takes a block of them at a time, which is the
// only thing that it writes; a restart gives up what is left of a block. Blocks are taken in random order,
// and places of a block too, so that a place says nothing about how many were handed out before it.
type Indexes struct {
	mu    sync.Mutex
	lists map[uint32]*statusList
	list  uint32   // the list that is being filled; 0: none yet
	free  []uint16 // places of the block at hand, in random order
	block uint32   // that block
}

// statusList is the stored form.
type statusList struct {
	_        struct{}                `cbor:",toarray"`
	Taken    [blockCount / 64]uint64 // a bit for each block
	ClosedAt int64                   // seconds since 1970: when the next list was begun; 0: it is the last
}

// LoadIndexes reads them from storage.
func LoadIndexes(ctx context.Context, s logical.Storage) (*Indexes, error) {
	names, err := s.List(ctx, IndexesPrefix)
	if err != nil {
		return nil, err
	}
	x := &Indexes{lists: make(map[uint32]*statusList, len(names))}
	for _, name := range names {
		number, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%s%s is not a status list", IndexesPrefix, name)
		}
		stored, err := s.Get(ctx, IndexesPrefix+name)
		if err != nil {
			return nil, err
		}
		if stored == nil {
			continue
		}
		list := new(statusList)
		if err := cbor.Unmarshal(stored.Value, list); err != nil {
			return nil, fmt.Errorf("%s%s: %w", IndexesPrefix, name, err)
		}
		x.lists[uint32(number)] = list
		if list.ClosedAt == 0 {
			x.list = max(x.list, uint32(number))
		}
	}
	return x, nil
}

// Next hands out a place.
func (x *Indexes) Next(ctx context.Context, s logical.Storage, now time.Time) (token.StatusRef, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.free) == 0 {
		if err := x.reserve(ctx, s, now); err != nil {
			return token.StatusRef{}, err
		}
	}
	place := x.free[len(x.free)-1]
	x.free = x.free[:len(x.free)-1]
	return token.StatusRef{List: x.list, Index: x.block*blockSize + uint32(place)}, nil
}

// reserve takes a block, of a new list where the last one is full. The caller holds mu.
func (x *Indexes) reserve(ctx context.Context, s logical.Storage, now time.Time) error {
	current := x.lists[x.list]
	number := x.list
	var next statusList
	if current != nil {
		next = *current
	}
	if current == nil || next.left() == 0 {
		if current != nil {
			next.ClosedAt = now.Unix()
			if err := x.store(ctx, s, number, &next); err != nil {
				return err
			}
			next = statusList{}
		}
		number = x.highest() + 1
	}

	order, err := shuffled(next.left())
	if err != nil {
		return err
	}
	block := next.nth(int(order[0]))
	next.Taken[block/64] |= 1 << (block % 64)
	free, err := shuffled(blockSize)
	if err != nil {
		return err
	}
	if err := x.store(ctx, s, number, &next); err != nil {
		return err
	}
	x.list, x.block, x.free = number, uint32(block), free
	return nil
}

// highest is the highest number that a list has had. The last list is never dropped, so that a number is
// not given twice.
func (x *Indexes) highest() uint32 {
	var highest uint32
	for number := range x.lists {
		highest = max(highest, number)
	}
	return highest
}

func (x *Indexes) store(ctx context.Context, s logical.Storage, number uint32, list *statusList) error {
	encoded, err := cbor.Marshal(list)
	if err != nil {
		return err
	}
	key := IndexesPrefix + strconv.FormatUint(uint64(number), 10)
	if err := s.Put(ctx, &logical.StorageEntry{Key: key, Value: encoded}); err != nil {
		return err
	}
	kept := *list
	x.lists[number] = &kept
	return nil
}

// left is how many blocks are free.
func (l *statusList) left() int {
	n := blockCount
	for _, word := range l.Taken {
		n -= bits.OnesCount64(word)
	}
	return n
}

// nth is the n-th of the free blocks.
func (l *statusList) nth(n int) int {
	for block := range blockCount {
		if l.Taken[block/64]&(1<<(block%64)) != 0 {
			continue
		}
		if n == 0 {
			return block
		}
		n--
	}
	return -1
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

// Lists gives the numbers of the lists there are, in order.
func (x *Indexes) Lists() []uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	var numbers []uint32
	for number := uint32(1); number <= x.highest(); number++ {
		if x.lists[number] != nil {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

// Has tells whether there is a list of this number.
func (x *Indexes) Has(number uint32) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.lists[number] != nil
}

// Prune drops lists that were closed longer ago than any token lives.
func (x *Indexes) Prune(ctx context.Context, s logical.Storage, longest time.Duration, now time.Time) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for number, list := range x.lists {
		if list.ClosedAt == 0 || now.Before(time.Unix(list.ClosedAt, 0).Add(longest)) || number == x.highest() {
			continue
		}
		if err := s.Delete(ctx, IndexesPrefix+strconv.FormatUint(uint64(number), 10)); err != nil {
			return err
		}
		delete(x.lists, number)
	}
	return nil
}
