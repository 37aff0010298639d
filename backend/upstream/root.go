package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"time"

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
	Made       bool           `json:"made,omitzero"`     // by a rotation: nobody but the engine knows the credential
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
}

// unsettled reports whether a rotation has left something to do.
func (r *Root) unsettled() bool { return r.Pending != nil || len(r.Retiring) > 0 }

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

// replace takes over a credential that an operator gives. What rotations have made at the service stays to be revoked,
// unless it is what is given.
func (r *Root) replace(credential map[string]any, p *connector.Provider) {
	if some, _ := p.CommonSecrets(r.Credential, credential); !some {
		if r.Made && p.Operations.RetireRoot != nil {
			r.Retiring = append(slices.Clone(r.Retiring), RetiringRoot{Credential: r.Credential})
		}
		r.Made = false
	}
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
	r.Retiring = slices.DeleteFunc(slices.Clone(r.Retiring), func(old RetiringRoot) bool {
		_, same := p.CommonSecrets(old.Credential, credential)
		return same
	})
}

// take has a credential used that a rotation has made. The one before is to be revoked, where the service can.
func (r *Root) take(credential map[string]any, p *connector.Provider, at time.Time) {
	if p.Operations.RetireRoot != nil {
		r.Retiring = append(slices.Clone(r.Retiring), RetiringRoot{Credential: r.Credential})
	}
	r.Credential, r.Pending, r.RotatedAt, r.Made = credential, nil, at, true
}

// leave drops what rotations have left to do at a service that is not to be called any more.
func (r *Root) leave() { r.Pending, r.Retiring = nil, nil }

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
	// errRotating says that another request rotates the credential.
	errRotating = errors.New("the credential is being rotated already")

	// errNoConnection says that a connection was deleted.
	errNoConnection = errors.New("the connection was deleted")

	errRetiring = errors.New("too many credentials that were replaced are not revoked yet: see root of the connection's queue")

	// errUndecided says that it is too early to tell what has become of a rotation.
	errUndecided = errors.New("the service may still make or take the credential of that rotation: try again in two minutes")

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

// settleRoot completes the rotations of a connection that were cut short. Until that is done the queue goes on with
// the credential that is stored. It returns the connection as it is then.
func (k *Keeper) settleRoot(ctx context.Context, c *Ready) *Ready {
	k.queue.mu.Lock()
	wait := !c.unsettled() || k.now().Before(k.queue.line(c.ID).root.Next)
	k.queue.mu.Unlock()
	mine := &rotation{byQueue: true, done: make(chan struct{})}
	if wait {
		return c
	}
	if _, rotating := k.rotating.LoadOrStore(c.ID, mine); rotating {
		return c
	}
	defer k.endRotation(c.ID, mine)
	now, err := k.finishRotations(ctx, c)
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
		k.log.Warn("rotation of a credential not settled; trying again", "connection", c.Name(), "error", err)
	}
	return now
}

// finishRotations completes the rotations of a connection that were cut short. The caller has locked its credential.
func (k *Keeper) finishRotations(ctx context.Context, c *Ready) (*Ready, error) {
	stored, err := k.latest(ctx, c)
	if err != nil {
		return c, err
	}
	now, err := k.settlePending(ctx, stored)
	if err != nil {
		return c, err
	}
	return k.retire(ctx, now)
}

// latest returns a connection as storage has it: what one process remembers as replaced, another may have taken back.
func (k *Keeper) latest(ctx context.Context, c *Ready) (*Ready, error) {
	errSeen := errors.New("nothing is to be changed")
	if _, err := k.changeRoot(ctx, c.ID, func(*Root) error { return errSeen }); !errors.Is(err, errSeen) {
		return nil, err
	}
	return k.Connections.readyByID(c.ID, c.Name())
}

// settlePending finds out what has become of a rotation that was cut short.
func (k *Keeper) settlePending(ctx context.Context, c *Ready) (*Ready, error) {
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
			return k.Connections.readyByID(c.ID, c.Name())
		}
		if err != nil {
			return c, err
		}
		c, pending = changed, changed.Pending
	}
	if !c.Service.Provider.CanFindRoot() {
		k.log.Warn("a rotation was cut short, and the provider cannot find what it made: a credential may be left behind", "connection", c.Name(), "since", pending.Since)
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
		k.log.Info("credential whose rotation was cut short revoked", "connection", c.Name(), "name", pending.Name)
	}
	if k.tooEarly(c, pending) { // also for a second one, of a call that a proxy repeats
		return c, errUndecided
	}
	return k.dropPending(ctx, c, pending)
}

// tooEarly reports whether a call of a rotation may still arrive, or what it has made may not be listed yet. The time
// counts from the first search of this process: the clock of the one that has begun the rotation may be another.
func (k *Keeper) tooEarly(c *Ready, pending *PendingRoot) bool {
	k.queue.mu.Lock()
	defer k.queue.mu.Unlock()
	l, now := k.queue.line(c.ID), k.now()
	if l.searchedFor != pending.Name {
		l.searchedFor, l.searched = pending.Name, now
	}
	return now.Sub(l.searched) < k.Timings.Settle+c.Service.Client.Timeout()
}

// settleChosen finds out whether the service has taken a credential that the engine has chosen.
func (k *Keeper) settleChosen(ctx context.Context, c *Ready, pending *PendingRoot) (*Ready, error) {
	_, err := c.Service.As(pending.Chosen).Check(ctx)
	if err == nil {
		k.log.Info("the service has taken the credential that was chosen before an interruption", "connection", c.Name())
		return k.changeRoot(ctx, c.ID, func(r *Root) error {
			if err := r.unchanged(pending); err != nil {
				return err
			}
			r.take(pending.Chosen, c.Service.Provider, pending.Since)
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
func (k *Keeper) retire(ctx context.Context, c *Ready) (*Ready, error) {
	for _, old := range c.Retiring {
		if c.Broken != nil {
			return c, c.Broken
		}
		if _, same := c.Service.Provider.CommonSecrets(old.Credential, c.Credential); !same {
			if err := k.retireOne(ctx, c, old); err != nil {
				return c, err
			}
		}
		changed, err := k.changeRoot(ctx, c.ID, func(r *Root) error {
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
func (k *Keeper) retireOne(ctx context.Context, c *Ready, old RetiringRoot) error {
	err := c.Service.As(old.Credential).RetireRoot(ctx)
	if e := (*connector.Error)(nil); errors.As(err, &e) && e.Status == http.StatusUnauthorized {
		_, err = c.Service.Check(ctx)
	}
	return err
}
