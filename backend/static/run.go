package static

import (
	"context"
	"time"
)

// Run rotates the static roles whose rotation is due. Run returns the time until the next call; 0: not before Wake.
func (k *Keeper) Run(ctx context.Context) time.Duration {
	if !k.mount.MayWrite() {
		return 0
	}
	st, err := k.mount.Load(ctx, k.storage)
	if err != nil {
		return k.retries.Longest
	}
	all := st.Entries.All()
	for _, e := range all {
		if st.works(e) {
			k.list(st, e)
		}
		if !k.due(st, e) {
			continue
		}
		unlock, free := k.tryLock(e.name)
		if !free {
			continue
		}
		t := &task{Keeper: k, State: st, storage: k.storage, name: e.name, unlock: unlock}
		k.Go(func() { t.run(ctx) })
	}
	if len(all) == 0 {
		return 0
	}
	return k.wait(all)
}

// run completes the due work of the static role, and unlocks the static role.
func (t *task) run(ctx context.Context) {
	defer t.unlock()
	var err error
	if t.stored, err = t.Entries.Latest(ctx, t.storage, t.name); err == nil && t.stored != nil {
		err = t.keep(ctx)
	}
	if ctx.Err() != nil {
		return // the mount is being removed
	}
	t.note(t.name, err)
	if err != nil {
		t.log.Warn("static role not rotated, retried", "static_role", t.name, "error", err)
	}
}

// due reports whether a static role has to be rotated, or its last rotation has to be completed.
func (k *Keeper) due(st *State, e *Entry) bool {
	now := k.now()
	k.mu.Lock()
	failed, failing := k.failing[e.name]
	k.mu.Unlock()
	if failing {
		return !now.Before(failed.Next)
	}
	return !now.Before(e.Next) || !st.works(e) || !st.settled(e, now)
}

// wait returns the time until the next run, at most a minute.
func (k *Keeper) wait(all []*Entry) time.Duration {
	now := k.now()
	soonest := now.Add(time.Minute)
	for _, e := range all {
		k.mu.Lock()
		next := e.Next
		if failed, failing := k.failing[e.name]; failing {
			next = failed.Next
		}
		k.mu.Unlock()
		if next.Before(soonest) {
			soonest = next
		}
		if e.Current.ExpiresAt.Before(soonest) {
			soonest = e.Current.ExpiresAt
		}
	}
	return max(k.Interval, soonest.Sub(now))
}

// note records the result of a rotation.
func (k *Keeper) note(name string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		delete(k.failing, name)
		return
	}
	k.failing[name] = failure{k.retries.After(k.failing[name].Attempt, k.now(), 0), err}
}

// lastError returns the error of the last rotation; empty if the rotation succeeded.
func (k *Keeper) lastError(name string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.failing[name].err; err != nil {
		return err.Error()
	}
	return ""
}

// report passes on the outcome of a rotation, unless the client hung up or the mount is being removed.
func (k *Keeper) report(ctx context.Context, err error) {
	if k.Rotated != nil && ctx.Err() == nil {
		k.Rotated(err)
	}
}
