// Package ledger is what storage remembers of tokens that were issued: the deviations from what a token
// says of itself (Deviations), and who got which token when (Inventory).
package ledger

import (
	"context"
	"encoding/hex"
	"errors"
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

// DeviationsPrefix is where Deviations keeps its pages in storage.
const DeviationsPrefix = "ledger/deviations/"

// pageCount is how many pages the deviations are spread over, by the first twelve bits of the id. With
// a million deviations a page is 5 kB, which is what one revocation then writes; with few, a page holds
// one deviation.
const pageCount = 1 << 12

// loaders is how many pages or segments are read from storage at once when a ledger is loaded.
const loaders = 16

// A Deviation is what has become of a token, or of a grant, other than what the token itself says.
type Deviation struct {
	ExpiresAt int64 // seconds since 1970: when the token ends, or would have ended had it not been revoked
	KeepUntil int64 // seconds since 1970: from when on the token says itself that it has ended
	Revoked   bool
}

// Deviations knows which tokens were revoked or renewed. All of them are in memory, and in pages in
// storage. A change is in storage before it is seen; it costs one write. A deviation whose KeepUntil has
// passed no longer says anything that the token does not say itself, and is dropped.
//
// Use it from many goroutines. Get never waits for storage.
type Deviations struct {
	pages [pageCount]page
}

type page struct {
	writing sync.Mutex // held from reading the page for a change until the change is stored; before mu
	mu      sync.RWMutex
	entries map[token.ID]Deviation
}

// pageEntry is the stored form: a page is a CBOR array of these, in the order of their IDs.
type pageEntry struct {
	_  struct{} `cbor:",toarray"`
	ID token.ID
	Deviation
}

func pageNumber(id token.ID) int { return int(id[0])<<4 | int(id[1])>>4 }

func pageKey(number int) string { return fmt.Sprintf("%s%03x", DeviationsPrefix, number) }

// LoadDeviations reads them all from storage.
func LoadDeviations(ctx context.Context, s logical.Storage) (*Deviations, error) {
	names, err := s.List(ctx, DeviationsPrefix)
	if err != nil {
		return nil, err
	}
	d := new(Deviations)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loaders)
	for _, name := range names {
		group.Go(func() error { return d.Reload(ctx, s, DeviationsPrefix+name) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return d, nil
}

// Reload reads one page anew, when somebody else has written it. A key that is not a page's is an
// error.
func (d *Deviations) Reload(ctx context.Context, s logical.Storage, key string) error {
	number, err := pageOfKey(key)
	if err != nil {
		return err
	}
	p := &d.pages[number]
	p.writing.Lock()
	defer p.writing.Unlock()
	stored, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	var list []pageEntry
	if stored != nil {
		if err := cbor.Unmarshal(stored.Value, &list); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	entries := make(map[token.ID]Deviation, len(list))
	for _, e := range list {
		entries[e.ID] = e.Deviation
	}
	p.mu.Lock()
	p.entries = entries
	p.mu.Unlock()
	return nil
}

func pageOfKey(key string) (int, error) {
	name, ok := strings.CutPrefix(key, DeviationsPrefix)
	b, err := hex.DecodeString("0" + name)
	if !ok || err != nil || len(b) != 2 {
		return 0, fmt.Errorf("%q is not a page of the ledger", key)
	}
	return int(b[0])<<8 | int(b[1]), nil
}

// Get tells how a token deviates; ok is false where it does not.
func (d *Deviations) Get(id token.ID) (_ Deviation, ok bool) {
	p := &d.pages[pageNumber(id)]
	p.mu.RLock()
	defer p.mu.RUnlock()
	deviation, ok := p.entries[id]
	return deviation, ok
}

// Revoke ends a token that says of itself that it ends at ownEnd. It is remembered until then, or until
// the end that a renewal gave it. Revoking twice is revoking once.
func (d *Deviations) Revoke(ctx context.Context, s logical.Storage, id token.ID, ownEnd, now time.Time) error {
	return d.change(ctx, s, id, now, func(old Deviation, known bool) (Deviation, error) {
		if !known {
			old.ExpiresAt = ownEnd.Unix()
		}
		old.KeepUntil = max(old.KeepUntil, old.ExpiresAt, ownEnd.Unix())
		old.Revoked = true
		return old, nil
	})
}

// ErrRevoked is returned for the renewal of a token that was revoked.
var ErrRevoked = errors.New("the token was revoked")

// Renew moves the end of a token that says of itself that it ends at ownEnd: forward, or back, as the
// renewal of a lease with a small increment does.
func (d *Deviations) Renew(ctx context.Context, s logical.Storage, id token.ID, ownEnd, newEnd, now time.Time) error {
	return d.change(ctx, s, id, now, func(old Deviation, _ bool) (Deviation, error) {
		if old.Revoked {
			return old, ErrRevoked
		}
		end := newEnd.Unix()
		return Deviation{ExpiresAt: end, KeepUntil: max(old.KeepUntil, end, ownEnd.Unix())}, nil
	})
}

// change writes a page with one deviation changed, and without those that have run out.
func (d *Deviations) change(ctx context.Context, s logical.Storage, id token.ID, now time.Time, f func(old Deviation, known bool) (Deviation, error)) error {
	number := pageNumber(id)
	p := &d.pages[number]
	p.writing.Lock()
	defer p.writing.Unlock()

	old, known := p.entries[id]
	changed, err := f(old, known)
	if err != nil || (known && changed == old) {
		return err
	}
	entries := p.remaining(now)
	entries[id] = changed
	return p.store(ctx, s, number, entries)
}

// remaining copies what has not run out. The caller holds writing.
func (p *page) remaining(now time.Time) map[token.ID]Deviation {
	entries := make(map[token.ID]Deviation, len(p.entries)+1)
	for id, deviation := range p.entries {
		if deviation.KeepUntil > now.Unix() {
			entries[id] = deviation
		}
	}
	return entries
}

// store writes entries, and shows them once they are written. The caller holds writing.
func (p *page) store(ctx context.Context, s logical.Storage, number int, entries map[token.ID]Deviation) error {
	if len(entries) == 0 {
		if err := s.Delete(ctx, pageKey(number)); err != nil {
			return err
		}
	} else {
		list := make([]pageEntry, 0, len(entries))
		for id, deviation := range entries {
			list = append(list, pageEntry{ID: id, Deviation: deviation})
		}
		slices.SortFunc(list, func(a, b pageEntry) int { return a.ID.Compare(b.ID) })
		value, err := cbor.Marshal(list)
		if err != nil {
			return err
		}
		if err := s.Put(ctx, &logical.StorageEntry{Key: pageKey(number), Value: value}); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.entries = entries
	p.mu.Unlock()
	return nil
}

// Prune drops what has run out, one write for each page that holds something of it.
func (d *Deviations) Prune(ctx context.Context, s logical.Storage, now time.Time) error {
	for number := range d.pages {
		p := &d.pages[number]
		if err := func() error {
			p.writing.Lock()
			defer p.writing.Unlock()
			entries := p.remaining(now)
			if len(entries) == len(p.entries) {
				return nil
			}
			return p.store(ctx, s, number, entries)
		}(); err != nil {
			return err
		}
	}
	return nil
}

// Len is the number of deviations.
func (d *Deviations) Len() int {
	n := 0
	for i := range d.pages {
		d.pages[i].mu.RLock()
		n += len(d.pages[i].entries)
		d.pages[i].mu.RUnlock()
	}
	return n
}
