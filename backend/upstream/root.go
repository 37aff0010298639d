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

	// rootLifetime is the requested lifetime of a new credential if the service limits the lifetime of credentials.
	rootLifetime = 364 * 24 * time.Hour

	// maxRetiring is the largest number of replaced credentials that are not revoked yet. Each is in the connection's
	// entry. At the limit the operator must find out why the service refuses the revocations.
	maxRetiring = 8
)

// Root is the credential of a connection, and the unfinished work of its rotations. Both are in the connection's entry,
// so that one write makes each step of a rotation: after any interruption the entry has a credential that works, and
// names every other credential that may exist at the service.
type Root struct {
	Credential map[string]any `json:"credential"`
	MadeName   string         `json:"made_name,omitzero"` // of Credential at the service if a rotation made it
	Pending    *PendingRoot   `json:"pending,omitzero"`   // an unfinished rotation; nil if there is none
	Retiring   []RetiringRoot `json:"retiring,omitzero"`  // replaced credentials that are not revoked yet
	RotatedAt  time.Time      `json:"rotated_at"`         // zero if the credential was never rotated
	Made       bool           `json:"made,omitzero"`      // a rotation made Credential: only the engine knows it
}

// PendingRoot is a credential that a rotation has requested and that the service may have made.
type PendingRoot struct {
	Name   string         `json:"name"`             // of the credential at the service
	Chosen map[string]any `json:"chosen,omitempty"` // the credential if the engine chooses it; nil if the service does
	Since  time.Time      `json:"since"`

	// GivenUp is true once the engine will not use the credential: a credential with the name must be revoked.
	GivenUp bool `json:"given_up,omitempty"`
}

// RetiringRoot is a credential that was replaced.
type RetiringRoot struct {
	Credential map[string]any `json:"credential"`
	Name       string         `json:"name,omitzero"` // at the service if a rotation made the credential
}

// unsettled reports whether rotations have left work to do.
func (r *Root) unsettled() bool { return r.Pending != nil || len(r.Retiring) > 0 }

// left describes the work that rotations have left, for the operator. It returns "" if there is none.
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

// replace uses the credential that an operator gives. The credentials that rotations have made must still be revoked,
// except the given one.
func (r *Root) replace(credential map[string]any, p *connector.Provider) {
	if some, _ := p.CommonSecrets(r.Credential, credential); !some {
		if r.Made && p.Operations.RetireRoot != nil {
			r.Retiring = append(slices.Clone(r.Retiring), RetiringRoot{Credential: r.Credential, Name: r.MadeName})
		}
		r.Made, r.MadeName = false, ""
	}
	r.Credential = credential
	if r.Pending != nil {
		if r.Pending.Chosen != nil {
			r.Pending = nil // the service has only one credential, the given one
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

// take uses the credential that a rotation has made. The replaced credential must be revoked if the provider can do so.
func (r *Root) take(credential map[string]any, p *connector.Provider, at time.Time) {
	if p.Operations.RetireRoot != nil {
		r.Retiring = append(slices.Clone(r.Retiring), RetiringRoot{Credential: r.Credential, Name: r.MadeName})
	}
	if r.Pending != nil {
		r.MadeName = r.Pending.Name
	}
	r.Credential, r.Pending, r.RotatedAt, r.Made = credential, nil, at, true
}

// madeNames returns the names at the service of the credentials that rotations have made and that may exist.
func (r *Root) madeNames() []string {
	var names []string
	if r.MadeName != "" {
		names = append(names, r.MadeName)
	}
	if r.Pending != nil {
		names = append(names, r.Pending.Name)
	}
	for _, old := range r.Retiring {
		if old.Name != "" {
			names = append(names, old.Name)
		}
	}
	return names
}

// leave drops the unfinished work of rotations: the service must not be called any more.
func (r *Root) leave() { r.Pending, r.Retiring = nil, nil }

// equal reports whether two credentials are the same. It compares texts, since a number has another type after it was
// read from storage.
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
	// errRotating is returned if another request rotates the credential.
	errRotating = errors.New("the credential is being rotated already")

	// errNoConnection is returned if the connection was deleted.
	errNoConnection = errors.New("the connection was deleted")

	errRetiring = errors.New("too many replaced credentials are not revoked yet: see root of the connection's queue")

	// errUndecided is returned while the outcome of an earlier rotation is not known.
	errUndecided = errors.New("the service may still make or accept the credential of that rotation: try again in two minutes")

	// errChanged is returned if the connection was changed since it was read.
	errChanged = errors.New("the connection was changed meanwhile")
)

// unchanged returns errChanged if pending is no longer the pending rotation.
func (r *Root) unchanged(pending *PendingRoot) error {
	if r.Pending == nil || r.Pending.Name != pending.Name || r.Pending.GivenUp != pending.GivenUp {
		return errChanged
	}
	return nil
}

// settleRoot completes the interrupted rotations of a connection, and returns the connection. If settleRoot fails, the
// queue goes on with the stored credential.
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
		k.log.Warn("rotation of a credential not settled; retry scheduled", "connection", c.Name(), "error", err)
	}
	return now
}

