package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/hashicorp/go-secure-stdlib/base62"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
)

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
	if c, err = k.latest(ctx, c); err != nil {
		return "", err
	}
	if c, err = k.settlePending(ctx, c); err != nil {
		return "", fmt.Errorf("an earlier rotation is not settled yet: %w", err)
	}
	if c.Broken != nil {
		return "", &NotRotated{c.Broken}
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
	if c.Broken != nil { // just now
		_, err := k.dropPending(ctx, c, pending)
		return "", errors.Join(&NotRotated{c.Broken}, err)
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
		r.take(credential, c.Service.Provider, now)
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
