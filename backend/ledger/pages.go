package ledger

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	// pageCount is the number of pages. The first twelve bits of an ID select the page. A change writes one file: with a
	// million values about 8 kB, with few values a single value.
	pageCount = 1 << 12

	// splitAt is how many values a page may have in one file of 250 kB. A larger page has sixteen files, selected by four
	// more bits of the ID. The files reach the 1 MiB limit of storage at 400 million values.
	splitAt = 1 << 13

	// takeOvers is how many files of former writers one Prune takes over at most.
	takeOvers = 256
)

// value is a value in pages.
type value[V any] interface {
	comparable
	keepUntil() int64 // seconds since 1970: when the value expires
	merge(V) V        // combines two writers' values of one ID
}

// pages is a map from IDs to values, in memory and in storage. A change costs one write, and is stored before memory shows
// the change. Expired values are dropped.
//
// The content of a page is the merged content of its files. A writer rewrites only its own files. A rewritten file has all
// values of the page that the writer knows.
//
// pages is safe for concurrent use. get never waits for storage.
type pages[V value[V]] struct {
	prefix string // of the storage keys
	writer string
	pages  [pageCount]page[V]

	// changed is called after memory shows another value of an ID; known is false if memory had no value. Nil: nobody
	// is told. It is called with the page locked.
	changed func(id token.ID, old V, known bool, current V)
}

type page[V value[V]] struct {
	touched atomic.Bool     // the page has had content; most pages of a small mount never have
	writing sync.Mutex      // held from reading the page for a change until the change is stored; locked before mu
	files   map[string]file // by name, such as 0a1-89abcdef01234567

	mu      sync.RWMutex
	entries map[token.ID]V
	damaged map[string]error // name of an unreadable file -> reason
}

func pageNumber(id token.ID) int { return int(id[0])<<4 | int(id[1])>>4 }

// dropOver drops expired values from memory.
func (p *page[V]) dropOver(now time.Time) {
	p.writing.Lock()
	defer p.writing.Unlock()
	if p.over(now) {
		p.show(p.remaining(now))
	}
}

// lasts reports whether a value must still be kept. The clock of another node may be behind by ClockSkew.
func lasts(until int64, now time.Time) bool {
	return until+int64(ClockSkew/time.Second) > now.Unix()
}

func (p *page[V]) note(name string, writtenAt int64, list []pageEntry[V]) {
	f := file{writtenAt: writtenAt, from: math.MaxInt64}
	for _, e := range list {
		f.from = min(f.from, e.Value.keepUntil())
		f.until = max(f.until, e.Value.keepUntil())
	}
	if p.files == nil {
		p.files = make(map[string]file)
	}
	p.touched.Store(true)
	p.files[name] = f
	p.mend(name)
}

// forget records that a file was deleted.
func (p *page[V]) forget(name string) {
	delete(p.files, name)
	p.mend(name)
}

// damage records that a file cannot be read.
func (p *page[V]) damage(name string, err error) {
	delete(p.files, name)
	p.touched.Store(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.damaged == nil {
		p.damaged = make(map[string]error)
	}
	p.damaged[name] = err
}

// mend records that a file is readable or deleted.
func (p *page[V]) mend(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.damaged, name)
}

func unreadable(key string, err error) error {
	return fmt.Errorf("the stored entry %s cannot be read: %w", key, err)
}

func (ps *pages[V]) dropDamaged(ctx context.Context, s logical.Storage, p *page[V], key string) (dropped bool, _ error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	name := strings.TrimPrefix(key, ps.prefix)
	if p.damaged[name] == nil {
		return false, nil
	}
	if err := s.Delete(ctx, key); err != nil {
		return false, err
	}
	p.forget(name)
	return true, nil
}

func (p *page[V]) show(entries map[token.ID]V) {
	p.touched.Store(true)
	p.mu.Lock()
	p.entries = entries
	p.mu.Unlock()
}