// finishRotations completes the interrupted rotations of a connection. The caller has locked the credential.
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

// latest reads a connection from storage again. Another process may use a credential that this process has replaced.
func (k *Keeper) latest(ctx context.Context, c *Ready) (*Ready, error) {
	errSeen := errors.New("nothing is to be changed")
	if _, err := k.changeRoot(ctx, c.ID, func(*Root) error { return errSeen }); !errors.Is(err, errSeen) {
		return nil, err
	}
	return k.Connections.readyByID(c.ID, c.Name())
}

// settlePending finds out how an interrupted rotation ended.
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
	// The service may have made a credential with the name, or may still make one. Its secret was never stored, so that
	// the credential can only be revoked.
	if !pending.GivenUp {
		changed, err := k.giveUpPending(ctx, c, pending)
		if errors.Is(err, errChanged) { // another process has settled the rotation
			return k.Connections.readyByID(c.ID, c.Name())
		}
		if err != nil {
			return c, err
		}
		c, pending = changed, changed.Pending
	}
	if !c.Service.Provider.CanFindRoot() {
		k.log.Warn("rotation interrupted; credential at the service neither found nor revoked", "connection", c.Name(), "since", pending.Since)
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
		k.log.Info("credential of an interrupted rotation revoked", "connection", c.Name(), "name", pending.Name)
	}
	if k.tooEarly(c, pending) { // a proxy may repeat the call, and the service make a second credential
		return c, errUndecided
	}
	return k.dropPending(ctx, c, pending)
}

// tooEarly reports whether a call of a rotation may still arrive, or whether the service may not list the new credential
// yet. The time counts from this process's first search, since another process with another clock may have begun the
// rotation.
func (k *Keeper) tooEarly(c *Ready, pending *PendingRoot) bool {
	k.queue.mu.Lock()
	defer k.queue.mu.Unlock()
	l, now := k.queue.line(c.ID), k.now()
	if l.searchedFor != pending.Name {
		l.searchedFor, l.searched = pending.Name, now
	}
	return now.Sub(l.searched) < k.Timings.Settle+c.Service.Client.Timeout()
}

// settleChosen finds out whether the service accepts a credential that the engine has chosen.
func (k *Keeper) settleChosen(ctx context.Context, c *Ready, pending *PendingRoot) (*Ready, error) {
	_, err := c.Service.As(pending.Chosen).Check(ctx)
	if err == nil {
		k.log.Info("interrupted rotation of a credential completed", "connection", c.Name())
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

// retireOne revokes a replaced credential. If the service rejects that credential and accepts the one in use, the
// replaced credential is already revoked.
func (k *Keeper) retireOne(ctx context.Context, c *Ready, old RetiringRoot) error {
	err := c.Service.As(old.Credential).RetireRoot(ctx)
	if e := (*connector.Error)(nil); errors.As(err, &e) && e.Status == http.StatusUnauthorized {
		_, err = c.Service.Check(ctx)
	}
	return err
}
