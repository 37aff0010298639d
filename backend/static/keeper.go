package static

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/worker"
)

// Keeper keeps the static roles of one mount. Its worker runs Run.
type Keeper struct {
	*worker.Worker
	Interval time.Duration // minimum time between two runs of the worker; must not change after the first use
	Rotated  func(error)   // receives the outcome of each rotation; nil: none. Set before the first use

	storage logical.Storage // the mount's storage, for background work
	now     func() time.Time
	log     hclog.Logger
	mount   Mount
	retries *upstream.Timings

	mu      sync.Mutex
	locks   map[string]chan struct{} // name -> full while the static role is rotated or changed
	failing map[string]failure       // name -> failure of the last rotation
}

// failure is the error of a rotation, and the time of the next try.
type failure struct {
	upstream.Attempt
	err error
}

// Mount is the mount of a Keeper.
type Mount interface {
	// Load returns the mount's memory, after reading missing and stale parts from storage.
	Load(ctx context.Context, s logical.Storage) (*State, error)

	// Loaded returns the mount's memory; nil if storage was not read yet.
	Loaded() *State

	// MayWrite reports whether this process may write storage.
	MayWrite() bool

	// ProveWritable returns an error unless storage accepts writes.
	ProveWritable(ctx context.Context, s logical.Storage) error

	// EntityDisabled reports whether a Vault entity is disabled or deleted; false for the empty ID.
	EntityDisabled(ctx context.Context, id string) (bool, error)

	// FlushInventory schedules a write of the inventory.
	FlushInventory()

	// WakeQueue wakes the queue of upstream tokens, to revoke the tokens without a holder.
	WakeQueue()
}

// New returns the keeper of a mount. retries are the times between two tries of a failing rotation.
func New(s logical.Storage, now func() time.Time, log hclog.Logger, mount Mount, retries *upstream.Timings) *Keeper {
	return &Keeper{
		Worker: worker.New(), Interval: time.Second,
		storage: s, now: now, log: log, mount: mount, retries: retries,
		locks: make(map[string]chan struct{}), failing: make(map[string]failure),
	}
}

// Write creates or changes a static role. Write warns if the token expires before the requested rotation.
func (k *Keeper) Write(ctx context.Context, s logical.Storage, name string, c *Change) (warnings []string, _ error) {
	if err := refusal.CheckLen("name", name, role.MaxNameLen); err != nil {
		return nil, err
	}
	t, err := k.begin(ctx, s, name)
	if err != nil {
		return nil, err
	}
	defer t.unlock()
	e := &Entry{name: name}
	if t.stored != nil {
		*e = *t.stored
	}
	if err := e.change(c, t.Roles, k.now()); err != nil {
		return nil, err
	}
	defer k.Wake()
	if t.stored == nil {
		err = t.create(ctx, e)
	} else {
		err = t.update(ctx, e)
	}
	if err != nil {
		return nil, err
	}
	warnings, err = k.warnings(t.Entries.Get(name))
	return append(warnings, e.Warn(c.ReviewBy, k.now())...), err
}

// create stores a new static role with its first token.
func (t *task) create(ctx context.Context, e *Entry) error {
	if err := t.dropBroken(ctx); err != nil {
		return err
	}
	return t.rotate(ctx, e)
}

// update stores a change of a static role. The worker then rotates and revokes as the change requires.
func (t *task) update(ctx context.Context, e *Entry) error {
	if _, err := t.permit(ctx, e); err != nil {
		return err
	}
	if err := e.reschedule(t.stored, t.now().UTC()); err != nil {
		return err
	}
	return t.put(ctx, e)
}

// warnings returns a warning if the token of a static role expires before the requested rotation.
func (k *Keeper) warnings(e *Entry) ([]string, error) {
	if e == nil {
		return nil, nil
	}
	if hastened, err := e.hastened(k.now().UTC()); !hastened || err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("the token ends at %s by itself, so it is rotated at %s already",
		e.Current.ExpiresAt.UTC().Format(time.RFC3339), e.Next.UTC().Format(time.RFC3339))}, nil
}

// Rotate rotates a static role now.
func (k *Keeper) Rotate(ctx context.Context, s logical.Storage, name string) error {
	t, err := k.begin(ctx, s, name)
	if err != nil {
		return err
	}
	defer t.unlock()
	if err := t.Entries.Broken(name); err != nil {
		return refusal.Wrap(err)
	}
	if t.stored == nil {
		return refusal.Field("name", "there is no static role %q", refusal.Clip(name))
	}
	err = t.rotate(ctx, t.stored)
	k.report(ctx, err)
	if ctx.Err() == nil { // a client that hung up says nothing about the next rotation
		k.note(name, err)
	}
	k.Wake()
	if refusal.As(err) != nil {
		return refusal.New("static role %q was not rotated: %w", name, err)
	}
	return err
}

// Delete revokes the tokens of a static role and deletes the static role, also one that cannot be read.
func (k *Keeper) Delete(ctx context.Context, s logical.Storage, name string) error {
	t, err := k.begin(ctx, s, name)
	if err != nil {
		return err
	}
	defer t.unlock()
	if t.stored == nil {
		return t.dropBroken(ctx)
	}
	// Tokens are revoked first: after a crash in between, the static role still exists and gets another token.
	if err := t.revokeAll(ctx); err != nil {
		return err
	}
	if err := t.Entries.Delete(ctx, s, name); err != nil {
		return err
	}
	k.note(name, nil)
	return nil
}

// DropBroken deletes a static role that cannot be read, and revokes its known tokens. DropBroken keeps a static role that can
// be read.
func (k *Keeper) DropBroken(ctx context.Context, s logical.Storage, name string) error {
	t, err := k.begin(ctx, s, name)
	if err != nil {
		return err
	}
	defer t.unlock()
	return t.dropBroken(ctx)
}

// dropBroken revokes the static role's native tokens that the inventory lists. The queue revokes the upstream tokens, since
// no static role keeps these tokens any more.
func (t *task) dropBroken(ctx context.Context) error {
	if t.Entries.Broken(t.name) == nil {
		return nil
	}
	rows, _ := t.Inventory.Page(token.ID{}, math.MaxInt, "", nil)
	for i := range rows {
		if rows[i].StaticRole != t.name {
			continue
		}
		if err := t.Native.Revoke(ctx, t.storage, &role.Minted{ID: rows[i].ID, ExpiresAt: rows[i].ExpiresAt}); err != nil {
			return err
		}
	}
	if err := t.Entries.Delete(ctx, t.storage, t.name); err != nil {
		return err
	}
	t.mount.WakeQueue()
	return nil
}

// Holds reports whether a static role keeps an upstream token, or may keep the token soon. Holds reads storage before
// returning false, since another process may have rotated the static role.
func (k *Keeper) Holds(ctx context.Context, name string, id token.ID) bool {
	st := k.mount.Loaded()
	if st == nil {
		return true
	}
	unlock, free := k.tryLock(name)
	if !free {
		return true
	}
	defer unlock()
	now := k.now()
	if e := st.Entries.Get(name); e != nil && e.keeps(id, now) {
		return true
	}
	e, err := st.Entries.Latest(ctx, k.storage, name)
	if e == nil {
		return err != nil || st.Entries.Broken(name) != nil
	}
	return e.keeps(id, now)
}
