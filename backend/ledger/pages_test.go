package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// samePage makes ids of one page.
func samePage(n int) token.ID {
	var id token.ID
	id[1] = byte(n % 16)
	binary.BigEndian.PutUint64(id[4:], uint64(n))
	return id
}

// A process that does not know what another wrote since does not erase it.
func TestAStaleWriterErasesNothing(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	stale, active := loadDeviations(t, s), loadDeviations(t, s)
	for i := range 100 {
		if err := active.Revoke(ctx, s, samePage(i), token.StatusRef{}, inAnHour, now); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stale.Renew(ctx, s, samePage(7), inAnHour, now.Add(2*time.Hour), 0, now); err != nil {
		t.Fatal(err)
	}
	if err := stale.Revoke(ctx, s, samePage(200), token.StatusRef{}, inAnHour, now); err != nil {
		t.Fatal(err)
	}
	if err := stale.Prune(ctx, s, now); err != nil {
		t.Fatal(err)
	}
	next := loadDeviations(t, s)
	for _, i := range []int{0, 7, 99, 200} {
		if d, _ := next.Get(samePage(i)); !d.Revoked {
			t.Errorf("the revocation of %d was erased", i)
		}
	}
}

func TestMerge(t *testing.T) {
	at := func(revision uint32, end int64, revoked bool) Deviation {
		return Deviation{ExpiresAt: end, KeepUntil: end + 10, Revoked: revoked, Revision: revision}
	}
	for name, c := range map[string]struct{ a, b, want Deviation }{
		"the later renewal":             {at(1, 100, false), at(2, 50, false), Deviation{ExpiresAt: 50, KeepUntil: 110, Revision: 2}},
		"of equal ones the earlier end": {at(2, 100, false), at(2, 50, false), Deviation{ExpiresAt: 50, KeepUntil: 110, Revision: 2}},
		"a revocation is for ever":      {at(1, 50, true), at(9, 100, false), Deviation{ExpiresAt: 100, KeepUntil: 110, Revoked: true, Revision: 9}},
	} {
		if got := c.a.merge(c.b); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if got := c.b.merge(c.a); got != c.want {
			t.Errorf("%s, the other way round: %+v, want %+v", name, got, c.want)
		}
	}
}

// Files of former writers go when all in them has run out, and when they are old: then what they hold is in the
// file of the writer that removes them.
func TestFilesOfFormerWriters(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	for i := range 5 {
		if err := loadDeviations(t, s).Revoke(ctx, s, samePage(i), token.StatusRef{}, now.Add(time.Duration(1+i)*24*time.Hour), now); err != nil {
			t.Fatal(err)
		}
	}
	d := loadDeviations(t, s)
	for _, step := range []struct {
		after time.Duration
		files int
		left  int
	}{
		{time.Hour, 5, 5},
		{quiet + ClockSkew + time.Second, 1, 4},
		{2*quiet + ClockSkew, 1, 3},
		{6 * quiet, 0, 0},
	} {
		if err := d.Prune(ctx, s, now.Add(step.after)); err != nil {
			t.Fatal(err)
		}
		keys, err := logical.CollectKeys(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		next := NewDeviations(NewWriter())
		if err := next.Load(ctx, s, now.Add(step.after)); err != nil {
			t.Fatal(err)
		}
		if len(keys) != step.files || next.Len() != step.left || d.Len() != step.left {
			t.Errorf("after %s: %d files, %d deviations, %d in memory, want %d and %d", step.after, len(keys), next.Len(), d.Len(), step.files, step.left)
		}
	}
}

// A former writer that goes on writing loses nothing to the one that removes its old files.
func TestFormerWriterGoesOn(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	former := loadDeviations(t, s)
	if err := former.Revoke(ctx, s, samePage(1), token.StatusRef{}, inAnHour, now); err != nil {
		t.Fatal(err)
	}
	d := loadDeviations(t, s)
	later := now.Add(30 * time.Hour)
	if err := former.Revoke(ctx, s, samePage(2), token.StatusRef{}, later.Add(time.Hour), later); err != nil {
		t.Fatal(err)
	}
	if err := d.Prune(ctx, s, later); err != nil {
		t.Fatal(err)
	}
	if got, _ := d.Get(samePage(2)); !got.Revoked {
		t.Error("the revocation was not taken over")
	}
	if got, _ := deviationsOf(t, s, NewWriter()).Get(samePage(2)); !got.Revoked {
		t.Error("the revocation is gone")
	}
}

// A crash at any write of Prune loses nothing.
func TestPruneOfPagesSurvivesACrash(t *testing.T) {
	ctx := context.Background()
	for failAt := range 8 {
		s := &failing{Storage: new(logical.InmemStorage), after: 1 << 30}
		for i := range 6 {
			if err := loadDeviations(t, s).Revoke(ctx, s, samePage(i), token.StatusRef{}, now.Add(1000*time.Hour), now); err != nil {
				t.Fatal(err)
			}
		}
		d := loadDeviations(t, s)
		s.after = failAt
		if err := d.Prune(ctx, s, now.Add(25*time.Hour)); err != nil && !errors.Is(err, errFailing) {
			t.Fatal(err)
		}
		if n := loadDeviations(t, s).Len(); n != 6 {
			t.Errorf("%d deviations are left after a crash at write %d", n, failAt)
		}
	}
}

// A page of very many values has files of a sixteenth each, so that no entry comes near 1 MiB.
func TestLargePagesAreSplit(t *testing.T) {
	ctx, s := context.Background(), &measuring{Storage: new(logical.InmemStorage)}
	d := loadDeviations(t, s)
	p := &d.pages.pages[0]
	const values = 100_000 // of a page: 400 million in all
	status := token.StatusRef{List: 1 << 31, Index: 1 << 19}
	p.entries = make(map[token.ID]Deviation, values)
	for i := range values {
		p.entries[samePage(i)] = Deviation{ExpiresAt: inAnHour.Unix(), KeepUntil: inAnHour.Unix(), Revoked: true, Status: status, Revision: 1}
	}
	for i := range 16 {
		if err := d.Revoke(ctx, s, samePage(values+i), status, inAnHour, now); err != nil {
			t.Fatal(err)
		}
	}
	if s.largest > 1<<19 {
		t.Errorf("an entry of %d bytes", s.largest)
	}
	if n := loadDeviations(t, s).Len(); n != values+16 {
		t.Errorf("%d values are stored, want %d", n, values+16)
	}
	t.Logf("the largest entry has %d bytes", s.largest)
	if err := d.Prune(ctx, s, now.Add(time.Hour+ClockSkew)); err != nil {
		t.Fatal(err)
	}
	if keys, err := logical.CollectKeys(ctx, s); err != nil || len(keys) > 0 {
		t.Errorf("%q are left, %v", keys, err)
	}
}

// A page that grows across the split keeps what its undivided file holds, and removes that file later.
func TestSplit(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	d := loadDeviations(t, s)
	for i := range splitAt + 3 {
		if i > 2 && i < splitAt-2 { // as if they had been written one by one
			d.pages.pages[0].entries[samePage(i)] = Deviation{ExpiresAt: 1 << 40, KeepUntil: 1 << 40, Revoked: true}
			continue
		}
		if err := d.Revoke(ctx, s, samePage(i), token.StatusRef{}, now.Add(1000*time.Hour), now); err != nil {
			t.Fatal(err)
		}
	}
	if n := loadDeviations(t, s).Len(); n != splitAt+3 {
		t.Errorf("%d values, want %d", n, splitAt+3)
	}
	if err := d.Prune(ctx, s, now.Add(25*time.Hour)); err != nil {
		t.Fatal(err)
	}
	keys, err := s.List(ctx, DeviationsPrefix)
	if err != nil || len(keys) != 16 || strings.HasPrefix(keys[0], "000-") {
		t.Errorf("%q, %v", keys, err)
	}
	if n := loadDeviations(t, s).Len(); n != splitAt+3 {
		t.Errorf("%d values, want %d", n, splitAt+3)
	}
}

// A standby that is told of one key reads that one.
func TestReloadReadsOneFile(t *testing.T) {
	ctx, s := context.Background(), &measuring{Storage: new(logical.InmemStorage)}
	active := loadDeviations(t, s)
	for i := range 50 {
		if err := active.Revoke(ctx, s, id(i), token.StatusRef{}, inAnHour, now); err != nil {
			t.Fatal(err)
		}
	}
	standby := loadDeviations(t, s)
	s.reads = 0
	if err := standby.Reload(ctx, s, DeviationsPrefix+active.own(id(1), 1), now); err != nil || s.reads != 1 {
		t.Errorf("%d reads, %v", s.reads, err)
	}
}

func TestNotLeader(t *testing.T) {
	for _, err := range []error{
		logical.ErrReadOnly, logical.ErrSetupReadOnly, fmt.Errorf("x: %w", logical.ErrReadOnly),
		errors.New("cannot write to readonly storage"), errors.New("node is not the leader"), errors.New("Vault is sealed"),
		errors.New("leadership lost while committing log"), errors.New("Vault is in standby mode"),
	} {
		if !NotLeader(err) {
			t.Errorf("%q does not speak of leadership", err)
		}
	}
	for _, err := range []error{nil, errFailing, context.Canceled, errors.New("put failed due to value being too large")} {
		if NotLeader(err) {
			t.Errorf("%v speaks of leadership", err)
		}
	}
}

// PruneWriters keeps the entries of other writers for longest, and its own entry for ever.
func TestWriters(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	mine, other := NewWriter(), NewWriter()
	for _, writer := range []string{mine, other} {
		if err := RegisterWriter(ctx, s, writer, now); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{time.Hour - time.Second, 2}, {time.Hour, 1}} {
		if err := PruneWriters(ctx, s, mine, time.Hour, now.Add(step.after)); err != nil {
			t.Fatal(err)
		}
		if names, err := s.List(ctx, WritersPrefix); err != nil || len(names) != step.want {
			t.Errorf("after %s: %q, %v", step.after, names, err)
		}
	}
	if names, _ := s.List(ctx, WritersPrefix); len(names) != 1 || names[0] != mine {
		t.Errorf("%q", names)
	}
}

// measuring is storage that counts reads and knows its largest entry.
type measuring struct {
	logical.Storage
	mu                            sync.Mutex
	reads, writes, bytes, largest int
}

func (m *measuring) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	m.mu.Lock()
	m.reads++
	m.mu.Unlock()
	return m.Storage.Get(ctx, key)
}

func (m *measuring) Put(ctx context.Context, e *logical.StorageEntry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes++
	m.bytes += len(e.Value)
	m.largest = max(m.largest, len(e.Value))
	return m.Storage.Put(ctx, e)
}

// BenchmarkRevoke measures a revocation where many tokens are revoked already.
func BenchmarkRevoke(b *testing.B) {
	ctx, s := context.Background(), &measuring{Storage: new(logical.InmemStorage)}
	d := NewDeviations(NewWriter())
	const live = 200_000
	for i := range live {
		if err := d.Revoke(ctx, s, id(i), token.StatusRef{}, inAnHour, now); err != nil {
			b.Fatal(err)
		}
	}
	s.reads, s.writes, s.bytes = 0, 0, 0
	n := live
	for b.Loop() {
		n++
		if err := d.Revoke(ctx, s, id(n), token.StatusRef{}, inAnHour, now); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(s.bytes)/float64(b.N), "bytes/op")
	b.ReportMetric(float64(s.reads+s.writes)/float64(b.N), "storage/op")
}
