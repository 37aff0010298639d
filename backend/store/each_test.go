package store

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

func TestEach(t *testing.T) {
	t.Parallel()
	items := make([]int, 1000)
	var calls [1000]atomic.Int32
	for i := range items {
		items[i] = i
	}
	count := func(_ context.Context, i int) error { calls[i].Add(1); return nil }
	if err := Each(t.Context(), items, count); err != nil {
		t.Fatal(err)
	}
	for i := range calls {
		if n := calls[i].Load(); n != 1 {
			t.Errorf("f was called %d times for item %d", n, i)
		}
	}
	if err := Each(t.Context(), nil, count); err != nil {
		t.Error(err)
	}
}

// After an error no other call begins, and the calls that run are cancelled.
func TestEachStopsAtAnError(t *testing.T) {
	t.Parallel()
	failed := errors.New("it fails")
	var calls atomic.Int32
	err := Each(t.Context(), make([]int, 1000), func(ctx context.Context, _ int) error {
		if calls.Add(1) == parallel {
			return failed
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, failed) || calls.Load() != parallel {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
}

// A caller that has given up gets an error, although no call has failed.
func TestEachOfACancelledCaller(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	err := Each(ctx, make([]int, 1000), func(context.Context, int) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
