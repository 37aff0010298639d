package ledger

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

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
	err = store.Each(ctx, names, func(ctx context.Context, name string) error { return ps.reload(ctx, s, ps.prefix+name, now) })
	if err != nil {
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
	before := p.entries
	entries := p.copied(len(f.Entries))
	for _, e := range f.Entries {
		if old, known := entries[e.ID]; known {
			e.Value = old.merge(e.Value)
		}
		entries[e.ID] = e.Value
		lasting = lasting || lasts(e.Value.keepUntil(), now)
	}
	p.show(entries)
	for _, e := range f.Entries {
		if old, known := before[e.ID]; ps.changed != nil && entries[e.ID] != old {
			ps.changed(e.ID, old, known, entries[e.ID])
		}
	}
	return lasting, nil
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
