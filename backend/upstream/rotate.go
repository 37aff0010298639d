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

// notRotated is the reason why a credential was not rotated if neither the engine nor its storage is at fault.
type notRotated struct{ reason error }

func (e *notRotated) Error() string { return e.reason.Error() }

// RotateRoot replaces the credential of a connection by a credential that only the engine knows. It returns a warning
// for the operator if the old credential is not revoked yet.
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
	if k.Rotated != nil && ctx.Err() == nil {
		k.Rotated(err)
	}
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
			_, dropErr := k.dropPending(ctx, c, pending) // the service has made no credential
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
		return "", fmt.Errorf("the new credential was not stored: the queue completes or undoes the rotation: %w", err)
	}
	k.Retry(c.ID)
	if _, err := k.retire(ctx, rotated); err != nil {
		return fmt.Sprintf("the credential was rotated, but the old one is not revoked at the service yet: %s", err), nil
	}
	return "", nil
}

// beginRotation settles an earlier rotation and stores the name of the next credential. It returns the stored
// connection, the stored PendingRoot, and a random text that a provider may use as the new secret.
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
	if c.Broken != nil { // since the check above
		_, err := k.dropPending(ctx, c, pending)
		return nil, nil, "", errors.Join(&notRotated{c.Broken}, err)
	}
	return c, pending, generated, nil
}

// rotation is the lock of a connection's credential.
type rotation struct {
	byQueue bool // the queue completes an earlier rotation, which takes a few calls at most
	done    chan struct{}
}

// lockRoot locks the credential of a connection until done is called. It waits for the queue. It returns errRotating if
// another request has locked the credential.
func (k *Keeper) lockRoot(ctx context.Context, connectionID string) (done func(), err error) {
	mine := &rotation{done: make(chan struct{})}
	for {
		other, busy := k.rotating.LoadOrStore(connectionID, mine)
		if !busy {
			return func() {
				k.endRotation(connectionID, mine)
				k.queue.wake() // the queue skips a locked credential
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

// giveBack revokes a new credential that the engine will not use. It stores GivenUp first. The queue retries a failed
// revocation. If the engine has chosen the credential, it may be the only one that works: giveBack leaves the decision
// to the queue.
func (k *Keeper) giveBack(ctx context.Context, c *Ready, pending *PendingRoot, credential map[string]any) error {
	if pending.Chosen != nil {
		return nil
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), RevokeWait)
	defer cancel()
	given, err := k.giveUpPending(ending, c, pending)
	if err != nil && !errors.Is(err, errChanged) && !errors.Is(err, errNoConnection) {
		return nil // storage failed: the queue revokes the credential
	}
	changed := err != nil
	if err := c.Service.As(credential).RetireRoot(ending); err != nil {
		k.log.Warn("unused credential not revoked; revocation queued", "connection", c.Name(), "error", err)
		return nil
	}
	if !changed && c.Service.Provider.Operations.RetireRoot != nil {
		_, err = k.dropPending(ending, given, given.Pending)
		return err
	}
	return nil
}

// giveUpPending stores that the engine will not use the requested credential. A later write of another process can no
// longer take the credential into use.
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

// dropPending stores that no pending credential exists at the service.
func (k *Keeper) dropPending(ctx context.Context, c *Ready, pending *PendingRoot) (*Ready, error) {
	return k.changeRoot(ctx, c.ID, func(r *Root) error {
		if err := r.unchanged(pending); err != nil {
			return err
		}
		r.Pending = nil
		return nil
	})
}
