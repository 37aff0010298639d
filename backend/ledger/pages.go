package ledger

import (
	"context"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	// pageCount is how many pages values are spread over, by the first twelve bits of the id. With a million
	// values a page is 8 kB, which is what one change then writes; with few, a page holds one value.
	pageCount = 1 << 12

	// splitAt is how many values a page holds before its files hold a sixteenth of it each, by four more bits of
	// the id: a file of so many values is 250 kB. 1 MiB, which is all that storage takes, is reached at 400
	// million values.
	splitAt = 1 << 13

	// takeOvers is how many files of former writers one Prune takes over.
	takeOvers = 256
)

// value is what pages hold.
type value[V any] interface {
	comparable
	keepUntil() int64 // seconds since 1970: from when on the value says nothing any more
	merge(V) V        // of two values of one id, by two writers: what is true in spite of either
}

// pages is a map from ids to values. All of it is in memory, and in pages in storage. A change is in storage
// before it is seen; it costs one write. A value that has run out is dropped.
//
// A page is what all its files in storage say together. A writer rewrites its own file only, which then holds
// all that the writer knows of the page.
//
// Use it from many goroutines. get never waits for storage.
type pages[V value[V]] struct {
	prefix string // of the storage keys
	writer string
	pages  [pageCount]page[V]
}

type page[V value[V]] struct {
	touched atomic.Bool     // whether the page has ever held anything; most pages of a small mount never do
	writing sync.Mutex      // held from reading the page for a change until the change is stored; before mu
	files   map[string]file // by the name, such as 0a1-89abcdef01234567

	mu      sync.RWMutex
	entries map[token.ID]V
	damaged map[string]error // files that cannot be read, by their names: what they said of their ids is not known
}

// file is what is known of a file besides its values.
type file struct {
	writtenAt int64 // seconds since 1970
	from      int64 // the first keepUntil of its values
	until     int64 // the last one
}

// pageEntry is the stored form of a value.
type pageEntry[V any] struct {
	_     struct{} `cbor:",toarray"`
	ID    token.ID
	Value V
}

// pageFile is the stored form of a file; the entries are in the order of their IDs.
type pageFile[V any] struct {
	_         struct{} `cbor:",toarray"`
	WrittenAt int64
	Entries   []pageEntry[V]
}

func pageNumber(id token.ID) int { return int(id[0])<<4 | int(id[1])>>4 }

// own returns the name of the file that this writer writes a value to, when its page holds so many.
func (ps *pages[V]) own(id token.ID, values int) string {
	digits := 3
	if values > splitAt {
		digits = 4
	}
	return hex.EncodeToString(id[:2])[:digits] + "-" + ps.writer
}

// in reports whether a file holds the values of an id of its page: one that is named by three digits holds them all.
func in(name string, id token.ID) bool {
	return name[3] == '-' || name[3] == "0123456789abcdef"[id[1]&0xf]
}

