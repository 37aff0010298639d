package ledger

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const retry = 10 * time.Second

func loadGrants(t *testing.T, s logical.Storage) *Grants {
	t.Helper()
	g := NewGrants(NewWriter())
	if err := g.Load(context.Background(), s, now); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestRefresh(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	for _, step := range []struct {
		name       string
		generation uint32
		at         time.Duration
		good       bool
	}{
		{"one that was never given out", 2, 0, false},
		{"the first", 1, 0, true},
		{"a retry", 1, 9 * time.Second, true},
		{"another retry, at the last moment", 1, retry, true},
		{"a retry too late", 1, retry + time.Millisecond, false},
		{"the second", 2, 20 * time.Second, true},
		{"the first, whose successor was used", 1, 20 * time.Second, false},
		{"a retry of the second", 2, 21 * time.Second, true},
		{"the third", 3, time.Minute, true},
		{"the fifth", 5, time.Minute, false},
	} {
		g := loadGrants(t, s) // a restart at each step
		err := g.Refresh(ctx, s, id(1), step.generation, inAnHour, retry, now.Add(step.at))
		if (err == nil) != step.good || (err != nil && !errors.Is(err, ErrReused)) {
			t.Errorf("%s: %v", step.name, err)
		}
	}
}

func TestRefreshThatIsNotStored(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	g := loadGrants(t, s)
	s.Underlying().FailPut(true)
	if err := g.Refresh(ctx, s, id(1), 1, inAnHour, retry, now); err == nil || errors.Is(err, ErrReused) {
		t.Error(err)
	}
	s.Underlying().FailPut(false)
	if err := g.Refresh(ctx, s, id(1), 1, inAnHour, retry, now); err != nil {
		t.Errorf("the refresh token is lost: %v", err)
	}
}

// Of many who use a refresh token at once, one makes the next generation and the others retry; the record is kept
// for as long as the grant's refresh tokens may be valid.
func TestRefreshConcurrently(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	g := loadGrants(t, s)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if err := g.Refresh(ctx, s, id(1), 1, inAnHour, retry, now); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if r, _ := g.get(id(1)); r.Generation != 2 || r.KeepUntil != inAnHour.Unix() {
		t.Errorf("%+v", r)
	}
	if err := g.Prune(ctx, s, inAnHour.Add(time.Hour)); err != nil || g.Len() != 0 {
		t.Errorf("%d grants are kept, %v", g.Len(), err)
	}
}

func TestIndexes(t *testing.T) {
	ctx, s := context.Background(), &failing{Storage: new(logical.InmemStorage), after: 1 << 30}
	load := func() *Indexes {
		x, err := LoadIndexes(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	x := load()
	seen := make(map[token.StatusRef]bool)
	ordered := 0
	last := token.StatusRef{}
	for i := range 3 * blockSize {
		if i%1500 == 0 {
			x = load() // a restart gives up a block, and hands nothing out twice
		}
		s.after = 1 // one write for a block at most
		ref, err := x.Next(ctx, s, now)
		if err != nil {
			t.Fatal(err)
		}
		if seen[ref] || ref.List != 1 || ref.Index >= ListSize {
			t.Fatalf("%+v was handed out", ref)
		}
		seen[ref] = true
		if ref.Index > last.Index {
			ordered++
		}
		last = ref
	}
	if share := float64(ordered) / float64(len(seen)); share < 0.4 || share > 0.6 {
		t.Errorf("%.0f %% of the places come after the one before: they can be foretold", 100*share)
	}

	s.after = 0
	x = load()
	if _, err := x.Next(ctx, s, now); err == nil {
		t.Error("a place of a block that is not stored")
	}
	s.after = 1 << 30

	// When a list is full the next one is begun; it is dropped when all its tokens must have ended.
	for x.lists[1].left() > 0 {
		x.free = nil
		if _, err := x.Next(ctx, s, now); err != nil {
			t.Fatal(err)
		}
	}
	x.free = nil
	ref, err := x.Next(ctx, s, now)
	if err != nil || ref.List != 2 {
		t.Fatalf("%+v, %v", ref, err)
	}
	x = load()
	if err := x.Prune(ctx, s, time.Hour, inAnHour.Add(-time.Second)); err != nil || len(x.Lists()) != 2 {
		t.Errorf("lists %v, %v", x.Lists(), err)
	}
	if err := x.Prune(ctx, s, time.Hour, inAnHour); err != nil {
		t.Fatal(err)
	}
	if x.Has(1) || !x.Has(2) || len(load().Lists()) != 1 {
		t.Errorf("lists %v", x.Lists())
	}
}

func TestRevokedIn(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	d := loadDeviations(t, s)
	before := d.Revision()
	if err := d.Revoke(ctx, s, id(1), token.StatusRef{}, inAnHour, now); err != nil {
		t.Fatal(err)
	}
	if d.Revision() != before {
		t.Error("a revocation that no list shows makes lists anew")
	}
	if err := d.Revoke(ctx, s, id(2), token.StatusRef{List: 1, Index: 7}, inAnHour, now); err != nil {
		t.Fatal(err)
	}
	if err := d.Revoke(ctx, s, id(3), token.StatusRef{List: 2, Index: 8}, inAnHour, now); err != nil {
		t.Fatal(err)
	}
	if d.Revision() == before {
		t.Error("the list that shows it is not made anew")
	}
	for _, d := range []*Deviations{d, loadDeviations(t, s)} {
		if got := d.RevokedIn(1); len(got) != 1 || got[0] != 7 {
			t.Errorf("revoked in list 1: %v", got)
		}
	}
}
