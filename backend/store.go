package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
)

// stored is something that an operator keeps in the mount under a name. It does not change; an update makes a
// new one.
type stored[ID comparable] interface {
	comparable
	title() string // its name
	identity() ID  // different when it is deleted and created again; the zero ID: it has none
	entry() any    // what storage holds of it
}

// store is all that is stored of one kind, in memory and in storage.
type store[ID comparable, T stored[ID]] struct {
	prefix   string // of the keys in storage
	sealWrap bool

	writing sync.Mutex // held from reading one for a change until the change is stored, unless each has a lock

	mu    sync.RWMutex
	named map[string]T
	ids   map[ID]T
}

// newStore reads all of a kind from storage; read makes one from what storage holds.
func newStore[ID comparable, T stored[ID]](ctx context.Context, s logical.Storage, prefix string, sealWrap bool, read func(name string, entry *logical.StorageEntry) (T, error)) (*store[ID, T], error) {
	all := &store[ID, T]{prefix: prefix, sealWrap: sealWrap, named: make(map[string]T), ids: make(map[ID]T)}
	return all, eachEntry(ctx, s, prefix, func(name string, entry *logical.StorageEntry) error {
		one, err := read(name, entry)
		if err != nil {
			return fmt.Errorf("%s%s: %w", prefix, name, err)
		}
		all.show(one)
		return nil
	})
}

// eachEntry reads all that storage has below a prefix.
func eachEntry(ctx context.Context, s logical.Storage, prefix string, visit func(name string, entry *logical.StorageEntry) error) error {
	names, err := s.List(ctx, prefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		entry, err := s.Get(ctx, prefix+name)
		if err != nil {
			return err
		}
		if entry == nil {
			continue
		}
		if err := visit(name, entry); err != nil {
			return err
		}
	}
	return nil
}

func (s *store[ID, T]) show(one T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.named[one.title()] = one
	var none ID
	if id := one.identity(); id != none {
		s.ids[id] = one
	}
}

// get finds one by its name; the zero T where there is none.
func (s *store[ID, T]) get(name string) T {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.named[name]
}

// byID finds one by its id; the zero T where it has been deleted.
func (s *store[ID, T]) byID(id ID) T {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ids[id]
}

// names lists them in alphabetical order.
func (s *store[ID, T]) names() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.named))
}

// all gives them in the order of their names.
func (s *store[ID, T]) all() []T {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.SortedFunc(maps.Values(s.named), func(a, b T) int { return strings.Compare(a.title(), b.title()) })
}

// put writes one, and shows it once it is written. The caller has locked it for writing.
func (s *store[ID, T]) put(ctx context.Context, storage logical.Storage, one T) error {
	entry, err := logical.StorageEntryJSON(s.prefix+one.title(), one.entry())
	if err != nil {
		return err
	}
	entry.SealWrap = s.sealWrap
	if err := storage.Put(ctx, entry); err != nil {
		return err
	}
	s.show(one)
	return nil
}

// delete removes one from storage and then from sight. The caller has locked it for writing.
func (s *store[ID, T]) delete(ctx context.Context, storage logical.Storage, one T) error {
	if err := storage.Delete(ctx, s.prefix+one.title()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.named, one.title())
	delete(s.ids, one.identity())
	return nil
}