// Load reads all files from storage. It adds to what is in memory: a value that was once stored stays true
// until it has run out.
func (ps *pages[V]) Load(ctx context.Context, s logical.Storage, now time.Time) error {
	names, err := s.List(ctx, ps.prefix)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loaders)
	for _, name := range names {
		group.Go(func() error { return ps.reload(ctx, s, ps.prefix+name, now) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, p := range ps.touched() {
		p.dropOver(now)
	}
	return nil
}

// Reload reads one file that somebody else has written. A key that is not a file's is an error.
func (ps *pages[V]) Reload(ctx context.Context, s logical.Storage, key string, now time.Time) error {
	if err := ps.reload(ctx, s, key, now); err != nil {
		return err
	}
	number, _ := pageOf(strings.TrimPrefix(key, ps.prefix))
	ps.pages[number].dropOver(now)
	return nil
}

// reload is Reload that drops nothing.
func (ps *pages[V]) reload(ctx context.Context, s logical.Storage, key string, now time.Time) error {
	name := strings.TrimPrefix(key, ps.prefix)
	number, ok := pageOf(name)
	if !ok {
		return fmt.Errorf("%q is not a page of the ledger", key)
	}
	p := &ps.pages[number]
	p.writing.Lock()
	defer p.writing.Unlock()
	_, err := ps.read(ctx, s, p, name, now)
	return err
}

// pageOf returns the number of the page that a file belongs to.
func pageOf(name string) (number int, ok bool) {
	digits, writer, err := splitKey(name, "")
	if err != nil || len(digits) > 4 || len(digits) < 3 || !isWriter(writer) {
		return 0, false
	}
	parsed, err := strconv.ParseUint(digits, 16, 16)
	return int(parsed >> (4 * (len(digits) - 3))), err == nil //nolint:gosec // 16 bits fit
}

// dropOver drops from memory what has run out.
func (p *page[V]) dropOver(now time.Time) {
	p.writing.Lock()
	defer p.writing.Unlock()
	if p.over(now) {
		p.show(p.remaining(now))
	}
}

// read merges what a file holds into its page, and reports whether something that the file has a part in has not run
// out. What one file says may have run out while another one says of the same id what has not: nothing is dropped
// here. The caller holds writing.
func (ps *pages[V]) read(ctx context.Context, s logical.Storage, p *page[V], name string, now time.Time) (lasting bool, _ error) {
	stored, err := s.Get(ctx, ps.prefix+name)
	if err != nil {
		return false, err
	}
	var f pageFile[V]
	if stored == nil {
		p.forget(name)
	} else if err := cbor.Unmarshal(stored.Value, &f); err != nil {
		p.damage(name, err)
		return false, nil
	} else {
		p.note(name, f.WrittenAt, f.Entries)
	}
	entries := p.copied(len(f.Entries))
	for _, e := range f.Entries {
		if old, known := entries[e.ID]; known {
			e.Value = old.merge(e.Value)
		}
		entries[e.ID] = e.Value
		lasting = lasting || lasts(e.Value.keepUntil(), now)
	}
	p.show(entries)
	return lasting, nil
}

// lasts reports whether a value is to be kept. Another node's clock may be behind.
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

// forget says that a file is no more.
func (p *page[V]) forget(name string) {
	delete(p.files, name)
	p.mend(name)
}

// damage says that a file cannot be read.
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

// mend says that a file is no more what could not be read.
func (p *page[V]) mend(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.damaged, name)
}

// Unreadable says why it is not known what storage holds of an id; nil where it is.
func (ps *pages[V]) Unreadable(id token.ID) error {
	p := &ps.pages[pageNumber(id)]
	p.mu.RLock()
	defer p.mu.RUnlock()
	for name, err := range p.damaged {
		if in(name, id) {
			return unreadable(ps.prefix+name, err)
		}
	}
	return nil
}

func unreadable(key string, err error) error {
	return fmt.Errorf("the stored entry %s cannot be read: %w", key, err)
}

// Damaged returns the files that cannot be read, by key, and why.
func (ps *pages[V]) Damaged() map[string]error {
	damaged := make(map[string]error)
	for _, p := range ps.touched() {
		p.mu.RLock()
		for name, err := range p.damaged {
			damaged[ps.prefix+name] = err
		}
		p.mu.RUnlock()
	}
	return damaged
}

// DropDamaged deletes a file that cannot be read. What it said of its ids is lost.
func (ps *pages[V]) DropDamaged(ctx context.Context, s logical.Storage, key string) error {
	for _, p := range ps.touched() {
		dropped, err := ps.dropDamaged(ctx, s, p, key)
		if err != nil || dropped {
			return err
		}
	}
	return nil
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

// change writes the value of one id changed as f says. Nobody else of this process changes the page meanwhile.
// After an error of f, or no change, nothing is written.
func (ps *pages[V]) change(ctx context.Context, s logical.Storage, id token.ID, now time.Time, f func(old V, known bool) (V, error)) error {
	p := &ps.pages[pageNumber(id)]
	p.writing.Lock()
	defer p.writing.Unlock()

	old, known := p.entries[id]
	changed, err := f(old, known)
	if err != nil || (known && changed == old) {
		return err
	}
	entries := p.copied(1)
	entries[id] = changed
	return ps.store(ctx, s, p, ps.own(id, len(entries)), entries, now)
}

// copied copies the values, with room for more. The caller holds writing.
func (p *page[V]) copied(more int) map[token.ID]V {
	entries := make(map[token.ID]V, len(p.entries)+more)
	maps.Copy(entries, p.entries)
	return entries
}

// over reports whether a value has run out that is in memory. The caller holds writing.
func (p *page[V]) over(now time.Time) bool {
	for _, v := range p.entries {
		if !lasts(v.keepUntil(), now) {
			return true
		}
	}
	return false
}

// remaining copies what has not run out. The caller holds writing.
func (p *page[V]) remaining(now time.Time) map[token.ID]V {
	entries := make(map[token.ID]V, len(p.entries))
	for id, v := range p.entries {
		if lasts(v.keepUntil(), now) {
			entries[id] = v
		}
	}
	return entries
}

// store writes one of this writer's files of a page, and shows the page once it is written. The caller holds
// writing.
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
		p.note(name, f.WrittenAt, f.Entries) // also of a write that failed: it may have been done
		if err := s.Put(ctx, &logical.StorageEntry{Key: ps.prefix + name, Value: encoded}); err != nil {
			return err
		}
	}
	p.show(entries)
	return nil
}

// touched gives the pages that may hold something, with their numbers.
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
func (ps *pages[V]) all(f func(V)) {
	for _, p := range ps.touched() {
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
