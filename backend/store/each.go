package store

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// parallel is the number of entries that Each reads at a time.
const parallel = 16

// Each calls f for each item, up to 16 at a time, and returns the first error. After an error the context of f is cancelled, and
// no other call begins.
func Each[T any](ctx context.Context, items []T, f func(ctx context.Context, item T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	var taken atomic.Int64
	for range min(parallel, len(items)) {
		group.Go(func() error { // a goroutine serves many items: its stack grows once
			for {
				i := int(taken.Add(1)) - 1
				if i >= len(items) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := f(ctx, items[i]); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}
