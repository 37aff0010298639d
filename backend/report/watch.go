package report

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
)

// Prefix is the prefix of the storage keys of a Watch.
const Prefix = "watch/"

const (
	// writeDelay is how long a change waits for its write. A crash loses the changes of this time.
	writeDelay = 10 * time.Minute

	// maxWrites is the maximum number of entries that one Flush writes.
	maxWrites = 16
)

// Subject is a role, a connection or a static role that a Watch remembers.
type Subject struct {
	Kind string // KindRole, KindConnection or KindStaticRole
	ID   string // ID of a role or a connection, name of a static role
}

func (s Subject) key() string { return s.Kind + "/" + s.ID }

// Watch remembers when roles issued, when static tokens were read, and what the uses of expired tokens needed. Reports need
// this beyond the life of the tokens. All records are in memory, and in storage in buckets (buckets.go). Only the active node
// writes: Flush writes what has changed.
//
// Watch is safe for concurrent use.
type Watch struct {
	store.Damage

	mu      sync.Mutex
	records map[Subject]*Record
	dirty   map[string]time.Time // storage key -> first change that is not stored
	split   map[string]bool      // storage keys of buckets whose records are in smaller buckets

	writing sync.Mutex // held while storage is written
}

// NewWatch returns a Watch without records. Load reads the records from storage.
func NewWatch() *Watch {
	return &Watch{records: make(map[Subject]*Record), dirty: make(map[string]time.Time), split: make(map[string]bool)}
}

// Note remembers an issue of a role or a connection, or a read of a static role's token.
func (w *Watch) Note(s Subject, now time.Time) {
	now = now.UTC().Truncate(time.Minute)
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.record(s, now)
	if now.After(r.Last) {
		r.Last = now
		w.changed(s, now)
	}
}

// Fold remembers what the uses of a role's token needed.
func (w *Watch) Fold(s Subject, used Used, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.record(s, now).Used.merge(&used) {
		w.changed(s, now)
	}
}

// record returns the record of a subject, a new one if there is none. The caller holds mu.
func (w *Watch) record(s Subject, now time.Time) *Record {
	r := w.records[s]
	if r == nil {
		r = &Record{Since: now.UTC().Truncate(time.Second)}
		w.records[s] = r
		w.changed(s, now)
	}
	return r
}

// changed marks the entry of a subject for a write. The caller holds mu.
func (w *Watch) changed(s Subject, now time.Time) {
	if key := w.bucket(s); w.dirty[key].IsZero() {
		w.dirty[key] = now
	}
}

// Get returns the record of a subject; the zero Record if there is none.
func (w *Watch) Get(s Subject) Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.records[s]; r != nil {
		return *r
	}
	return Record{}
}

// Follow begins the records of subjects that have none, and forgets the records of the subjects that are gone.
func (w *Watch) Follow(subjects []Subject, gone func(Subject) bool, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range subjects {
		w.record(s, now)
	}
	for s := range w.records {
		if gone(s) {
			delete(w.records, s)
			w.changed(s, now)
		}
	}
}

// Load reads all records from storage, and merges the records into memory.
func (w *Watch) Load(ctx context.Context, s logical.Storage, now time.Time) error {
	names, err := s.List(ctx, Prefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := w.Reload(ctx, s, Prefix+name, now); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		if w.split[Prefix+name] {
			w.goOn(Prefix+name, now)
		}
	}
	return nil
}

// Reload reads the records of a storage key, and merges the records into memory.
func (w *Watch) Reload(ctx context.Context, s logical.Storage, key string, now time.Time) error {
	entry, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.NoteDamage(key, nil)
	if entry == nil {
		return nil
	}
	w.noteParts(key)
	var stored map[string]*Record
	if err := json.Unmarshal(entry.Value, &stored); err != nil {
		w.NoteDamage(key, err)
		return nil
	}
	for name, record := range stored {
		kind, id, ok := strings.Cut(name, "/")
		if !ok || record == nil {
			continue
		}
		subject := Subject{kind, id}
		if known := w.records[subject]; known == nil {
			w.records[subject] = record
		} else if known.merge(record) {
			w.changed(subject, now)
		}
	}
	return nil
}

// Flush writes changes that have waited for writeDelay; all changes if all is set.
func (w *Watch) Flush(ctx context.Context, s logical.Storage, all bool, now time.Time) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	for key, records := range w.due(all, now) {
		if err := w.store(ctx, s, key, records, now); err != nil {
			w.mu.Lock()
			if w.dirty[key].IsZero() {
				w.dirty[key] = now
			}
			w.mu.Unlock()
			return err
		}
	}
	return nil
}

// due returns the entries to write, by their storage keys. An entry that cannot be read stays as it is.
func (w *Watch) due(all bool, now time.Time) map[string]map[string]Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	due := make(map[string]map[string]Record)
	for key, since := range w.dirty {
		if w.DamageOf(key) == nil && !w.partsWait(key) && (all || now.Sub(since) >= writeDelay && len(due) < maxWrites) {
			due[key] = make(map[string]Record)
			delete(w.dirty, key)
		}
	}
	for s, r := range w.records {
		if records := due[w.bucket(s)]; records != nil {
			records[s.key()] = *r
		}
	}
	return due
}

// DropDamaged deletes an entry that cannot be read. Reports then know nothing of the time before.
func (w *Watch) DropDamaged(ctx context.Context, s logical.Storage, key string) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	return w.Damage.DropDamaged(ctx, s, key)
}