func (ps *pages[V]) get(id token.ID) (V, bool) {
	p := &ps.pages[pageNumber(id)]
	p.mu.RLock()
	defer p.mu.RUnlock()
	v, ok := p.entries[id]
	return v, ok
}

// change stores the value of an ID as f changes it. It locks the page against other changes of this process. It writes
// nothing if f returns an error or the same value.
func (ps *pages[V]) change(ctx context.Context, s logical.Storage, id token.ID, now time.Time, f func(old V, known bool) (V, error)) error {
	p := &ps.pages[pageNumber(id)]
	p.writing.Lock()
	defer p.writing.Unlock()

	old, known := p.entries[id]
	current, err := f(old, known)
	if err != nil || (known && current == old) {
		return err
	}
	entries := p.copied(1)
	entries[id] = current
	if err := ps.store(ctx, s, p, ps.own(id, len(entries)), entries, now); err != nil {
		return err
	}
	if ps.changed != nil {
		ps.changed(id, old, known, current)
	}
	return nil
}

// copied returns a copy of the values with room for more. The caller holds writing.
func (p *page[V]) copied(more int) map[token.ID]V {
	entries := make(map[token.ID]V, len(p.entries)+more)
	maps.Copy(entries, p.entries)
	return entries
}

// over reports whether a value in memory has expired. The caller holds writing.
func (p *page[V]) over(now time.Time) bool {
	for _, v := range p.entries {
		if !lasts(v.keepUntil(), now) {
			return true
		}
	}
	return false
}

// remaining returns a copy of the values that have not expired. The caller holds writing.
func (p *page[V]) remaining(now time.Time) map[token.ID]V {
	entries := make(map[token.ID]V, len(p.entries))
	for id, v := range p.entries {
		if lasts(v.keepUntil(), now) {
			entries[id] = v
		}
	}
	return entries
}

// store writes one of this writer's files of a page, and then puts the page into memory. The caller holds writing.
func (ps *pages[V]) store(ctx context.Context, s logical.Storage, p *page[V], name string, entries map[token.ID]V, now time.Time) error {
	f := pageFile[V]{WrittenAt: now.Unix(), Entries: make([]pageEntry[V], 0, len(entries))}
	for id, v := range entries {
		if in(name, id) {
			f.Entries = append(f.Entries, pageEntry[V]{ID: id, Value: v})
		}
	}
	if len(f.Entries) == 0 {
		if err := s.Delete(ctx, ps.prefix+name); err != nil {
			return err
		}
		p.forget(name)
	} else {
		slices.SortFunc(f.Entries, func(a, b pageEntry[V]) int { return a.ID.Compare(b.ID) })
		encoded, err := cbor.Marshal(f)
		if err != nil {
			return err
		}
		p.note(name, f.WrittenAt, f.Entries) // before the write, which may succeed although it returns an error
		if err := s.Put(ctx, &logical.StorageEntry{Key: ps.prefix + name, Value: encoded}); err != nil {
			return err
		}
	}
	p.show(entries)
	return nil
}

// touched returns the pages that may have content, with their numbers.
func (ps *pages[V]) touched() iter.Seq2[int, *page[V]] {
	return func(yield func(int, *page[V]) bool) {
		for number := range ps.pages {
			if p := &ps.pages[number]; p.touched.Load() && !yield(number, p) {
				return
			}
		}
	}
}

// all calls f for each value.
func (ps *pages[V]) all(f func(V)) { ps.each(func(_ token.ID, v V) { f(v) }) }

// each calls f with each value and its ID, in any order, with a page locked.
func (ps *pages[V]) each(f func(token.ID, V)) {
	for _, p := range ps.touched() {
		p.mu.RLock()
		for id, v := range p.entries {
			f(id, v)
		}
		p.mu.RUnlock()
	}
}

// Len returns the number of values.
func (ps *pages[V]) Len() int {
	n := 0
	ps.all(func(V) { n++ })
	return n
}
