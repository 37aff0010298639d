package report

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

var now = time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)

// limited is storage with Vault's limit of an entry. It fails after some writes.
type limited struct {
	logical.InmemStorage
	left int // writes; negative: any number
}

var errWrite = errors.New("storage is gone")

func (l *limited) write() error {
	if l.left == 0 {
		return errWrite
	}
	l.left--
	return nil
}

func (l *limited) Put(ctx context.Context, e *logical.StorageEntry) error {
	if len(e.Value) > 1<<20 {
		return fmt.Errorf("%s has %d bytes", e.Key, len(e.Value))
	}
	if err := l.write(); err != nil {
		return err
	}
	return l.InmemStorage.Put(ctx, e)
}

func (l *limited) Delete(ctx context.Context, key string) error {
	if err := l.write(); err != nil {
		return err
	}
	return l.InmemStorage.Delete(ctx, key)
}

// largest returns the most that is kept of a role.
func largest() (u Used) {
	u.Seen = true
	for i := range maxScopes {
		u.Scopes = append(u.Scopes, fmt.Sprintf("%03d:%s", i, strings.Repeat("x", 124)))
	}
	for i := range maxAddresses {
		u.Addresses = append(u.Addresses, fmt.Sprintf("2001:db8:ffff:%04d::/64", i))
	}
	return u
}

// sameBucket returns subjects that are all in one bucket of two digits.
func sameBucket(n int) (subjects []Subject) {
	for i := 0; len(subjects) < n; i++ {
		if s := (Subject{KindRole, fmt.Sprintf("role-%d", i)}); strings.HasPrefix(s.digits(), "a7") {
			subjects = append(subjects, s)
		}
	}
	return subjects
}

func loaded(t *testing.T, s logical.Storage) *Watch {
	t.Helper()
	w := NewWatch()
	if err := w.Load(context.Background(), s, now); err != nil {
		t.Fatal(err)
	}
	return w
}

// A bucket is split before it reaches the limit of storage, and a crash at any write of the split loses no record.
func TestBucketsAreSplit(t *testing.T) {
	ctx := context.Background()
	subjects := sameBucket(150)
	for crash := -1; crash < 25; crash++ {
		s := &limited{left: -1}
		w := NewWatch()
		for i, subject := range subjects {
			used := Used{Seen: true}
			if i > 2 {
				used = largest()
			}
			w.Fold(subject, used, now)
			if i == 2 {
				if err := w.Flush(ctx, s, true, now); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := len(subjects)
		if crash >= 0 {
			before = 3 // only these were stored before
		}
		s.left = crash
		if err := w.Flush(ctx, s, true, now); err != nil && !errors.Is(err, errWrite) {
			t.Fatal(err)
		}
		s.left = -1
		next := loaded(t, s)
		for i, subject := range subjects[:before] {
			if !next.Get(subject).Used.Seen {
				t.Fatalf("crash at write %d: record %d is lost", crash, i)
			}
		}

		// The process that goes on after the error completes the split, and so does the next process.
		known := len(subjects)
		if crash%2 == 0 {
			w, known = next, len(next.records)
		}
		for range 2 {
			if err := w.Flush(ctx, s, true, now); err != nil {
				t.Fatal(err)
			}
		}
		if entry, err := s.Get(ctx, Prefix+"a7"); err != nil || known > 100 && entry != nil {
			t.Errorf("crash at write %d: the split bucket is still stored: %v", crash, err)
		}
		if after := loaded(t, s); len(after.records) != known {
			t.Errorf("crash at write %d: %d records of %d", crash, len(after.records), known)
		}
	}
}

// The buckets of a split bucket become empty, and leave storage, as their roles do.
func TestSplitBucketsAreDeleted(t *testing.T) {
	ctx := context.Background()
	s := &limited{left: -1}
	w := NewWatch()
	for _, subject := range sameBucket(120) {
		w.Fold(subject, largest(), now)
	}
	if err := w.Flush(ctx, s, true, now); err != nil {
		t.Fatal(err)
	}
	if names, err := s.List(ctx, Prefix); err != nil || len(names) < 8 {
		t.Fatalf("stored in %q, %v", names, err)
	}
	w = loaded(t, s)
	w.Follow(nil, func(Subject) bool { return true }, now)
	if err := w.Flush(ctx, s, true, now); err != nil {
		t.Fatal(err)
	}
	if names, err := s.List(ctx, Prefix); err != nil || len(names) != 0 {
		t.Errorf("left in storage: %q, %v", names, err)
	}
}
