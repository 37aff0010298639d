package upstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// createAttempts is how often a token is asked for whose creation ended unsure, under another name each time.
const createAttempts = 3

// Order is what a token is asked for with.
type Order struct {
	Connection *Ready
	NewName    func() (string, error) // of a token at the service, different each time
	Role       string
	RoleID     token.RoleID
	Params     map[string]any
	Subject    string        // Vault entity that asks; "": none
	StaticRole string        // that holds the token in place of a lease
	Leaseless  bool          // no lease revokes the token
	Reserve    func() error  // of Issue: called before a token is minted; its error is returned
	Reuse      time.Duration // for how long the token is given to others too; 0: not at all
	Now, End   time.Time     // when it is asked for, and until when it is to live
}

// Order returns what a token of a role is asked for with.
func (cs *Connections) Order(r *role.Role, mountPoint string, now, end time.Time) (*Order, error) {
	c := cs.Get(r.Connection)
	service, err := cs.service(r.Connection, c)
	if err != nil {
		return nil, fmt.Errorf("role %q: %w", r.Name(), err)
	}
	return &Order{
		Connection: &Ready{Connection: c, Service: service}, Role: r.Name(), RoleID: r.ID, Params: r.Params, Leaseless: r.NoLease, Now: now, End: end,
		NewName: func() (string, error) { return c.newTokenName(mountPoint, r.Name(), service.Provider.MaxName) },
	}, nil
}

// Minted is a token that was just made, or given again.
type Minted struct {
	Token                  // with Text and Data
	Hold    string         // what the lease of a shared token is to call itself
	End     time.Time      // until when the requester has it
	Granted map[string]any // params that the service granted otherwise than asked
}

// Issue returns a token for a requester: a new one, or where Reuse allows it one that others have too.
func (k *Keeper) Issue(ctx context.Context, o *Order) (*Minted, error) {
	if o.Reuse > 0 {
		return k.share(ctx, o)
	}
	if err := o.Reserve(); err != nil {
		return nil, err
	}
	return k.Mint(ctx, o)
}

// Mint creates a token. Storage knows of the token before the service does, so that whatever is cut short, the queue
// finds it by its name and revokes it.
func (k *Keeper) Mint(ctx context.Context, o *Order) (*Minted, error) {
	if o.Connection.Broken != nil {
		return nil, o.Connection.Broken
	}
	started := k.now()
	for attempt := 1; ; attempt++ {
		m, err := k.tryMint(ctx, o)
		var e *connector.Error
		again := errors.As(err, &e) && e.Unsure && attempt < createAttempts && ctx.Err() == nil &&
			k.now().Sub(started) < o.Connection.Service.Client.Timeout()/2
		if !again {
			return m, err
		}
	}
}

func (k *Keeper) tryMint(ctx context.Context, o *Order) (*Minted, error) {
	name, err := o.NewName()
	if err != nil {
		return nil, err
	}
	id, err := token.NewID(rand.Reader)
	if err != nil {
		return nil, err
	}
	k.Tokens.claimNew(id)
	defer k.Tokens.release(id)
	c := o.Connection
	if err := k.Tokens.announce(ctx, Token{
		ID: id, State: Creating, Connection: c.Name(), ConnectionID: c.ID, URL: c.URL, Role: o.Role, RoleID: o.RoleID,
		Subject: o.Subject, Name: name, Params: o.Params, CreatedAt: k.now().UTC(), EndsAt: o.End.UTC(),
		Leaseless: o.Leaseless || o.StaticRole != "", StaticRole: o.StaticRole, Shared: o.Reuse > 0,
	}); err != nil {
		return nil, err
	}
	created, err := c.Service.Create(ctx, name, o.Role, o.Params, o.Now, o.End)
	if err != nil {
		if e := (*connector.Error)(nil); errors.As(err, &e) && !e.Unsure {
			// There is surely no token. If this fails, the queue finds out.
			if err := k.Tokens.Forget(ctx, id); err != nil {
				k.log.Warn("token not created, and still stored until the queue finds that it does not exist", "name", name, "error", err)
			}
		}
		return nil, err
	}

	m := &Minted{Granted: created.Granted}
	take := func(t *Token) {
		t.State, t.LiveSince = Live, k.now().UTC()
		t.UpstreamID, t.Record, t.Hash = created.ID, created.Record, HashOf(created.Text)
		if !created.ExpiresAt.IsZero() {
			t.TokenEnd = created.ExpiresAt.UTC()
		}
		t.EndsAt = t.capped(t.EndsAt)
		m.Token = *t
		if c.Service.Provider.RevokeNeedsToken() || t.Shared {
			t.Text = created.Text
		}
		if t.Shared {
			t.Data = created.Data
		}
	}
	announced, _ := k.Tokens.Get(id)
	_, err = k.Tokens.change(ctx, id, Creating, take)
	switch {
	case (err == nil || errors.Is(err, ErrEnded)) && (k.Connections.deleted(c.ID) || k.roleDeleted(o.RoleID)):
		err = &connector.Error{Message: "the role or its connection was deleted meanwhile"}
	case errors.Is(err, ErrEnded):
		err = &connector.Error{Message: "another process has given the token up meanwhile"}
	case err == nil && !m.TokenEnd.IsZero() && !m.TokenEnd.After(k.now()):
		err = &connector.Error{Message: "the service made a token that has ended already"}
	}
	if err != nil {
		take(&announced)
		return nil, errors.Join(err, k.giveUp(ctx, c, &announced))
	}
	m.Text, m.Data, m.End = created.Text, created.Data, m.EndsAt
	return m, nil
}

