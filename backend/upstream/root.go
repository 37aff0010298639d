package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/hashicorp/go-secure-stdlib/base62"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
)

const (
	generatedLen = 40

	// rootLifetime is asked for where a service gives its credentials an end.
	rootLifetime = 364 * 24 * time.Hour

	// maxRetiring bounds the entry of a connection. Who rotates again and again while the service refuses to revoke
	// what was replaced is to find out why.
	maxRetiring = 8
)

// Root is the credential of a connection, and what rotations of it have left to do. All of it is in the entry of the
// connection, so that one write moves a rotation on: whatever is cut short, the entry has a credential that works,
// and names what else may exist at the service.
type Root struct {
	Credential map[string]any `json:"credential"`
	Pending    *PendingRoot   `json:"pending,omitzero"`  // a rotation that has begun; nil: none
	Retiring   []RetiringRoot `json:"retiring,omitzero"` // credentials that were replaced, until they are surely revoked
	RotatedAt  time.Time      `json:"rotated_at"`        // zero: never
}

// PendingRoot is a credential that a rotation has asked for, and of which it is not known whether the service made it.
type PendingRoot struct {
	Name   string         `json:"name"`             // under which the service is asked for it
	Chosen map[string]any `json:"chosen,omitempty"` // the credential, where the engine chooses it; nil: the service does
	Since  time.Time      `json:"since"`

	// GivenUp says that the engine goes on with another credential: what has the name is to be revoked.
	GivenUp bool `json:"given_up,omitempty"`
}

// RetiringRoot is a credential that was replaced.
type RetiringRoot struct {
	Credential map[string]any `json:"credential"`
	Since      time.Time      `json:"since"`
}

// Unsettled reports whether a rotation has left something to do.
func (r *Root) Unsettled() bool { return r.Pending != nil || len(r.Retiring) > 0 }

// left says what rotations have left to do; "" where nothing.
func (r *Root) left() string {
	switch {
	case r.Pending != nil && r.Pending.Chosen != nil:
		return "it is not known yet whether the service has taken a new credential"
	case r.Pending != nil:
		return "it is not known yet whether the service has made a credential, which is to be revoked"
	case len(r.Retiring) > 0:
		return fmt.Sprintf("credentials that were replaced and are not revoked yet: %d", len(r.Retiring))
	}
	return ""
}

// Replace takes over a credential that an operator gives. What rotations have left at the service stays to be
// revoked, unless it is what is given.
func (r *Root) Replace(credential map[string]any) {
	r.Credential = credential
	if r.Pending != nil {
		if r.Pending.Chosen != nil {
			r.Pending = nil // the service had but one
		} else {
			given := *r.Pending
			given.GivenUp = true
			r.Pending = &given
		}
	}
	r.Retiring = slices.DeleteFunc(slices.Clone(r.Retiring), func(old RetiringRoot) bool { return equal(old.Credential, credential) })
}

// Leave drops what rotations have left to do at a service that is not to be called any more.
func (r *Root) Leave() { r.Pending, r.Retiring = nil, nil }

// equal compares credentials, one of which may have been read from storage.
func equal(a, b map[string]any) bool {
	text := func(m map[string]any) map[string]string {
		texts := make(map[string]string, len(m))
		for name, value := range m {
			texts[name] = fmt.Sprint(value)
		}
		return texts
	}
	return reflect.DeepEqual(text(a), text(b))
}

var (
	// ErrRotating says that another request rotates the credential.
	ErrRotating = errors.New("the credential is being rotated already")

	// ErrNoConnection says that a connection was deleted.
	ErrNoConnection = errors.New("the connection was deleted")

	errRetiring = errors.New("too many credentials that were replaced are not revoked yet: see root of the connection's queue")

	// errUndecided says that it is too early to tell what has become of a rotation.
	errUndecided = errors.New("the service may still take the credential that was chosen")

	// errChanged says that somebody has changed the connection since it was read.
	errChanged = errors.New("the connection was changed meanwhile")
)

// unchanged is nil if the pending rotation is still this one.
func (r *Root) unchanged(pending *PendingRoot) error {
	if r.Pending == nil || r.Pending.Name != pending.Name || r.Pending.GivenUp != pending.GivenUp {
		return errChanged
	}
	return nil
}

