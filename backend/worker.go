package backend

import (
	"context"
	"sync"
	"time"
)

// worker looks for something to do when it is woken, and when the time has come.
type worker struct {
	wake chan struct{}
	jobs sync.WaitGroup // what a look has found, and others do

	mu   sync.Mutex
	stop context.CancelFunc
	idle chan struct{} // closed when it has stopped
}

func newWorker() *worker { return &worker{wake: make(chan struct{}, 1)} }

// start begins to work, once. look tells after how long it is to be called again; 0: not before kick.
func (w *worker) start(look func(context.Context) time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop, w.idle = cancel, make(chan struct{})
	go w.run(ctx, look)
}

func (w *worker) run(ctx context.Context, look func(context.Context) time.Duration) {
	defer close(w.idle)
	defer w.jobs.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.wake:
		}
		if wait := look(ctx); wait > 0 {
			timer.Reset(wait)
		}
	}
}

// close ends the work and waits until it has ended.
func (w *worker) close() {
	w.mu.Lock()
	stop, idle := w.stop, w.idle
	w.mu.Unlock()
	if stop != nil {
		stop()
		<-idle
	}
}

// kick has it look now.
func (w *worker) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
