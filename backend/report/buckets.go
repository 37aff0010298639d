package report

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// The records are stored in buckets, which digits of a hash of the subject select. A mount begins with 256 buckets of two
// digits. A bucket that would be larger than maxEntry is split into sixteen buckets of one more digit, for good.
const (
	leastDigits = 2
	mostDigits  = 8

	// maxEntry is the maximum size of a bucket, in bytes: half of the limit of storage. A record has at most about 12 kB.
	maxEntry = 512 << 10
)

// digits returns the digits that select the bucket of a subject.
func (s Subject) digits() string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(s.key()))
	var sum [4]byte
	binary.LittleEndian.PutUint32(sum[:], h.Sum32())
	return hex.EncodeToString(sum[:])
}

// bucket returns the storage key of a subject. The caller holds mu.
func (w *Watch) bucket(s Subject) string {
	digits := s.digits()
	n := leastDigits
	for n < mostDigits && w.split[Prefix+digits[:n]] {
		n++
	}
	return Prefix + digits[:n]
}

// noteParts records that the buckets above a bucket are split. The caller holds mu.
func (w *Watch) noteParts(key string) {
	for n := len(key) - 1; n >= len(Prefix)+leastDigits; n-- {
		w.split[key[:n]] = true
	}
}

// goOn has Flush complete a split that a crash has interrupted: the bucket is stored, and some of its parts. The caller holds
// mu.
func (w *Watch) goOn(key string, now time.Time) {
	w.dirty[key] = now
	for s := range w.records {
		if strings.HasPrefix(w.bucket(s), key) {
			w.changed(s, now)
		}
	}
}

// partsWait reports whether a part of a split bucket is not stored yet. The caller holds mu.
func (w *Watch) partsWait(key string) bool {
	for other := range w.dirty {
		if len(other) > len(key) && strings.HasPrefix(other, key) {
			return true
		}
	}
	return false
}

// store writes a bucket, in parts if the bucket is too large.
func (w *Watch) store(ctx context.Context, s logical.Storage, key string, records map[string]Record, now time.Time) error {
	if len(records) == 0 {
		return s.Delete(ctx, key)
	}
	entry, err := logical.StorageEntryJSON(key, records)
	if err != nil {
		return err
	}
	if len(entry.Value) <= maxEntry || len(key) == len(Prefix)+mostDigits {
		return s.Put(ctx, entry)
	}
	parts := w.divide(key, records)
	for part, records := range parts {
		if err := w.store(ctx, s, part, records, now); err != nil {
			w.again(parts, now)
			return err
		}
	}
	return s.Delete(ctx, key) // now that its records are stored elsewhere
}

// divide splits a bucket for good, and returns the parts by their storage keys.
func (w *Watch) divide(key string, records map[string]Record) map[string]map[string]Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.split[key] = true
	parts := make(map[string]map[string]Record)
	for name, record := range records {
		kind, id, _ := strings.Cut(name, "/")
		part := w.bucket(Subject{kind, id})
		if parts[part] == nil {
			parts[part] = make(map[string]Record)
		}
		parts[part][name] = record
	}
	return parts
}

// again has another Flush write parts, before it deletes the bucket that had the parts.
func (w *Watch) again(parts map[string]map[string]Record, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for part := range parts {
		if w.dirty[part].IsZero() {
			w.dirty[part] = now
		}
	}
}