// NotRotated says why a credential was not rotated, where that is not a fault of the engine or its storage.
type NotRotated struct{ Reason error }

func (e *NotRotated) Error() string { return e.Reason.Error() }

// Rotate replaces the credential of a connection by one that only the engine knows. The name is that of the new
// credential at the service. The error may be NotRotated.
func (k *Keeper) Rotate(ctx context.Context, c *Connection, name string) (warning string, err error) {
	warning, err = k.rotate(ctx, c, name)
	if errors.As(err, new(*connector.Error)) {
		return "", &NotRotated{err}
	}
	for _, reason := range []error{ErrRotating, errRetiring, errUndecided, errChanged, ErrNoConnection} {
		if errors.Is(err, reason) {
			return "", &NotRotated{err}
		}
	}
	return warning, err
}

// rotate is Rotate.
//
// The name, and a credential that the engine chooses, are stored before the service is asked; the new credential is
// stored in one write with the end of that and with the old one, which is revoked only then.
func (k *Keeper) rotate(ctx context.Context, c *Connection, name string) (warning string, err error) {
	done, err := k.LockRoot(ctx, c.ID)
	if err != nil {
		return "", err
	}
	defer done()
	if c, err = k.mount.Connection(c.ID, c.Name); err != nil { // as it is now
		return "", err
	}
	if c, err = k.settlePending(ctx, c); err != nil {
		return "", fmt.Errorf("an earlier rotation is not settled yet: %w", err)
	}
	if len(c.Retiring) >= maxRetiring {
		return "", errRetiring
	}
	generated, err := base62.Random(generatedLen)
	if err != nil {
		return "", err
	}
	now := k.now().UTC()
	pending := &PendingRoot{Name: name, Since: now}
	if chosen := c.Service.Provider.Generates(generated); chosen != nil {
		pending.Chosen = maps.Clone(c.Credential)
		maps.Copy(pending.Chosen, chosen)
	}
	before := c.Credential
	if c, err = k.mount.ChangeRoot(ctx, c.ID, func(r *Root) error {
		if r.Pending != nil || !equal(r.Credential, before) {
			return errChanged
		}
		r.Pending = pending
		return nil
	}); err != nil {
		return "", err
	}

	credential, err := c.Service.RotateRoot(ctx, name, generated, now, now.Add(rootLifetime))
	if err != nil {
		if e := (*connector.Error)(nil); errors.As(err, &e) && !e.Unsure {
			_, dropErr := k.dropPending(ctx, c, pending) // there is surely no other credential
			err = errors.Join(err, dropErr)
		}
		return "", err
	}
	if _, err := c.Service.As(credential).Check(ctx); err != nil {
		return "", errors.Join(err, k.giveBack(ctx, c, pending, credential))
	}
	rotated, err := k.mount.ChangeRoot(ctx, c.ID, func(r *Root) error {
		if err := r.unchanged(pending); err != nil {
			return err
		}
		if c.Service.Provider.Operations.RetireRoot != nil {
			r.Retiring = append(slices.Clone(r.Retiring), RetiringRoot{Credential: r.Credential, Since: now})
		}
		r.Credential, r.Pending, r.RotatedAt = credential, nil, now
		return nil
	})
	if errors.Is(err, errChanged) || errors.Is(err, ErrNoConnection) {
		return "", errors.Join(err, k.giveBack(ctx, c, pending, credential))
	}
	if err != nil {
		return "", fmt.Errorf("the new credential was not stored, the engine finds out what storage holds: %w", err)
	}
	k.Retry(c.ID)
	if _, err := k.retire(ctx, rotated); err != nil {
		return fmt.Sprintf("the credential was rotated, but the old one is not revoked at the service yet: %s", err), nil
	}
	return "", nil
}

// rotation keeps others from the credential of a connection.
type rotation struct {
	byQueue bool // which completes an earlier one, and takes no longer than some calls
	done    chan struct{}
}

