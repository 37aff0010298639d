package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// addAndFlush adds the rows from up to below to.
func addAndFlush(t testing.TB, inv *Inventory, s logical.Storage, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		inv.Add(row(i))
	}
	if err := inv.Flush(context.Background(), s); err != nil {
		t.Fatal(err)
	}
}

func none(token.ID, time.Time) bool { return false }

// A process that does not know what another one wrote does not erase its rows, nor take what it did not know away.
func TestAStaleWriterErasesNoRows(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	first := loadInventory(t, s)
	addAndFlush(t, first, s, 0, 10)
	stale, active := loadInventory(t, s), loadInventory(t, s)
	addAndFlush(t, active, s, 10, 20)
	addAndFlush(t, stale, s, 20, 30)
	addAndFlush(t, active, s, 30, 40)
	addAndFlush(t, first, s, 40, 50) // it has not noticed either, and its segment is small
	if err := stale.Prune(ctx, s, none); err != nil {
		t.Fatal(err)
	}
	next := loadInventory(t, s)
	for i := range 50 {
		if _, known := next.Get(id(i)); !known {
			t.Errorf("row %d was erased", i)
		}
	}
	if err := next.Prune(ctx, s, none); err != nil {
		t.Fatal(err)
	}
	if names, err := s.List(ctx, InventoryPrefix); err != nil || len(names) != 1 || loadInventory(t, s).Len() != 50 {
		t.Errorf("%d rows in %q, %v", loadInventory(t, s).Len(), names, err)
	}
	for _, inv := range []*Inventory{first, stale, active} { // which go on
		addAndFlush(t, inv, s, 50, 51)
	}
	if n := loadInventory(t, s).Len(); n != 51 {
		t.Errorf("%d rows", n)
	}
	countsRoles(t, next)
}

// A crash at any write while the segment of another writer is taken over loses no row.
func TestTakingOverSurvivesACrash(t *testing.T) {
	ctx := context.Background()
	for failAt := range 10 {
		s := &failing{Storage: new(logical.InmemStorage), after: 1 << 30}
		for i := range 4 {
			addAndFlush(t, loadInventory(t, s), s, 10*i, 10*i+10)
		}
		inv := loadInventory(t, s)
		s.after = failAt
		if err := inv.Prune(ctx, s, none); err != nil && !errors.Is(err, errFailing) {
			t.Fatal(err)
		}
		s.after = 1 << 30
		if next := loadInventory(t, s); next.Len() != 40 {
			t.Errorf("after %d writes: %d rows are stored", failAt, next.Len())
		}
		if err := inv.Prune(ctx, s, none); err != nil || inv.Len() != 40 {
			t.Errorf("after %d writes: %d rows, %v", failAt, inv.Len(), err)
		}
		addAndFlush(t, inv, s, 100, 140)
		if n := loadInventory(t, s).Len(); n != 80 {
			t.Errorf("after %d writes: %d rows are stored", failAt, n)
		}
	}
}

