package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/go-secure-stdlib/base62"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// notRotated is the reason why a credential was not rotated, if the reason is not a fault of the engine or its storage.
type notRotated struct{ reason error }

func (e *notRotated) Error() string { return e.reason.Error() }

// RotateRoot replaces the credential of a connection by one that only the engine knows. The warning, if any, is for the
// operator.
func (k *Keeper) RotateRoot(ctx context.Context, connection, mountPoint string) (warning string, _ error) {
	c, err := k.Connections.find(connection)
	if err != nil {
		return "", err
	}
	p := c.Service.Provider
	if !p.CanRotateRoot() {
		return "", refusal.Field("name", "provider %q cannot rotate its credential", p.Name)
	}
	name, err := c.newTokenName(mountPoint, "root", p.MaxName)
	if err != nil {
		return "", err
	}
	warning, err = k.rotate(ctx, c, name)
	if isNotRotated(err) {
		return "", refusal.New("connection %q: the credential was not rotated: %s", c.Name(), err)
	}
	return warning, err
}

func isNotRotated(err error) bool {
	if errors.As(err, new(*connector.Error)) || errors.As(err, new(*notRotated)) {
		return true
	}
	return slices.ContainsFunc([]error{errRotating, errRetiring, errUndecided, errChanged, errNoConnection}, func(reason error) bool {
		return errors.Is(err, reason)
	})
}

// rotate rotates the credential of a connection. The new credential has the name at the service.
//
// The name, and a credential that the engine chooses, are stored before the engine calls the service. One write stores
// the new credential, drops the name, and marks the old credential to be revoked. Only then is the old credential revoked.
func (k *Keeper) rotate(ctx context.Context, c *Ready, name string) (warning string, err error) {
	done, err := k.lockRoot(ctx, c.ID)
	if err != nil {
		return "", err
	}
	defer done()
	c, pending, generated, err := k.beginRotation(ctx, c, name)
	if err != nil {
		return "", err
	}
	credential, err := c.Service.RotateRoot(ctx, name, generated, pending.Since, pending.Since.Add(rootLifetime))
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
	rotated, err := k.changeRoot(ctx, c.ID, func(r *Root) error {
		if err := r.unchanged(pending); err != nil {
			return err
		}
		r.take(credential, c.Service.Provider, pending.Since)
		return nil
	})
	if errors.Is(err, errChanged) || errors.Is(err, errNoConnection) {
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

// beginRotation settles an earlier rotation and stores the name of the next credential. It returns the connection as
// stored, what it stored, and a random text of which a provider may make the credential.
func (k *Keeper) beginRotation(ctx context.Context, c *Ready, name string) (_ *Ready, _ *PendingRoot, generated string, err error) {
	if c, err = k.latest(ctx, c); err != nil {
		return nil, nil, "", err
	}
	if c, err = k.settlePending(ctx, c); err != nil {
		return nil, nil, "", fmt.Errorf("an earlier rotation is not settled yet: %w", err)
	}
	if c.Broken != nil {
		return nil, nil, "", &notRotated{c.Broken}
	}
	if len(c.Retiring) >= maxRetiring {
		return nil, nil, "", errRetiring
	}
	if generated, err = base62.Random(generatedLen); err != nil {
		return nil, nil, "", err
	}
	pending := &PendingRoot{Name: name, Since: k.now().UTC()}
	if chosen := c.Service.Provider.Generates(generated); chosen != nil {
		pending.Chosen = maps.Clone(c.Credential)
		maps.Copy(pending.Chosen, chosen)
	}
	before := c.Credential
	if c, err = k.changeRoot(ctx, c.ID, func(r *Root) error {
		if r.Pending != nil || !equal(r.Credential, before) {
			return errChanged
		}
		r.Pending = pending
		return nil
	}); err != nil {
		return nil, nil, "", err
	}
	if c.Broken != nil { // just now
		_, err := k.dropPending(ctx, c, pending)
		return nil, nil, "", errors.Join(&notRotated{c.Broken}, err)
	}
	return c, pending, generated, nil
}

// rotation keeps others from the credential of a connection.
type rotation struct {
	byQueue bool // which completes an earlier one, and takes no longer than some calls
	done    chan struct{}
}

// lockRoot keeps others from rotating the credential of a connection until done is called. It waits for the queue, and
// returns errRotating where another request has locked the credential.
func (k *Keeper) lockRoot(ctx context.Context, connectionID string) (done func(), err error) {
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
			return nil, errRotating
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
func (k *Keeper) giveBack(ctx context.Context, c *Ready, pending *PendingRoot, credential map[string]any) error {
	if pending.Chosen != nil {
		return nil
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), RevokeWait)
	defer cancel()
	given, err := k.giveUpPending(ending, c, pending)
	if err != nil && !errors.Is(err, errChanged) && !errors.Is(err, errNoConnection) {
		return nil // storage: the queue does it
	}
	changed := err != nil
	if err := c.Service.As(credential).RetireRoot(ending); err != nil {
		k.log.Warn("credential that was not taken not revoked yet", "connection", c.Name(), "error", err)
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
func (k *Keeper) giveUpPending(ctx context.Context, c *Ready, pending *PendingRoot) (*Ready, error) {
	return k.changeRoot(ctx, c.ID, func(r *Root) error {
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
func (k *Keeper) dropPending(ctx context.Context, c *Ready, pending *PendingRoot) (*Ready, error) {
	return k.changeRoot(ctx, c.ID, func(r *Root) error {
		if err := r.unchanged(pending); err != nil {
			return err
		}
		r.Pending = nil
		return nil
	})
}
