package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func loadInventory(t testing.TB, s logical.Storage) *Inventory {
	t.Helper()
	inv := NewInventory(NewWriter())
	if err := inv.Load(context.Background(), s, now); err != nil {
		t.Fatal(err)
	}
	return inv
}

// row is the row of the n-th token; even ones end in an hour, odd ones in two.
func row(n int) Row {
	return Row{
		ID: id(n), IssuedAt: now, ExpiresAt: now.Add(time.Duration(1+n%2) * time.Hour),
		Holder: Holder{
			Role: fmt.Sprintf("role-%d", n%3), RoleID: token.RoleID{byte(n % 3)}, RoleVersion: 1,
			Scopes: "invoices:read", Subject: "8d4b4a3e-8c4f-4f0a-9e0b-3a8f0a1b2c3d", DisplayName: "approle",
		},
	}
}

func expired(at time.Time) func(token.ID, time.Time) bool {
	return func(_ token.ID, end time.Time) bool { return !at.Before(end) }
}

// ids lists all ids, reading pages of so many.
func ids(inv *Inventory, limit int, role string) []token.ID {
	var all []token.ID
	var after token.ID
	for {
		page, more := inv.Page(after, limit, role, nil)
		for _, r := range page {
			all = append(all, r.ID)
		}
		if !more {
			return all
		}
		after = all[len(all)-1]
	}
}

// countsRoles checks the counters of roles against the rows.
func countsRoles(t *testing.T, inv *Inventory) {
	t.Helper()
	for n := range 4 {
		role, rows := token.RoleID{byte(n)}, 0
		for range inv.OfRole(role) {
			rows++
		}
		if got := inv.Count(role); got != rows {
			t.Errorf("role %d: counted %d rows of %d", n, got, rows)
		}
	}
}

func TestInventory(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	inv := loadInventory(t, s)
	const n = 2*segmentRows + 500
	for i := range n {
		inv.Add(row(i))
		if i%700 == 0 {
			if err := inv.Flush(ctx, s); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := inv.Flush(ctx, s); err != nil {
		t.Fatal(err)
	}
	for name, inv := range map[string]*Inventory{"in memory": inv, "after a restart": loadInventory(t, s)} {
		if got, known := inv.Get(id(7)); !known || got != row(7) {
			t.Errorf("%s: %+v, want %+v", name, got, row(7))
		}
		if _, known := inv.Get(id(n)); known {
			t.Errorf("%s: a token is known that was never issued", name)
		}
		all := ids(inv, 333, "")
		if len(all) != n || !slices.IsSortedFunc(all, token.ID.Compare) {
			t.Errorf("%s: %d rows, want %d in order", name, len(all), n)
		}
		if of := ids(inv, 10, "role-1"); len(of) != (n+1)/3 {
			t.Errorf("%s: %d rows of a role", name, len(of))
		}
		countsRoles(t, inv)
	}

	// Half of the tokens end: what is left of the segments is merged, and nothing is lost.
	if err := inv.Prune(ctx, s, expired(inAnHour)); err != nil {
		t.Fatal(err)
	}
	for name, inv := range map[string]*Inventory{"pruned": inv, "pruned, after a restart": loadInventory(t, s)} {
		if err := inv.Prune(ctx, s, expired(inAnHour)); err != nil {
			t.Fatal(err)
		}
		if inv.Len() != n/2 {
			t.Errorf("%s: %d rows, want %d", name, inv.Len(), n/2)
		}
		if _, known := inv.Get(id(1)); !known {
			t.Errorf("%s: a live row is gone", name)
		}
		countsRoles(t, inv)
	}
	if err := inv.Prune(ctx, s, expired(now.Add(2*time.Hour))); err != nil {
		t.Fatal(err)
	}
	if inv.Len() != 0 {
		t.Errorf("%d rows of ended tokens", inv.Len())
	}
	if keys, err := logical.CollectKeys(ctx, s); err != nil || len(keys) > 1 {
		t.Errorf("%q are left in storage, more than the last segment; %v", keys, err)
	}
}

// A crash at any moment of a prune loses no row: storage as it is after each write is loaded again.
func TestPruneSurvivesACrash(t *testing.T) {
	ctx := context.Background()
	for failAt := range 12 {
		s := &failing{Storage: new(logical.InmemStorage), after: 1 << 30}
		inv := loadInventory(t, s)
		for i := range 3 * segmentRows {
			inv.Add(row(i))
		}
		if err := inv.Flush(ctx, s); err != nil {
			t.Fatal(err)
		}
		s.after = failAt
		err := inv.Prune(ctx, s, func(id token.ID, end time.Time) bool { return id[0]%4 != 0 })
		if err != nil && !errors.Is(err, errFailing) {
			t.Fatal(err)
		}
		want := inv.Len()
		s.after = 1 << 30
		restarted := loadInventory(t, s)
		if err := restarted.Prune(ctx, s, func(id token.ID, end time.Time) bool { return id[0]%4 != 0 }); err != nil {
			t.Fatal(err)
		}
		if restarted.Len() != want || loadInventory(t, s).Len() < want {
			t.Errorf("after %d writes: %d rows, want %d", failAt, restarted.Len(), want)
		}
	}
}

var errFailing = errors.New("storage is full")

// failing is storage that fails after some writes.
type failing struct {
	logical.Storage
	after int
}

func (f *failing) fail() error {
	if f.after--; f.after < 0 {
		return errFailing
	}
	return nil
}

func (f *failing) Put(ctx context.Context, e *logical.StorageEntry) error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.Storage.Put(ctx, e)
}

func (f *failing) Delete(ctx context.Context, key string) error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.Storage.Delete(ctx, key)
}