// The largest rows that a role can cause do not make an entry too large.
func TestSegmentsAreBoundedByBytes(t *testing.T) {
	for _, scopes := range []int{1100, 100 * 129} {
		s := &measuring{Storage: new(logical.InmemStorage)}
		inv := loadInventory(t, s)
		const rows = 2000
		for i := range rows {
			r := row(i)
			r.Scopes = strings.Repeat("s", scopes)
			inv.Add(r)
			if i%100 == 0 {
				if err := inv.Flush(context.Background(), s); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := inv.Flush(context.Background(), s); err != nil {
			t.Fatal(err)
		}
		if s.largest > segmentBytes+1<<15 {
			t.Errorf("scopes of %d bytes: an entry of %d bytes", scopes, s.largest)
		}
		if n := loadInventory(t, s).Len(); n != rows {
			t.Errorf("%d rows are stored, want %d", n, rows)
		}
	}
}

// A standby that is told of one segment reads that one, and follows what becomes of it.
func TestReloadOfASegment(t *testing.T) {
	ctx, s := context.Background(), &measuring{Storage: new(logical.InmemStorage)}
	active := loadInventory(t, s)
	addAndFlush(t, active, s, 0, 5*segmentRows)
	standby := loadInventory(t, s)
	addAndFlush(t, active, s, 5*segmentRows, 5*segmentRows+10)
	key := func(n int) string { return fmt.Sprintf("%s%s-%d", InventoryPrefix, active.writer, n) }
	s.reads = 0
	if err := standby.Reload(ctx, s, key(5), now); err != nil || s.reads != 1 {
		t.Errorf("%d reads, %v", s.reads, err)
	}
	if n := standby.Len(); n != 5*segmentRows+10 {
		t.Errorf("%d rows", n)
	}
	// A segment is dissolved; the standby is told in either order.
	if err := active.Prune(ctx, s, func(id token.ID, _ time.Time) bool {
		r, _ := active.Get(id)
		return r.segmentIs(active, 0) && id[11]%2 == 1 && id[0] > 60
	}); err != nil {
		t.Fatal(err)
	}
	for n := range 7 {
		if err := standby.Reload(ctx, s, key(n), now); err != nil {
			t.Fatal(err)
		}
	}
	if standby.Len() != active.Len() {
		t.Errorf("%d rows, the active node has %d", standby.Len(), active.Len())
	}
	countsRoles(t, standby)
}

// segmentIs reports whether the row is in the n-th segment of a writer.
func (r Row) segmentIs(inv *Inventory, n int) bool {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	e, known := inv.rows.Get(entry{id: r.ID})
	return known && e.segment != nil && e.segment.name == fmt.Sprintf("%s-%d", inv.writer, n)
}

// The later of two rows of a token counts, regardless of their writers and of the order in which they are read.
func TestTheLaterRowCounts(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	early, late := row(1), row(1)
	late.IssuedAt, late.DisplayName = late.IssuedAt.Add(time.Minute), "later"
	for _, r := range []Row{late, early} {
		inv := NewInventory(NewWriter())
		inv.Add(r)
		if err := inv.Flush(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		if r, _ := loadInventory(t, s).Get(id(1)); r.DisplayName != "later" {
			t.Errorf("%+v", r)
		}
	}
}

// Prune dissolves another writer's segment that is small in rows and in bytes. Prune dissolves any segment of which less
// than half is live.
func TestSegmentsThatPruneDissolves(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		rows, scopes, ended int
		dissolved           bool
	}{
		"small":                  {rows: segmentRows/4 - 1, dissolved: true},
		"many rows of few bytes": {rows: segmentRows / 4},
		"few rows of many bytes": {rows: 10, scopes: segmentBytes / 40},
		"half of it live":        {rows: segmentRows, ended: segmentRows / 2},
		"less than half live":    {rows: segmentRows, ended: segmentRows/2 + 1, dissolved: true},
	} {
		s := new(logical.InmemStorage)
		other := loadInventory(t, s)
		for i := range c.rows {
			r := row(i)
			r.Scopes = strings.Repeat("s", c.scopes)
			if i < c.ended {
				r.ExpiresAt = now
			}
			other.Add(r)
		}
		if err := other.Flush(ctx, s); err != nil {
			t.Fatal(err)
		}
		inv := loadInventory(t, s)
		if err := inv.Prune(ctx, s, expired(now)); err != nil || inv.Len() != c.rows-c.ended {
			t.Errorf("%s: %d rows, %v", name, inv.Len(), err)
		}
		if stored, err := s.Get(ctx, InventoryPrefix+other.writer+"-0"); err != nil || (stored == nil) != c.dissolved {
			t.Errorf("%s: dissolved %v, %v", name, stored == nil, err)
		}
	}
}

// A damaged segment costs the rows that it held.
func TestDamagedSegment(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	addAndFlush(t, loadInventory(t, s), s, 0, 10)
	key := InventoryPrefix + NewWriter() + "-0"
	if err := s.Put(ctx, &logical.StorageEntry{Key: key, Value: []byte("damaged")}); err != nil {
		t.Fatal(err)
	}
	inv := loadInventory(t, s)
	if err := inv.Damaged()[key]; err == nil || inv.Len() != 10 {
		t.Errorf("%d rows, %v", inv.Len(), err)
	}
	if err := inv.Prune(ctx, s, none); err != nil {
		t.Error(err)
	}
	if err := inv.DropDamaged(ctx, s, key); err != nil || len(inv.Damaged()) != 0 || len(loadInventory(t, s).Damaged()) != 0 {
		t.Error("the damaged segment is still there", err)
	}
}

// BenchmarkReload measures what a standby does when it is told of one segment, among 200,000 rows.
func BenchmarkReload(b *testing.B) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	active := loadInventory(b, s)
	addAndFlush(b, active, s, 0, 100_000)
	addAndFlush(b, active, s, 100_000, 200_000)
	standby := loadInventory(b, s)
	n := 0
	for b.Loop() {
		if err := standby.Reload(ctx, s, fmt.Sprintf("%s%s-%d", InventoryPrefix, active.writer, n%200), now); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// A replaced process moves the rows of a segment to a segment of its own. The active process does not lose the rows.
func TestRowsThatAReplacedProcessMoves(t *testing.T) {
	ctx := t.Context()
	s := new(logical.InmemStorage)
	former := loadInventory(t, s)
	addAndFlush(t, former, s, 0, 10)
	replaced, active, standby := loadInventory(t, s), loadInventory(t, s), loadInventory(t, s)
	if err := replaced.Prune(ctx, s, none); err != nil {
		t.Fatal(err)
	}
	if stored, err := s.Get(ctx, InventoryPrefix+former.writer+"-0"); err != nil || stored != nil {
		t.Fatal("the segment of the former process is not dissolved:", err)
	}
	if err := active.Prune(ctx, s, none); err != nil {
		t.Fatal(err)
	}
	if err := standby.Load(ctx, s, time.Time{}); err != nil {
		t.Fatal(err)
	}
	for name, inv := range map[string]*Inventory{"active": active, "standby": standby, "new": loadInventory(t, s)} {
		if n := inv.Len(); n != 10 {
			t.Errorf("%s: %d rows are left of 10", name, n)
		}
		countsRoles(t, inv)
	}
	// Of a segment that somebody deletes, nothing is left.
	for _, name := range []string{replaced.writer + "-0", active.writer + "-0"} {
		if err := s.Delete(ctx, InventoryPrefix+name); err != nil {
			t.Fatal(err)
		}
	}
	if err := standby.Load(ctx, s, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if n := standby.Len(); n != 0 {
		t.Errorf("%d rows are left of deleted segments", n)
	}
}

// The segments of several former processes are moved: the active process reads what is there once.
func TestMovedSegmentsAreReadOnce(t *testing.T) {
	ctx, s := t.Context(), &measuring{Storage: new(logical.InmemStorage)}
	for n := range 5 {
		addAndFlush(t, loadInventory(t, s), s, 10*n, 10*n+10)
	}
	replaced, active := loadInventory(t, s), loadInventory(t, s)
	if err := replaced.Prune(ctx, s, none); err != nil {
		t.Fatal(err)
	}
	s.reads = 0
	if err := active.Prune(ctx, s, none); err != nil {
		t.Fatal(err)
	}
	if n := active.Len(); n != 50 || s.reads > 2 { // one segment is not there, one has all rows
		t.Errorf("%d rows after %d reads", n, s.reads)
	}
}
