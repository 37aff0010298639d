package worker

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New()
		w.Close() // before Start there is nothing to stop
		var runs, jobs atomic.Int32
		run := func(ctx context.Context) time.Duration {
			w.Go(func() {
				<-ctx.Done()
				jobs.Add(1)
			})
			if runs.Add(1) == 1 {
				return time.Minute
			}
			return 0
		}
		expect := func(n int32) {
			t.Helper()
			synctest.Wait()
			if runs.Load() != n {
				t.Errorf("%d runs, not %d", runs.Load(), n)
			}
		}
		w.Start(run)
		w.Start(run)
		expect(1)
		time.Sleep(time.Minute)
		expect(2)
		time.Sleep(time.Hour) // run is not due before Wake
		expect(2)
		w.Wake()
		expect(3)
		w.Close()
		if jobs.Load() != 3 {
			t.Errorf("Close left %d jobs", 3-jobs.Load())
		}
		w.Wake()
		expect(3)
	})
}
