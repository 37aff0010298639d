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
}

type page[V value[V]] struct {
	touched atomic.Bool     // the page has had content; most pages of a small mount never have
	writing sync.Mutex      // held from reading the page for a change until the change is stored; locked before mu
	files   map[string]file // by name, such as 0a1-89abcdef01234567

	mu      sync.RWMutex
	entries map[token.ID]V
	damaged map[string]error // name of an unreadable file -> reason
}

// file describes a stored file.
type file struct {
	writtenAt int64 // seconds since 1970
	from      int64 // the earliest keepUntil of the values
	until     int64 // the latest keepUntil of the values
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

// own returns the name of this writer's file for an ID. values is the number of values of the page.
func (ps *pages[V]) own(id token.ID, values int) string {
	digits := 3
	if values > splitAt {
		digits = 4
	}
	return hex.EncodeToString(id[:2])[:digits] + "-" + ps.writer
}

// in reports whether a file covers an ID of its page. A file with three digits in its name covers the whole page.
func in(name string, id token.ID) bool {
	return name[3] == '-' || name[3] == "0123456789abcdef"[id[1]&0xf]
}

// Load reads all files from storage and merges them with memory: a stored value stays valid until it expires.
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

// Reload reads a file that another process has written. It returns an error if the key is not the key of a file.
func (ps *pages[V]) Reload(ctx context.Context, s logical.Storage, key string, now time.Time) error {
	if err := ps.reload(ctx, s, key, now); err != nil {
		return err
	}
	number, _ := pageOf(strings.TrimPrefix(key, ps.prefix))
	ps.pages[number].dropOver(now)
	return nil
}

// reload reads a file and does not drop expired values.
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

// pageOf returns the number of a file's page.
func pageOf(name string) (number int, ok bool) {
	digits, writer, err := splitKey(name, "")
	if err != nil || len(digits) > 4 || len(digits) < 3 || !isWriter(writer) {
		return 0, false
	}
	parsed, err := strconv.ParseUint(digits, 16, 16)
	return int(parsed >> (4 * (len(digits) - 3))), err == nil //nolint:gosec // 16 bits fit
}

// dropOver drops expired values from memory.
func (p *page[V]) dropOver(now time.Time) {
	p.writing.Lock()
	defer p.writing.Unlock()
	if p.over(now) {
		p.show(p.remaining(now))
	}
}

// read merges a file into its page, and reports whether a merged value of one of the file's IDs has not expired. It drops
// no expired values, since another file may have a later value of the same ID. The caller holds writing.
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

// Unreadable returns an error if a file that may have the value of an ID cannot be read.
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

// Damaged returns the storage keys of the unreadable files, each with the reason.
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

// DropDamaged deletes an unreadable file. The values in the file are lost.
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

// change stores the value of an ID as f changes it. It locks the page against other changes of this process. It writes
// nothing if f returns an error or the same value.
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
func (ps *pages[V]) all(f func(V)) {
	for _, p := range ps.touched() {
		p.mu.RLock()
		for _, v := range p.entries {
			f(v)
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
