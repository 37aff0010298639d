package ledger

import (
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
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
		group.Go(func() error { return ps.Reload(ctx, s, ps.prefix+name, now) })
	}
	return group.Wait()
}

// Reload reads one file that somebody else has written. A key that is not a file's is an error.
func (ps *pages[V]) Reload(ctx context.Context, s logical.Storage, key string, now time.Time) error {
	digits, writer, err := splitKey(key, ps.prefix)
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(digits, 16, 16)
	if err != nil || len(digits) > 4 || len(digits) < 3 || !isWriter(writer) {
		return fmt.Errorf("%q is not a page of the ledger", key)
	}
	p := &ps.pages[number>>(4*(len(digits)-3))]
	p.writing.Lock()
	defer p.writing.Unlock()
	return ps.read(ctx, s, p, strings.TrimPrefix(key, ps.prefix), now)
}

// read merges what a file holds into its page. The caller holds writing.
func (ps *pages[V]) read(ctx context.Context, s logical.Storage, p *page[V], name string, now time.Time) error {
	stored, err := s.Get(ctx, ps.prefix+name)
	if err != nil {
		return err
	}
	var f pageFile[V]
	if stored == nil {
		p.forget(name)
	} else if err := cbor.Unmarshal(stored.Value, &f); err != nil {
		p.damage(name, err)
		return nil
	} else {
		p.note(name, f.WrittenAt, f.Entries)
	}
	entries := p.remaining(now, len(f.Entries))
	for _, e := range f.Entries {
		if old, known := entries[e.ID]; known {
			e.Value = old.merge(e.Value)
		}
		if lasts(e.Value.keepUntil(), now) {
			entries[e.ID] = e.Value
		}
	}
	p.show(entries)
	return nil
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
	for i := range ps.pages {
		p := &ps.pages[i]
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
	for i := range ps.pages {
		dropped, err := ps.dropDamaged(ctx, s, &ps.pages[i], key)
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
	entries := p.remaining(now, 1)
	entries[id] = changed
	return ps.store(ctx, s, p, ps.own(id, len(entries)), entries, now)
}

// remaining copies what has not run out, with room for more. The caller holds writing.
func (p *page[V]) remaining(now time.Time, more int) map[token.ID]V {
	entries := make(map[token.ID]V, len(p.entries)+more)
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

// Prune drops what has run out, one write for each file of this writer that holds something of it. Files of
// former writers are deleted when all in them has run out; when they are old, what they hold is first taken over.
func (ps *pages[V]) Prune(ctx context.Context, s logical.Storage, now time.Time) error {
	left := takeOvers
	for number := range ps.pages {
		if err := ps.prunePage(ctx, s, &ps.pages[number], &left, now); err != nil {
			return err
		}
	}
	return nil
}

func (ps *pages[V]) prunePage(ctx context.Context, s logical.Storage, p *page[V], left *int, now time.Time) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	if len(p.entries) == 0 && len(p.files) == 0 {
		return nil
	}
	values := len(p.entries)
	rewrite := make(map[string]bool)
	var done []string // former files that nobody needs once the others are rewritten
	over := false     // something has run out
	for name, f := range p.files {
		over = over || !lasts(f.from, now)
		if !ps.isFormer(name, values) {
			if !lasts(f.from, now) {
				rewrite[name] = true
			}
			continue
		}
		if !f.disposable(now, *left) {
			continue
		}
		// The file may have been written since it was read, by a writer that is not so former.
		if err := ps.read(ctx, s, p, name, now); err != nil {
			return err
		}
		f, there := p.files[name]
		if !there || !f.disposable(now, *left) {
			continue
		}
		if lasts(f.until, now) {
			*left--
			for id := range p.entries {
				if in(name, id) {
					rewrite[ps.own(id, values)] = true
				}
			}
		}
		done = append(done, name)
	}
	if !over && len(done) == 0 {
		return nil
	}
	entries := p.remaining(now, 0)
	if len(rewrite) == 0 {
		p.show(entries)
	}
	for name := range rewrite {
		if err := ps.store(ctx, s, p, name, entries, now); err != nil {
			return err
		}
	}
	for _, name := range done {
		if err := s.Delete(ctx, ps.prefix+name); err != nil {
			return err
		}
		p.forget(name)
	}
	return nil
}

// isFormer reports whether this writer does not write a file any more, when its page holds so many values.
func (ps *pages[V]) isFormer(name string, values int) bool {
	digits, writer, _ := strings.Cut(name, "-")
	return writer != ps.writer || (len(digits) == 4) != (values > splitAt)
}

// disposable reports whether a former file may go: when all in it has run out, or when it is old, of which so
// many are taken over.
func (f file) disposable(now time.Time, left int) bool {
	return !lasts(f.until, now) || left > 0 && now.Unix()-f.writtenAt > int64(quiet/time.Second)
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
