package ledger

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// pageCount is how many pages values are spread over, by the first twelve bits of the id. With a million
// values a page is 5 kB, which is what one change then writes; with few, a page holds one value.
const pageCount = 1 << 12

// loaders is how many pages or segments are read from storage at once when a ledger is loaded.
const loaders = 16

// value is what pages hold: it tells until when it says something, in seconds since 1970.
type value interface {
	comparable
	keepUntil() int64
}

// pages is a map from ids to values. All of it is in memory, and in pages in storage. A change is in
// storage before it is seen; it costs one write. A value that has run out is dropped.
//
// Use it from many goroutines. get never waits for storage.
type pages[V value] struct {
	prefix string // of the storage keys
	pages  [pageCount]page[V]
}

type page[V value] struct {
	writing sync.Mutex // held from reading the page for a change until the change is stored; before mu
	mu      sync.RWMutex
	entries map[token.ID]V
}

// pageEntry is the stored form: a page is a CBOR array of these, in the order of their IDs.
type pageEntry[V value] struct {
	_     struct{} `cbor:",toarray"`
	ID    token.ID
	Value V
}

func pageNumber(id token.ID) int { return int(id[0])<<4 | int(id[1])>>4 }

func (ps *pages[V]) key(number int) string { return fmt.Sprintf("%s%03x", ps.prefix, number) }

// load reads all pages from storage.
func (ps *pages[V]) load(ctx context.Context, s logical.Storage) error {
	names, err := s.List(ctx, ps.prefix)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loaders)
	for _, name := range names {
		group.Go(func() error { return ps.Reload(ctx, s, ps.prefix+name) })
	}
	return group.Wait()
}

// Reload reads one page anew, when somebody else has written it. A key that is not a page's is an
// error.
func (ps *pages[V]) Reload(ctx context.Context, s logical.Storage, key string) error {
	number, err := ps.number(key)
	if err != nil {
		return err
	}
	p := &ps.pages[number]
	p.writing.Lock()
	defer p.writing.Unlock()
	stored, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	var list []pageEntry[V]
	if stored != nil {
		if err := cbor.Unmarshal(stored.Value, &list); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	entries := make(map[token.ID]V, len(list))
	for _, e := range list {
		entries[e.ID] = e.Value
	}
	p.mu.Lock()
	p.entries = entries
	p.mu.Unlock()
	return nil
}

func (ps *pages[V]) number(key string) (int, error) {
	name, ok := strings.CutPrefix(key, ps.prefix)
	b, err := hex.DecodeString("0" + name)
	if !ok || err != nil || len(b) != 2 {
		return 0, fmt.Errorf("%q is not a page of the ledger", key)
	}
	return int(b[0])<<8 | int(b[1]), nil
}

func (ps *pages[V]) get(id token.ID) (V, bool) {
	p := &ps.pages[pageNumber(id)]
	p.mu.RLock()
	defer p.mu.RUnlock()
	v, ok := p.entries[id]
	return v, ok
}

// change writes a page with the value of one id changed as f says, and without those that have run out.
// Nobody else changes the page meanwhile. After an error of f, or no change, nothing is written.
func (ps *pages[V]) change(ctx context.Context, s logical.Storage, id token.ID, now time.Time, f func(old V, known bool) (V, error)) error {
	number := pageNumber(id)
	p := &ps.pages[number]
	p.writing.Lock()
	defer p.writing.Unlock()

	old, known := p.entries[id]
	changed, err := f(old, known)
	if err != nil || (known && changed == old) {
		return err
	}
	entries := p.remaining(now)
	entries[id] = changed
	return ps.store(ctx, s, number, entries)
}

// remaining copies what has not run out. The caller holds writing.
func (p *page[V]) remaining(now time.Time) map[token.ID]V {
	entries := make(map[token.ID]V, len(p.entries)+1)
	for id, v := range p.entries {
		if v.keepUntil() > now.Unix() {
			entries[id] = v
		}
	}
	return entries
}

// store writes entries, and shows them once they are written. The caller holds writing.
func (ps *pages[V]) store(ctx context.Context, s logical.Storage, number int, entries map[token.ID]V) error {
	if len(entries) == 0 {
		if err := s.Delete(ctx, ps.key(number)); err != nil {
			return err
		}
	} else {
		list := make([]pageEntry[V], 0, len(entries))
		for id, v := range entries {
			list = append(list, pageEntry[V]{ID: id, Value: v})
		}
		slices.SortFunc(list, func(a, b pageEntry[V]) int { return a.ID.Compare(b.ID) })
		encoded, err := cbor.Marshal(list)
		if err != nil {
			return err
		}
		if err := s.Put(ctx, &logical.StorageEntry{Key: ps.key(number), Value: encoded}); err != nil {
			return err
		}
	}
	p := &ps.pages[number]
	p.mu.Lock()
	p.entries = entries
	p.mu.Unlock()
	return nil
}

// Prune drops what has run out, one write for each page that holds something of it.
func (ps *pages[V]) Prune(ctx context.Context, s logical.Storage, now time.Time) error {
	for number := range ps.pages {
		p := &ps.pages[number]
		if err := func() error {
			p.writing.Lock()
			defer p.writing.Unlock()
			entries := p.remaining(now)
			if len(entries) == len(p.entries) {
				return nil
			}
			return ps.store(ctx, s, number, entries)
		}(); err != nil {
			return err
		}
	}
	return nil
}

// all calls f for each value.
func (ps *pages[V]) all(f func(V)) {
	for i := range ps.pages {
		p := &ps.pages[i]
		p.mu.RLock()
		for _, v := range p.entries {
			f(v)
		}
		p.mu.RUnlock()
	}
}

// Len is the number of values.
func (ps *pages[V]) Len() int {
	n := 0
	ps.all(func(V) { n++ })
	return n
}
