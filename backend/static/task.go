package static

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"
)

func (k *Keeper) lockOf(name string) chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks[name] == nil {
		k.locks[name] = make(chan struct{}, 1)
	}
	return k.locks[name]
}

// lock locks a static role until unlock. The wait ends with ctx, since the holder of the lock may be calling a service.
func (k *Keeper) lock(ctx context.Context, name string) (unlock func(), _ error) {
	l := k.lockOf(name)
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// tryLock locks a static role without waiting, and reports whether the lock was free.
func (k *Keeper) tryLock(name string) (unlock func(), ok bool) {
	l := k.lockOf(name)
	select {
	case l <- struct{}{}:
		return func() { <-l }, true
	default:
		return nil, false
	}
}

// task is work on one locked static role. unlock unlocks the static role.
type task struct {
	*Keeper
	*State
	storage logical.Storage
	name    string
	stored  *Entry // stored entry when the task began; nil if missing or unreadable
	unlock  func()
}

// begin begins a task for a request.
func (k *Keeper) begin(ctx context.Context, s logical.Storage, name string) (*task, error) {
	st, err := k.mount.Load(ctx, s)
	if err != nil {
		return nil, err
	}
	unlock, err := k.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	t := &task{Keeper: k, State: st, storage: s, name: name, unlock: unlock}
	if t.stored, err = st.Entries.Latest(ctx, s, name); err != nil {
		unlock()
		return nil, err
	}
	return t, nil
}