// LockRoot keeps others from rotating the credential of a connection until done is called. It waits for the queue, and
// returns ErrRotating where another request has locked the credential.
func (k *Keeper) LockRoot(ctx context.Context, connectionID string) (done func(), err error) {
	mine := &rotation{done: make(chan struct{})}
	for {
		other, busy := k.rotating.LoadOrStore(connectionID, mine)
		if !busy {
			return func() {
				k.endRotation(connectionID, mine)
				k.queue.wake() // which has left the connection alone
			}, nil
		}
		if !other.(*rotation).byQueue {
			return nil, ErrRotating
		}
		select {
		case <-other.(*rotation).done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (k *Keeper) endRotation(connectionID string, mine *rotation) {
	k.rotating.Delete(connectionID)
	close(mine.done)
}

// giveBack revokes a credential that the service has made and the engine does not take. That the engine does not is
// stored first; what cannot be revoked now the queue revokes. Where the engine has chosen the credential, the queue
// finds out whether it is the only one that works.
func (k *Keeper) giveBack(ctx context.Context, c *Connection, pending *PendingRoot, credential map[string]any) error {
	if pending.Chosen != nil {
		return nil
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), RevokeWait)
	defer cancel()
	given, err := k.giveUpPending(ending, c, pending)
	if err != nil && !errors.Is(err, errChanged) && !errors.Is(err, ErrNoConnection) {
		return nil // storage: the queue does it
	}
	changed := err != nil
	if err := c.Service.As(credential).RetireRoot(ending); err != nil {
		k.log.Warn("credential that was not taken not revoked yet", "connection", c.Name, "error", err)
		return nil
	}
	if !changed && c.Service.Provider.Operations.RetireRoot != nil {
		_, err = k.dropPending(ending, given, given.Pending)
		return err
	}
	return nil
}

// giveUpPending stores that the engine does not take the credential that a rotation has asked for. From then on no
// write that is still on its way can have the engine take it.
func (k *Keeper) giveUpPending(ctx context.Context, c *Connection, pending *PendingRoot) (*Connection, error) {
	return k.mount.ChangeRoot(ctx, c.ID, func(r *Root) error {
		if err := r.unchanged(pending); err != nil {
			return err
		}
		given := *pending
		given.GivenUp = true
		r.Pending = &given
		return nil
	})
}

// dropPending stores that a rotation has left no credential at the service.
func (k *Keeper) dropPending(ctx context.Context, c *Connection, pending *PendingRoot) (*Connection, error) {
	return k.mount.ChangeRoot(ctx, c.ID, func(r *Root) error {
		if err := r.unchanged(pending); err != nil {
			return err
		}
		r.Pending = nil
		return nil
	})
}

// settleRoot completes the rotations of a connection that were cut short. Until that is done the queue goes on with
// the credential that is stored. It returns the connection as it is then.
func (k *Keeper) settleRoot(ctx context.Context, c *Connection) *Connection {
	k.queue.mu.Lock()
	wait := !c.Unsettled() || k.now().Before(k.queue.line(c.ID).root.Next)
	k.queue.mu.Unlock()
	mine := &rotation{byQueue: true, done: make(chan struct{})}
	if wait {
		return c
	}
	if _, rotating := k.rotating.LoadOrStore(c.ID, mine); rotating {
		return c
	}
	defer k.endRotation(c.ID, mine)
	now, err := k.Finish(ctx, c)
	k.queue.mu.Lock()
	defer k.queue.mu.Unlock()
	l := k.queue.line(c.ID)
	if l.rootError = err; err == nil {
		l.root = Attempt{}
		return now
	}
	now = c
	l.root = k.Timings.After(l.root, k.now(), 0)
	if !errors.Is(err, errUndecided) && ctx.Err() == nil {
		k.log.Warn("rotation of a credential not settled; trying again", "connection", c.Name, "error", err)
	}
	return now
}

// Finish completes the rotations of a connection that were cut short. The caller has locked its credential.
func (k *Keeper) Finish(ctx context.Context, c *Connection) (*Connection, error) {
	now, err := k.settlePending(ctx, c)
	if err != nil {
		return c, err
	}
	return k.retire(ctx, now)
}

// settlePending finds out what has become of a rotation that was cut short.
func (k *Keeper) settlePending(ctx context.Context, c *Connection) (*Connection, error) {
	pending := c.Pending
	switch {
	case pending == nil:
		return c, nil
	case c.Broken != nil:
		return c, c.Broken
	case pending.Chosen != nil:
		return k.settleChosen(ctx, c, pending)
	}
	// The service has made what has the name, or will, or nothing. It was never stored.
	if !pending.GivenUp {
		changed, err := k.giveUpPending(ctx, c, pending)
		if errors.Is(err, errChanged) { // storage says otherwise
			return k.mount.Connection(c.ID, c.Name)
		}
		if err != nil {
			return c, err
		}
		c, pending = changed, changed.Pending
	}
	if !c.Service.Provider.CanFindRoot() {
		k.log.Warn("a rotation was cut short, and the provider cannot find what it made: a credential may be left behind", "connection", c.Name, "since", pending.Since)
		return k.dropPending(ctx, c, pending)
	}
	found, err := c.Service.FindRoot(ctx, pending.Name)
	if err != nil {
		return c, err
	}
	for i := range found {
		if err := c.Service.RevokeRoot(ctx, &found[i]); err != nil && !errors.Is(err, connector.ErrGone) {
			return c, err
		}
		k.log.Info("credential whose rotation was cut short revoked", "connection", c.Name, "name", pending.Name)
	}
	if len(found) == 0 && k.tooEarly(c, pending) {
		return c, errUndecided
	}
	return k.dropPending(ctx, c, pending)
}

// tooEarly reports whether a call of a rotation may still arrive, or what it has made may not be listed yet.
func (k *Keeper) tooEarly(c *Connection, pending *PendingRoot) bool {
	k.queue.mu.Lock()
	l := k.queue.line(c.ID)
	looked := l.looks > 0
	l.looks++
	k.queue.mu.Unlock()
	return !looked || k.now().Sub(pending.Since) < k.Timings.Settle+c.Service.Client.Timeout()
}

// settleChosen finds out whether the service has taken a credential that the engine has chosen.
func (k *Keeper) settleChosen(ctx context.Context, c *Connection, pending *PendingRoot) (*Connection, error) {
	_, err := c.Service.As(pending.Chosen).Check(ctx)
	if err == nil {
		k.log.Info("the service has taken the credential that was chosen before an interruption", "connection", c.Name)
		return k.mount.ChangeRoot(ctx, c.ID, func(r *Root) error {
			if err := r.unchanged(pending); err != nil {
				return err
			}
			if c.Service.Provider.Operations.RetireRoot != nil {
				r.Retiring = append(slices.Clone(r.Retiring), RetiringRoot{Credential: r.Credential, Since: pending.Since})
			}
			r.Credential, r.Pending, r.RotatedAt = pending.Chosen, nil, pending.Since
			return nil
		})
	}
	if e := (*connector.Error)(nil); !errors.As(err, &e) || !e.Denied {
		return c, err
	}
	if _, err := c.Service.Check(ctx); err != nil {
		return c, err
	}
	if k.tooEarly(c, pending) {
		return c, errUndecided
	}
	return k.dropPending(ctx, c, pending)
}

// retire revokes the credentials that rotations have replaced.
func (k *Keeper) retire(ctx context.Context, c *Connection) (*Connection, error) {
	for _, old := range c.Retiring {
		if c.Broken != nil {
			return c, c.Broken
		}
		if !equal(old.Credential, c.Credential) {
			if err := k.retireOne(ctx, c, old); err != nil {
				return c, err
			}
		}
		changed, err := k.mount.ChangeRoot(ctx, c.ID, func(r *Root) error {
			r.Retiring = slices.DeleteFunc(slices.Clone(r.Retiring), func(r RetiringRoot) bool { return equal(r.Credential, old.Credential) })
			return nil
		})
		if err != nil {
			return c, err
		}
		c = changed
	}
	return c, nil
}

// retireOne revokes a credential. One that the service does not accept, while it accepts the one in use, is gone.
func (k *Keeper) retireOne(ctx context.Context, c *Connection, old RetiringRoot) error {
	err := c.Service.As(old.Credential).RetireRoot(ctx)
	if e := (*connector.Error)(nil); errors.As(err, &e) && e.Status == http.StatusUnauthorized {
		_, err = c.Service.Check(ctx)
	}
	return err
}
