package backend

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
	read     func(name string, entry *logical.StorageEntry) (T, error)

	writing sync.Mutex // held from reading one for a change until the change is stored, unless each has a lock
	storing sync.Mutex // held while one is read from storage or written there, and memory follows

	mu      sync.RWMutex
	named   map[string]T
	ids     map[ID]T
	damaged map[string]damage[ID] // by name: what storage holds and nobody can read
}

// damage is an entry that cannot be decoded, or does not compile. It costs only what needs it; an operator can
// delete it, or write another in its place.
type damage[ID comparable] struct {
	id  ID // the zero ID: not even that can be read
	err error
}

// newStore reads all of a kind from storage; read makes one from what storage holds.
func newStore[ID comparable, T stored[ID]](ctx context.Context, s logical.Storage, prefix string, sealWrap bool, read func(name string, entry *logical.StorageEntry) (T, error)) (*store[ID, T], error) {
	all := &store[ID, T]{
		prefix: prefix, sealWrap: sealWrap, read: read,
		named: make(map[string]T), ids: make(map[ID]T), damaged: make(map[string]damage[ID]),
	}
	return all, eachEntry(ctx, s, prefix, func(name string, entry *logical.StorageEntry) error {
		all.take(name, entry)
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

// take shows what storage holds under a name; it returns the zero T for an entry that cannot be read.
func (s *store[ID, T]) take(name string, entry *logical.StorageEntry) T {
	one, err := s.read(name, entry)
	if err == nil {
		s.show(one)
		return one
	}
	var least struct {
		ID ID `json:"id"`
	}
	_ = entry.DecodeJSON(&least) // what of it can be read
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(name)
	s.damaged[name] = damage[ID]{least.ID, err}
	var none T
	return none
}

func (s *store[ID, T]) show(one T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(one.title())
	s.named[one.title()] = one
	var none ID
	if id := one.identity(); id != none {
		s.ids[id] = one
	}
}

// hide takes what has a name out of sight.
func (s *store[ID, T]) hide(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(name)
}

// drop is hide for a caller that holds mu.
func (s *store[ID, T]) drop(name string) {
	if one, known := s.named[name]; known {
		delete(s.ids, one.identity())
		delete(s.named, name)
	}
	delete(s.damaged, name)
}

// latest reads one from storage again: a change is based on what storage holds now, which another process may
// have written. It returns the zero T where there is none, or none that can be read. The caller has locked it
// for writing.
func (s *store[ID, T]) latest(ctx context.Context, storage logical.Storage, name string) (T, error) {
	s.storing.Lock()
	defer s.storing.Unlock()
	var none T
	entry, err := storage.Get(ctx, s.prefix+name)
	if err != nil {
		return none, err
	}
	if entry == nil {
		s.hide(name)
		return none, nil
	}
	if one := s.get(name); one != none {
		same, err := logical.StorageEntryJSON(s.prefix+name, one.entry())
		if err == nil && bytes.Equal(same.Value, entry.Value) {
			return one, nil
		}
	}
	return s.take(name, entry), nil
}

// reload reads one from storage again, when another node has written it.
func (s *store[ID, T]) reload(ctx context.Context, storage logical.Storage, key string) error {
	_, err := s.latest(ctx, storage, strings.TrimPrefix(key, s.prefix))
	return err
}

// refresh reads all from storage again, for a change that depends on all of them.
func (s *store[ID, T]) refresh(ctx context.Context, storage logical.Storage) error {
	stored, err := storage.List(ctx, s.prefix)
	if err != nil {
		return err
	}
	for _, name := range append(stored, s.names()...) {
		if _, err := s.latest(ctx, storage, name); err != nil {
			return err
		}
	}
	return nil
}

// get finds one by its name; the zero T where there is none, or none that can be read.
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

// broken says why what storage holds under a name cannot be read; nil where it can, or there is nothing.
func (s *store[ID, T]) broken(name string) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if d, found := s.damaged[name]; found {
		return fmt.Errorf("the stored entry %s%s cannot be read: %w", s.prefix, name, d.err)
	}
	return nil
}

// has tells whether something is stored under a name, be it broken.
func (s *store[ID, T]) has(name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, known := s.named[name]
	_, damaged := s.damaged[name]
	return known || damaged
}

// unreadable answers a request about something that is not there, or cannot be read for a reason.
func unreadable(reason error) (*logical.Response, error) {
	if reason == nil {
		return nil, nil
	}
	return logical.ErrorResponse(reason.Error()), nil
}

// brokenID says why the one with an id cannot be read, as far as is known: an entry of which not even the id can
// be read may be that of any.
func (s *store[ID, T]) brokenID(id ID) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, known := s.ids[id]; known {
		return nil
	}
	var none ID
	for name, d := range s.damaged {
		if d.id == id || d.id == none {
			return fmt.Errorf("the stored entry %s%s cannot be read: %w", s.prefix, name, d.err)
		}
	}
	return nil
}

// damagedID is the id of one that cannot be read; the zero ID where not even that can.
func (s *store[ID, T]) damagedID(name string) ID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.damaged[name].id
}

// brokenKeys are the storage keys of all that cannot be read, each with the reason.
func (s *store[ID, T]) brokenKeys() map[string]error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	keys := make(map[string]error, len(s.damaged))
	for name, d := range s.damaged {
		keys[s.prefix+name] = d.err
	}
	return keys
}

// names lists them in alphabetical order, also those that cannot be read.
func (s *store[ID, T]) names() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(joined(s.named, s.damaged)))
}

// joined gives the keys of two maps.
func joined[A, B any](a map[string]A, b map[string]B) map[string]bool {
	keys := make(map[string]bool, len(a)+len(b))
	for key := range a {
		keys[key] = true
	}
	for key := range b {
		keys[key] = true
	}
	return keys
}

// all gives those that can be read in the order of their names.
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
	s.storing.Lock()
	defer s.storing.Unlock()
	if err := storage.Put(ctx, entry); err != nil {
		return err
	}
	s.show(one)
	return nil
}

// delete removes one from storage and then from sight. The caller has locked it for writing.
func (s *store[ID, T]) delete(ctx context.Context, storage logical.Storage, one T) error {
	return s.remove(ctx, storage, one.title())
}

// remove removes what has a name, also what cannot be read. The caller has locked it for writing.
func (s *store[ID, T]) remove(ctx context.Context, storage logical.Storage, name string) error {
	s.storing.Lock()
	defer s.storing.Unlock()
	if err := storage.Delete(ctx, s.prefix+name); err != nil {
		return err
	}
	s.hide(name)
	return nil
}