// giveUp revokes a token that nobody gets. If that fails, the queue tries again; so it does where storage fails, by
// the name of the token.
func (k *Keeper) giveUp(ctx context.Context, c *Ready, t *Token) error {
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), RevokeWait)
	defer cancel()
	if k.Connections.deleted(c.ID) { // and with it what storage knew of the token
		if err := c.Service.Revoke(ending, t.atService()); err != nil {
			k.log.Warn("token left behind at a service whose connection was deleted", "connection", c.Name(), "name", t.Name, "error", err)
		}
		return k.Tokens.Forget(ending, t.ID)
	}
	if err := k.Tokens.abandon(ending, *t, k.now()); err != nil {
		k.log.Warn("token that nobody gets not stored as such", "connection", c.Name(), "name", t.Name, "error", err)
		if err := c.Service.Revoke(ending, t.atService()); err != nil && !errors.Is(err, connector.ErrGone) {
			k.log.Warn("token that nobody gets not revoked yet", "connection", c.Name(), "name", t.Name, "error", err)
		}
		return nil
	}
	if err := k.revoke(ending, c, t); err != nil {
		k.log.Warn("token that nobody gets not revoked yet; revocation queued", "connection", c.Name(), "name", t.Name, "error", err)
	}
	return nil
}

// share returns a token that others of the role have too, under a hold of its own; or it mints the next one, once for
// all who ask at the same time. A token is given again only if it is good for as long as is asked for.
func (k *Keeper) share(ctx context.Context, o *Order) (*Minted, error) {
	id, err := token.NewID(rand.Reader)
	if err != nil {
		return nil, err
	}
	name, key := id.String(), shareKey(o.RoleID, o.Params)
	for ctx.Err() == nil {
		t, found := k.Tokens.young(key, o.Now.Add(-o.Reuse), o.End)
		if !found {
			made, err, _ := k.minting.Do(key, func() (any, error) {
				if err := o.Reserve(); err != nil {
					return nil, err
				}
				long := *o
				long.End = o.End.Add(o.Reuse) // the last requester must get the full ttl too
				m, err := k.Mint(context.WithoutCancel(ctx), &long)
				if err != nil {
					return nil, err
				}
				return m.ID, nil
			})
			if err != nil {
				return nil, err
			}
			// It is good for less than is asked for where the service gives no more.
			if t, found = k.Tokens.Get(made.(token.ID)); !found {
				continue
			}
		}
		end, err := k.Tokens.hold(ctx, t.ID, name, o.Subject, o.End, k.now())
		if errors.Is(err, ErrEnded) {
			continue // just now
		}
		if err != nil {
			return nil, err
		}
		if !end.After(k.now()) {
			return nil, errors.Join(&connector.Error{Message: "the service made a token that has ended already"}, k.Unhold(ctx, t.ID, name))
		}
		return &Minted{Token: t, Hold: name, End: end}, nil
	}
	return nil, ctx.Err()
}