func TestFlushTriesAgain(t *testing.T) {
	ctx, s := context.Background(), &failing{Storage: new(logical.InmemStorage)}
	inv := loadInventory(t, s)
	for i := range segmentRows + 10 {
		inv.Add(row(i))
	}
	s.after = 1 // the first segment is written, the second is not
	if err := inv.Flush(ctx, s); !errors.Is(err, errFailing) {
		t.Fatal(err)
	}
	inv.Add(row(segmentRows + 10))
	if inv.Len() != segmentRows+11 {
		t.Errorf("%d rows are seen", inv.Len())
	}
	if stored := loadInventory(t, s.Storage).Len(); stored != segmentRows {
		t.Errorf("%d rows are stored", stored)
	}
	s.after = 1 << 30
	if err := inv.Flush(ctx, s); err != nil {
		t.Fatal(err)
	}
	if stored := loadInventory(t, s).Len(); stored != segmentRows+11 {
		t.Errorf("%d rows are stored", stored)
	}
}

func TestPendingRowsAreBounded(t *testing.T) {
	ctx, s := context.Background(), &failing{Storage: new(logical.InmemStorage)}
	inv := loadInventory(t, s)
	for i := range maxPending + 5 {
		inv.Add(row(i))
	}
	s.after = 1 << 30
	if err := inv.Flush(ctx, s); err == nil {
		t.Error("nobody is told that rows were lost")
	}
	if stored := loadInventory(t, s).Len(); stored != maxPending {
		t.Errorf("%d rows are stored", stored)
	}
	if err := inv.Flush(ctx, s); err != nil {
		t.Errorf("told twice: %v", err)
	}
}

func TestInventoryConcurrently(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	inv := loadInventory(t, s)
	done := make(chan map[token.ID]bool)
	const workers, each = 4, 1000
	for w := range workers {
		go func() {
			mine := make(map[token.ID]bool)
			for i := range each {
				r := row(w*each + i)
				inv.Add(r)
				mine[r.ID] = true
				if i%100 == 0 {
					inv.Page(token.ID{}, 10, "", nil)
					if err := inv.Flush(ctx, s); err != nil {
						t.Error(err)
					}
				}
				if i%333 == 0 {
					if err := inv.Prune(ctx, s, expired(now)); err != nil {
						t.Error(err)
					}
				}
			}
			done <- mine
		}()
	}
	all := make(map[token.ID]bool)
	for range workers {
		maps.Copy(all, <-done)
	}
	if err := inv.Flush(ctx, s); err != nil {
		t.Fatal(err)
	}
	if stored := loadInventory(t, s); stored.Len() != len(all) || inv.Len() != len(all) {
		t.Errorf("%d rows, %d stored, want %d", inv.Len(), stored.Len(), len(all))
	}
}

// BenchmarkMillion measures a ledger of one million live tokens, all of them renewed or revoked.
func BenchmarkMillion(b *testing.B) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	const million = 1_000_000
	inv := loadInventory(b, s)
	for i := range million {
		inv.Add(row(i))
		if i%10_000 == 0 {
			if err := inv.Flush(ctx, s); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := inv.Flush(ctx, s); err != nil {
		b.Fatal(err)
	}
	d := NewDeviations(NewWriter())
	for i := range million {
		if err := d.Revoke(ctx, s, id(i), token.StatusRef{}, inAnHour, now); err != nil {
			b.Fatal(err)
		}
	}
	inv, d = nil, nil

	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			inv, d = nil, nil
			before := heap()
			inv = loadInventory(b, s)
			d = NewDeviations(NewWriter())
			if err := d.Load(ctx, s, now); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(heap()-before)/1e6, "MB")
		}
	})
	b.Run("page of 100", func(b *testing.B) {
		n := 0
		for b.Loop() {
			page, _ := inv.Page(id(n), 100, "", nil)
			if len(page) == 0 {
				b.Fatal("an empty page")
			}
			n = (n + 7919) % million
		}
	})
	runtime.KeepAlive(d)
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
