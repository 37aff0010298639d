package backend

import (
	"context"
	"sync"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// rotator rotates static roles when their time has come.
type rotator struct {
	*worker
	b        *backend
	interval time.Duration // between looks at least; tests shorten it

	mu      sync.Mutex
	locks   map[string]chan struct{} // name -> full while the static role is being rotated or changed
	failing map[string]failure
}

// failure is why a rotation failed, and when it is tried again.
type failure struct {
	upstream.Attempt
	err error
}

func newRotator(b *backend) *rotator {
	return &rotator{
		worker: newWorker(), b: b, interval: time.Second,
		locks: make(map[string]chan struct{}), failing: make(map[string]failure),
	}
}

func (r *rotator) lockOf(name string) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.locks[name] == nil {
		r.locks[name] = make(chan struct{}, 1)
	}
	return r.locks[name]
}

// lock keeps others from changing a static role until the function that it returns is called. A service may be called
// meanwhile, so that whoever waits can give up.
func (r *rotator) lock(ctx context.Context, name string) (unlock func(), _ error) {
	l := r.lockOf(name)
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// tryLock is lock where nobody else has the static role locked.
func (r *rotator) tryLock(name string) (unlock func(), ok bool) {
	l := r.lockOf(name)
	select {
	case l <- struct{}{}:
		return func() { <-l }, true
	default:
		return nil, false
	}
}

// look has those rotated whose time may have come.
func (r *rotator) look(ctx context.Context) time.Duration {
	if !r.b.WriteSafeReplicationState() {
		return 0
	}
	st, err := r.b.load(ctx, r.b.storage)
	if err != nil {
		return r.b.upstreams.Timings.Longest
	}
	all := st.statics.All()
	for _, e := range all {
		if st.works(e, r.b.now()) {
			r.b.listStatic(st, e)
		}
		if !r.due(st, e) {
			continue
		}
		unlock, free := r.tryLock(e.name)
		if !free {
			continue
		}
		r.jobs.Go(func() {
			defer unlock()
			r.rotate(ctx, st, e.name)
		})
	}
	if len(all) == 0 {
		return 0
	}
	return r.wait(all)
}

// due reports whether a static role has to be rotated, or its last rotation to be completed.
func (r *rotator) due(st *state, e *staticEntry) bool {
	now := r.b.now()
	r.mu.Lock()
	failed, failing := r.failing[e.name]
	r.mu.Unlock()
	if failing {
		return !now.Before(failed.Next)
	}
	return !now.Before(e.Next) || !st.works(e, now) || !st.settled(e, now)
}

// lastError returns why the last rotation failed; "" where it did not.
func (r *rotator) lastError(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.failing[name].err; err != nil {
		return err.Error()
	}
	return ""
}

// note remembers how a rotation went.
func (r *rotator) note(name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.failing, name)
		return
	}
	r.failing[name] = failure{r.b.upstreams.Timings.After(r.failing[name].Attempt, r.b.now(), 0), err}
}

// wait returns how long there is nothing to do.
func (r *rotator) wait(all []*staticEntry) time.Duration {
	now := r.b.now()
	soonest := now.Add(time.Minute)
	for _, e := range all {
		r.mu.Lock()
		next := e.Next
		if failed, failing := r.failing[e.name]; failing {
			next = failed.Next
		}
		r.mu.Unlock()
		if next.Before(soonest) {
			soonest = next
		}
		if e.Current.ExpiresAt.Before(soonest) {
			soonest = e.Current.ExpiresAt
		}
	}
	return max(r.interval, soonest.Sub(now))
}

// rotate does what is due for a static role. Its caller has locked it.
func (r *rotator) rotate(ctx context.Context, st *state, name string) {
	e, err := st.statics.Latest(ctx, r.b.storage, name)
	if err == nil && e != nil {
		err = r.b.keepStatic(ctx, st, e)
	}
	if ctx.Err() != nil {
		return // the mount goes away
	}
	r.note(name, err)
	if err != nil {
		r.b.Logger().Warn("a static role was not rotated, it is tried again", "static_role", name, "error", err)
	}
}
