package simulation

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// maxEntry is the largest entry that raft storage takes.
const maxEntry = 1 << 20

var (
	errCrashed = errors.New("the process is dead")
	errStorage = errors.New("the storage is broken")
	errTooBig  = errors.New("put failed due to value being too large")
)

// disk is what the nodes share: it keeps what was acknowledged.
type disk struct {
	mu      sync.Mutex
	entries map[string][]byte
	writes  uint64                               // counts what has changed
	written func(by *node, seq uint64, k string) // called for each change, without mu
	stamp   func() uint64                        // the order of all that happens in the world
}

func newDisk(stamp func() uint64) *disk {
	return &disk{entries: make(map[string][]byte), stamp: stamp}
}

func (d *disk) get(key string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.entries[key]
}

// put stores a value, or deletes it where it is nil.
func (d *disk) put(by *node, key string, value []byte) {
	d.mu.Lock()
	if value == nil {
		delete(d.entries, key)
	} else {
		d.entries[key] = slices.Clone(value)
	}
	d.writes++
	seq := d.stamp()
	d.mu.Unlock()
	if d.written != nil {
		d.written(by, seq, key)
	}
}

func (d *disk) list(prefix string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for key := range d.entries {
		name, below := strings.CutPrefix(key, prefix)
		if !below {
			continue
		}
		if folder, _, deeper := strings.Cut(name, "/"); deeper {
			name = folder + "/"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// changes counts what has changed so far.
func (d *disk) changes() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writes
}

// keys are all keys, sorted.
func (d *disk) keys() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	keys := make([]string, 0, len(d.entries))
	for key := range d.entries {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// operations counts what one request asks of storage.
type operations struct {
	mu            sync.Mutex
	reads, writes int
}

type operationsKey struct{}

// plan is what goes wrong with the storage of a node, and when. The zero plan is none.
type plan struct {
	crashAt int  // the node dies at the n-th operation from now; 0: never
	applied bool // and what that operation was to write is written nevertheless
	failAt  int  // the n-th write from now fails; 0: none does
	failFor int  // and so many after it
}

// storage is the disk as one node sees it.
type storage struct {
	disk *disk
	node *node

	mu   sync.Mutex
	plan plan
	mode storageMode
}

type storageMode int

const (
	works    storageMode = iota
	readOnly             // the node has lost leadership: reads work, writes do not
	broken               // writes fail
	dead                 // the process is gone
)

func (s *storage) set(mode storageMode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mode != dead {
		s.mode = mode
	}
}

func (s *storage) schedule(p plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan = p
}

// begin decides the fate of an operation. Where apply is told with an error, it is done, and nobody learns of it.
func (s *storage) begin(ctx context.Context, write bool) (apply bool, err error) {
	s.node.world.gate.pass()
	if counted, ok := ctx.Value(operationsKey{}).(*operations); ok {
		counted.mu.Lock()
		if write {
			counted.writes++
		} else {
			counted.reads++
		}
		counted.mu.Unlock()
	}
	if apply, err := hungUpAt(ctx); err != nil {
		return apply && write, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mode == dead {
		return false, errCrashed
	}
	if s.plan.crashAt > 0 {
		if s.plan.crashAt--; s.plan.crashAt == 0 {
			s.mode = dead
			s.node.die()
			return write && s.plan.applied, errCrashed
		}
	}
	if !write {
		return true, nil
	}
	if s.plan.failAt > 0 {
		s.plan.failAt--
	}
	if s.plan.failAt == 0 && s.plan.failFor > 0 {
		s.plan.failFor--
		s.node.world.faults.Add(1)
		return false, errStorage
	}
	switch s.mode {
	case readOnly:
		return false, logical.ErrReadOnly
	case broken:
		s.node.world.faults.Add(1)
		return false, errStorage
	}
	return true, nil
}

func (s *storage) List(ctx context.Context, prefix string) ([]string, error) {
	if _, err := s.begin(ctx, false); err != nil {
		return nil, err
	}
	return s.disk.list(prefix), nil
}

func (s *storage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if _, err := s.begin(ctx, false); err != nil {
		return nil, err
	}
	value := s.disk.get(key)
	if value == nil {
		return nil, nil
	}
	return &logical.StorageEntry{Key: key, Value: slices.Clone(value)}, nil
}

func (s *storage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	apply, err := s.begin(ctx, true)
	if len(entry.Value) > maxEntry {
		s.node.world.broken(6, "%s would be %d bytes long, more than raft takes", entry.Key, len(entry.Value))
		return errTooBig
	}
	if apply {
		value := entry.Value
		if value == nil {
			value = []byte{}
		}
		s.disk.put(s.node, entry.Key, value)
	}
	return err
}

func (s *storage) Delete(ctx context.Context, key string) error {
	apply, err := s.begin(ctx, true)
	if apply {
		s.disk.put(s.node, key, nil)
	}
	return err
}

// gate lets the driver decide in which order the storage operations of concurrent requests are done. It is open but
// while a burst is scheduled: a goroutine that waits here may hold locks of the engine, so that no time may pass.
type gate struct {
	mu      sync.Mutex
	closed  bool
	waiting []chan struct{}
}

func (g *gate) pass() {
	g.mu.Lock()
	if !g.closed {
		g.mu.Unlock()
		return
	}
	turn := make(chan struct{})
	g.waiting = append(g.waiting, turn)
	g.mu.Unlock()
	<-turn
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// release lets one of those that wait go on; it reports whether there was one.
func (g *gate) release(choose func(n int) int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		return false
	}
	i := choose(len(g.waiting))
	close(g.waiting[i])
	g.waiting = slices.Delete(g.waiting, i, i+1)
	return true
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = false
	for _, turn := range g.waiting {
		close(turn)
	}
	g.waiting = nil
}

// pause has time pass a little, for what waits for it and not for storage.
func (g *gate) pause(d time.Duration) {
	g.open()
	time.Sleep(d)
	g.shut()
}
