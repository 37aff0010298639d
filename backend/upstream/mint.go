package upstream

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// createAttempts is how many create calls a request makes if their outcome is unknown, each with a new name.
const createAttempts = 3

// mint creates a token at a service. The token is stored before the service is called: if mint is interrupted, the queue
// finds the token by its name and revokes the token.
func (k *Keeper) mint(ctx context.Context, c *Ready, q *IssueRequest) (*Minted, error) {
	started := k.now()
	for attempt := 1; ; attempt++ {
		m, err := k.tryMint(ctx, c, q)
		var e *connector.Error
		again := errors.As(err, &e) && e.Unsure && attempt < createAttempts && ctx.Err() == nil &&
			k.now().Sub(started) < c.CallTimeout()/2
		if !again {
			return m, err
		}
	}
}

func (k *Keeper) tryMint(ctx context.Context, c *Ready, q *IssueRequest) (*Minted, error) {
	name, err := c.newTokenName(q.MountPoint, q.Role.Name(), c.Service.Provider.MaxName)
	if err != nil {
		return nil, err
	}
	id, err := token.NewID(rand.Reader)
	if err != nil {
		return nil, err
	}
	k.Tokens.claimNew(id)
	defer k.Tokens.release(id)
	if err := k.Tokens.announce(ctx, Token{
		ID: id, State: Creating, Connection: c.Name(), ConnectionID: c.ID, URL: c.URL, Role: q.Role.Name(), RoleID: q.Role.ID,
		Subject: q.Subject, Name: name, Params: q.Role.Params, CreatedAt: k.now().UTC(), EndsAt: q.End.UTC(),
		Leaseless: q.Role.NoLease || q.StaticRole != "", StaticRole: q.StaticRole, Shared: q.shared(),
	}); err != nil {
		return nil, err
	}
	created, err := c.Service.Create(ctx, name, q.Role.Name(), q.Role.Params, q.Now, q.End)
	if err != nil {
		if e := (*connector.Error)(nil); errors.As(err, &e) && !e.Unsure {
			// The service has created no token. If Forget fails, the queue searches for the token and forgets it.
			if err := k.Tokens.Forget(ctx, id); err != nil {
				k.log.Warn("entry of an uncreated token not deleted; deletion queued", "name", name, "error", err)
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
	case (err == nil || errors.Is(err, ErrRevoked)) && (k.Connections.deleted(c.ID) || k.roleDeleted(q.Role.ID)):
		err = &connector.Error{Message: "the role or its connection was deleted meanwhile"}
	case errors.Is(err, ErrRevoked):
		err = &connector.Error{Message: "another process has revoked the token meanwhile"}
	case err == nil && !m.TokenEnd.IsZero() && !m.TokenEnd.After(k.now()):
		err = &connector.Error{Message: "the service created a token that has already expired"}
	}
	if err != nil {
		take(&announced)
		return nil, errors.Join(err, k.giveUp(ctx, c, &announced))
	}
	m.Text, m.Data, m.End = created.Text, created.Data, m.EndsAt
	return m, nil
}

// giveUp revokes an undelivered token. If the service fails, the queue retries the revocation. If storage fails, the
// entry stays Creating, and the queue finds the token by its name.
func (k *Keeper) giveUp(ctx context.Context, c *Ready, t *Token) error {
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), RevokeWait)
	defer cancel()
	if k.Connections.deleted(c.ID) { // with the entries of its tokens
		if err := c.Service.Revoke(ending, t.atService()); err != nil {
			k.log.Warn("token of a deleted connection not revoked", "connection", c.Name(), "name", t.Name, "error", err)
		}
		return k.Tokens.Forget(ending, t.ID)
	}
	if err := k.Tokens.abandon(ending, *t, k.now()); err != nil {
		k.log.Warn("state of an undelivered token not stored", "connection", c.Name(), "name", t.Name, "error", err)
		if err := c.Service.Revoke(ending, t.atService()); err != nil && !errors.Is(err, connector.ErrGone) {
			k.log.Warn("undelivered token not revoked; revocation queued", "connection", c.Name(), "name", t.Name, "error", err)
		}
		return nil
	}
	if err := k.revoke(ending, c, t); err != nil {
		k.log.Warn("undelivered token not revoked; revocation queued", "connection", c.Name(), "name", t.Name, "error", err)
	}
	return nil
}
