// Package store keeps named entries such as roles, connections and static roles. Each entry is one storage entry, with a
// copy in memory.
package store

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
)

// Named is an entry with a name. An entry does not change: an update publishes a new entry.
type Named[ID comparable] interface {
	comparable
	Name() string
	Identity() ID // differs after the entry is deleted and created again; the zero ID if the kind has no IDs
	Stored() any  // stored form of the entry, a value that encodes to JSON
}

// Store holds all entries of one kind.
type Store[ID comparable, T Named[ID]] struct {
	prefix   string // of the storage keys
	sealWrap bool
	decode   func(name string, entry *logical.StorageEntry) (T, error)

	// Writing is held from reading an entry for a change until the change is stored, unless each entry has a separate
	// lock.
	Writing sync.Mutex

	storing sync.Mutex // held while storage is read or written and memory follows

	mu      sync.RWMutex
	changed func(name string)     // called when an entry of memory changes or goes; nil: nobody asks
	named   map[string]T          // name -> entry
	ids     map[ID]T              // Identity -> entry
	damaged map[string]damage[ID] // name -> entry that cannot be read
}

// damage is a stored entry that cannot be decoded or compiled. Such an entry affects only the requests that need the entry.
// An operator can delete or replace the entry.
type damage[ID comparable] struct {
	id  ID // the zero ID if not even the ID can be read
	err error
}

// New returns an empty store. decode returns an error for an invalid entry.
func New[ID comparable, T Named[ID]](prefix string, sealWrap bool, decode func(name string, entry *logical.StorageEntry) (T, error)) *Store[ID, T] {
	return &Store[ID, T]{
		prefix: prefix, sealWrap: sealWrap, decode: decode,
		named: make(map[string]T), ids: make(map[ID]T), damaged: make(map[string]damage[ID]),
	}
}

// Set replaces a value of an entry if a request gives another; nil stands for a value that the request does not give.
func Set[T any](into, given *T) {
	if given != nil {
		*into = *given
	}
}

// Load returns a store of all stored entries with a prefix.
func Load[ID comparable, T Named[ID]](ctx context.Context, s logical.Storage, prefix string, sealWrap bool, decode func(name string, entry *logical.StorageEntry) (T, error)) (*Store[ID, T], error) {
	all := New(prefix, sealWrap, decode)
	return all, all.ReloadAll(ctx, s)
}

// publishStored publishes the stored entry of a name, and returns the entry. For an entry that cannot be read,
// publishStored returns the zero T.
func (s *Store[ID, T]) publishStored(name string, stored *logical.StorageEntry) T {
	entry, err := s.decode(name, stored)
	if err == nil {
		s.publish(entry)
		return entry
	}
	var least struct {
		ID ID `json:"id"`
	}
	_ = stored.DecodeJSON(&least) // as much as can be read
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(name)
	s.damaged[name] = damage[ID]{least.ID, err}
	var none T
	return none
}

// publish replaces the entry of the same name in memory.
func (s *Store[ID, T]) publish(entry T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(entry.Name())
	s.named[entry.Name()] = entry
	var none ID
	if id := entry.Identity(); id != none {
		s.ids[id] = entry
	}
}

// withdraw removes a name from memory.
func (s *Store[ID, T]) withdraw(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(name)
}

// drop removes a name from memory. The caller holds mu.
func (s *Store[ID, T]) drop(name string) {
	if entry, known := s.named[name]; known {
		delete(s.ids, entry.Identity())
		delete(s.named, name)
		if s.changed != nil {
			s.changed(name)
		}
	}
	delete(s.damaged, name)
}

