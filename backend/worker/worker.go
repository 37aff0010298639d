// Package worker runs what a mount does in the background.
package worker

import (
	"context"
	"sync"
	"time"
)

// Worker calls a function again and again: when the function asks for it, and when somebody wakes the worker.
type Worker struct {
	woken chan struct{}
	jobs  sync.WaitGroup

	mu   sync.Mutex
	stop context.CancelFunc // nil before Start
	idle chan struct{}      // closed once the worker has stopped
}

// New returns a worker that does not run yet.
func New() *Worker { return &Worker{woken: make(chan struct{}, 1)} }

// Start has the worker call run, now and whenever it is due. run returns after how long it is due again; 0: not before
// Wake. A second Start does nothing.
func (w *Worker) Start(run func(context.Context) time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop, w.idle = cancel, make(chan struct{})
	go w.loop(ctx, run)
}

func (w *Worker) loop(ctx context.Context, run func(context.Context) time.Duration) {
	defer close(w.idle)
	defer w.jobs.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.woken:
		}
		if wait := run(ctx); wait > 0 {
			timer.Reset(wait)
		}
	}
}

// Go runs a job beside the worker. Close waits for the job. Only run may call Go.
func (w *Worker) Go(job func()) { w.jobs.Go(job) }

// Wake has the worker call run now.
func (w *Worker) Wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// Close stops the worker, and waits until run and all jobs have returned.
func (w *Worker) Close() {
	w.mu.Lock()
	stop, idle := w.stop, w.idle
	w.mu.Unlock()
	if stop != nil {
		stop()
		<-idle
	}
}
