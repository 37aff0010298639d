package ledger

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

const retry = 10 * time.Second

func loadRefreshes(t *testing.T, s logical.Storage) *Refreshes {
	t.Helper()
	g := NewRefreshes(NewWriter())
	if err := g.Load(context.Background(), s, now); err != nil {
		t.Fatal(err)
	}
	return g
}

// Reused reports a reuse of a token that was given out, before Refresh returns ErrReused.
func TestRefresh(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	for _, step := range []struct {
		name       string
		generation uint32
		at         time.Duration
		good       bool
		reused     bool
	}{
		{"one that was never given out", 2, 0, false, false},
		{"the first", 1, 0, true, false},
		{"a retry", 1, 9 * time.Second, true, false},
		{"another retry, at the last moment", 1, retry, true, false},
		{"a retry too late", 1, retry + time.Millisecond, false, true},
		{"the second", 2, 20 * time.Second, true, false},
		{"the first, whose successor was used", 1, 20 * time.Second, false, true},
		{"a retry of the second", 2, 21 * time.Second, true, false},
		{"the third", 3, time.Minute, true, false},
		{"the fifth", 5, time.Minute, false, false},
	} {
		g := loadRefreshes(t, s) // a restart at each step
		if got := g.Reused(id(1), step.generation, retry, now.Add(step.at)); got != step.reused {
			t.Errorf("%s: reused %v", step.name, got)
		}
		err := g.Refresh(ctx, s, id(1), step.generation, inAnHour, retry, now.Add(step.at))
		if (err == nil) != step.good || (err != nil && !errors.Is(err, ErrReused)) {
			t.Errorf("%s: %v", step.name, err)
		}
	}
}

func TestRefreshThatIsNotStored(t *testing.T) {
	ctx, s := context.Background(), new(logical.InmemStorage)
	g := loadRefreshes(t, s)
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
	g := loadRefreshes(t, s)
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

// Of two refreshes of a grant by two writers the later one counts, and is kept as long as either.
func TestMergeRefreshes(t *testing.T) {
	early, late, next := Refresh{Generation: 2, At: 10, KeepUntil: 300}, Refresh{Generation: 2, At: 20, KeepUntil: 200}, Refresh{Generation: 3, At: 5, KeepUntil: 100}
	for _, c := range []struct{ a, b, want Refresh }{
		{early, early, early},
		{early, late, Refresh{Generation: 2, At: 20, KeepUntil: 300}},
		{late, next, Refresh{Generation: 3, At: 5, KeepUntil: 200}},
		{early, next, Refresh{Generation: 3, At: 5, KeepUntil: 300}},
	} {
		if got, back := c.a.merge(c.b), c.b.merge(c.a); got != c.want || back != c.want {
			t.Errorf("%+v and %+v: %+v and %+v, want %+v", c.a, c.b, got, back, c.want)
		}
	}
}