// OnChange has f called whenever an entry in memory changes or goes, before anybody can see the new entry.
func (s *Store[ID, T]) OnChange(f func(name string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = f
}

// Latest reads an entry from storage again. A change must be based on what storage holds, since another process may
// have written the entry. Latest returns the zero T if there is no entry or the entry cannot be read. The caller holds
// Writing, or the lock of the entry.
func (s *Store[ID, T]) Latest(ctx context.Context, storage logical.Storage, name string) (T, error) {
	s.storing.Lock()
	defer s.storing.Unlock()
	var none T
	stored, err := storage.Get(ctx, s.prefix+name)
	if err != nil {
		return none, err
	}
	if stored == nil {
		s.withdraw(name)
		return none, nil
	}
	if known := s.Get(name); known != none {
		same, err := logical.StorageEntryJSON(s.prefix+name, known.Stored())
		if err == nil && bytes.Equal(same.Value, stored.Value) {
			return known, nil
		}
	}
	return s.publishStored(name, stored), nil
}

// Reload reads the entry of a storage key again after another node wrote that key.
func (s *Store[ID, T]) Reload(ctx context.Context, storage logical.Storage, key string) error {
	_, err := s.Latest(ctx, storage, strings.TrimPrefix(key, s.prefix))
	return err
}

// ReloadAll reads all entries from storage again, for a change that depends on all of them.
func (s *Store[ID, T]) ReloadAll(ctx context.Context, storage logical.Storage) error {
	stored, err := storage.List(ctx, s.prefix)
	if err != nil {
		return err
	}
	for _, name := range append(stored, s.Names()...) {
		if _, err := s.Latest(ctx, storage, name); err != nil {
			return err
		}
	}
	return nil
}

// Get returns the entry of a name; the zero T if there is none or the entry cannot be read.
func (s *Store[ID, T]) Get(name string) T {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.named[name]
}

// ByID returns the entry of an ID; the zero T if the entry was deleted.
func (s *Store[ID, T]) ByID(id ID) T {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ids[id]
}

// Has reports whether storage has an entry of a name, even one that cannot be read.
func (s *Store[ID, T]) Has(name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, known := s.named[name]
	_, damaged := s.damaged[name]
	return known || damaged
}

// Broken returns why the entry of a name cannot be read; nil if the entry can be read or there is none.
func (s *Store[ID, T]) Broken(name string) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if d, found := s.damaged[name]; found {
		return s.unreadable(name, d.err)
	}
	return nil
}

// BrokenID returns why the entry of an ID cannot be read; nil if the entry can be read or there is none. An entry whose
// ID cannot be read either may be the entry of any ID.
func (s *Store[ID, T]) BrokenID(id ID) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, known := s.ids[id]; known {
		return nil
	}
	var none ID
	for name, d := range s.damaged {
		if d.id == id || d.id == none {
			return s.unreadable(name, d.err)
		}
	}
	return nil
}

func (s *Store[ID, T]) unreadable(name string, reason error) error {
	return fmt.Errorf("the stored entry %s%s cannot be read: %w", s.prefix, name, reason)
}

// DamagedID returns the ID of an entry that cannot be read; the zero ID if the ID cannot be read either.
func (s *Store[ID, T]) DamagedID(name string) ID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.damaged[name].id
}

// Damaged returns the storage keys of all entries that cannot be read, each with the reason.
func (s *Store[ID, T]) Damaged() map[string]error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	keys := make(map[string]error, len(s.damaged))
	for name, d := range s.damaged {
		keys[s.prefix+name] = d.err
	}
	return keys
}

// Names returns all names in alphabetical order, also those of entries that cannot be read.
func (s *Store[ID, T]) Names() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return SortedNames(s.named, s.damaged)
}

// SortedNames returns the keys of two maps in alphabetical order, each once.
func SortedNames[A, B any](a map[string]A, b map[string]B) []string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(names)
	return slices.Compact(names)
}

// All returns the entries that can be read, in the order of their names.
func (s *Store[ID, T]) All() []T {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.SortedFunc(maps.Values(s.named), func(a, b T) int { return strings.Compare(a.Name(), b.Name()) })
}

// Put stores an entry and then publishes the entry. The caller holds Writing, or the lock of the entry.
func (s *Store[ID, T]) Put(ctx context.Context, storage logical.Storage, entry T) error {
	stored, err := logical.StorageEntryJSON(s.prefix+entry.Name(), entry.Stored())
	if err != nil {
		return err
	}
	stored.SealWrap = s.sealWrap
	s.storing.Lock()
	defer s.storing.Unlock()
	if err := storage.Put(ctx, stored); err != nil {
		return err
	}
	s.publish(entry)
	return nil
}

// Delete removes the entry of a name from storage and then from memory, also an entry that cannot be read. The caller
// holds Writing, or the lock of the entry.
func (s *Store[ID, T]) Delete(ctx context.Context, storage logical.Storage, name string) error {
	s.storing.Lock()
	defer s.storing.Unlock()
	if err := storage.Delete(ctx, s.prefix+name); err != nil {
		return err
	}
	s.withdraw(name)
	return nil
}
