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
	g, err := LoadGrants(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// numbered makes refreshes that can be told apart.
func numbered() func() (Refresh, error) {
	n := byte(0)
	return func() (Refresh, error) {
		n++
		return Refresh{AccessID: token.ID{n}, KeepUntil: inAnHour.Unix()}, nil
	}
}

func TestRefresh(t *testing.T) {
	ctx, s, next := context.Background(), new(logical.InmemStorage), numbered()
	for _, step := range []struct {
		name       string
		generation uint32
		at         time.Duration
		want       byte // the refresh that comes out; 0: ErrReused
	}{
		{"one that was never given out", 2, 0, 0},
		{"the first", 1, 0, 1},
		{"a retry", 1, 9 * time.Second, 1},
		{"another retry, at the last moment", 1, retry, 1},
		{"a retry too late", 1, retry + time.Millisecond, 0},
		{"the second", 2, 20 * time.Second, 2},
		{"the first, whose successor was used", 1, 20 * time.Second, 0},
		{"a retry of the second", 2, 21 * time.Second, 2},
		{"the third", 3, time.Minute, 3},
		{"the fifth", 5, time.Minute, 0},
	} {
		g := loadGrants(t, s) // a restart at each step
		r, err := g.Refresh(ctx, s, id(1), step.generation, retry, now.Add(step.at), next)
		switch {
		case step.want == 0 && !errors.Is(err, ErrReused):
			t.Errorf("%s: %+v, %v", step.name, r, err)
		case step.want != 0 && (err != nil || r.AccessID != (token.ID{step.want}) || r.Generation != step.generation+1):
			t.Errorf("%s: %+v, %v", step.name, r, err)
		}
	}
}

func TestRefreshThatIsNotStored(t *testing.T) {
	ctx, s, next := context.Background(), new(logical.InmemStorage), numbered()
	g := loadGrants(t, s)
	s.Underlying().FailPut(true)
	if _, err := g.Refresh(ctx, s, id(1), 1, retry, now, next); err == nil || errors.Is(err, ErrReused) {
		t.Error(err)
	}
	s.Underlying().FailPut(false)
	if r, err := g.Refresh(ctx, s, id(1), 1, retry, now, next); err != nil || r.Generation != 2 {
		t.Errorf("the refresh token is lost: %+v, %v", r, err)
	}
}

// Of many who use a refresh token at once, all get the same refresh.
func TestRefreshConcurrently(t *testing.T) {
	ctx, s, next := context.Background(), new(logical.InmemStorage), numbered()
	g := loadGrants(t, s)
	var wg sync.WaitGroup
	got := make(chan token.ID, 64)
	for range cap(got) {
		wg.Go(func() {
			r, err := g.Refresh(ctx, s, id(1), 1, retry, now, next)
			if err != nil {
				t.Error(err)
			}
			got <- r.AccessID
		})
	}
	wg.Wait()
	close(got)
	for accessID := range got {
		if accessID != (token.ID{1}) {
			t.Errorf("a second chain: %v", accessID)
		}
	}
	if err := g.Prune(ctx, s, inAnHour); err != nil || g.Len() != 0 {
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
