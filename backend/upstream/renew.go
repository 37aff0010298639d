package upstream

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Renewal asks for a longer life of a token.
type Renewal struct {
	ID   token.ID
	Hold string // hold ID of a shared token; empty if the token is not shared
	Now  time.Time

	// TTL returns how long the lease of a token of a role is to live from Now.
	TTL func(r *role.Role) (time.Duration, error)
}

// Renew has a token live longer. It returns for how long the lease is renewed.
func (k *Keeper) Renew(ctx context.Context, q *Renewal) (ttl time.Duration, _ error) {
	t, known, err := k.Tokens.Find(ctx, q.ID)
	if err != nil {
		return 0, err
	}
	if !known || t.State != Live {
		return 0, notRenewed("it is revoked")
	}
	r := k.mount.Roles().ByID(t.RoleID)
	if r == nil {
		return 0, refusal.New("role %q was deleted after the token was issued: it cannot be renewed", t.Role)
	}
	service, err := k.Connections.service(t.Connection, k.Connections.ByID(t.ConnectionID))
	if err != nil {
		return 0, notRenewed("%w", err)
	}
	if !service.Provider.CanRenew() {
		return 0, notRenewed("provider %q cannot move the end of a token", service.Provider.Name)
	}
	if ttl, err = q.TTL(r); err != nil {
		return 0, notRenewed("%w", err)
	}
	latest, unlock, err := k.renewing.lock(ctx, t.ID, q.Now.Add(ttl))
	if err != nil {
		return 0, err
	}
	defer unlock()
	if now := k.now().UTC(); now.Sub(q.Now) >= time.Second { // it waited: the lease lives for ttl from the late answer on
		late := *q
		late.Now, q = now, &late
		if ttl, err = q.TTL(r); err != nil {
			return 0, notRenewed("%w", err)
		}
	}
	end, err := k.renew(ctx, service, &t, q, q.Now.Add(ttl), latest)
	switch {
	case errors.Is(err, ErrRevoked):
		return 0, notRenewed("it is revoked")
	case errors.As(err, new(*connector.Error)):
		return 0, refusal.New("connection %q: the token was not renewed: %w", service.Connection, err)
	case err != nil:
		return 0, err
	}
	if ttl = min(ttl, end.Sub(q.Now).Truncate(time.Second)); ttl <= 0 {
		return 0, notRenewed("the service ends it at %s", end.Format(time.RFC3339))
	}
	return ttl, nil
}

func notRenewed(format string, args ...any) error {
	return refusal.New("the token cannot be renewed: "+format, args...)
}

// renew has a token live until end. latest is the latest end that any renewal of the token wants. renew returns when the token
// really ends; ErrRevoked if the token was revoked meanwhile. The caller has locked the token in k.renewing.
func (k *Keeper) renew(
	ctx context.Context, service *connector.Service, t *Token, q *Renewal, end, latest time.Time,
) (time.Time, error) {
	if q.Hold == "" {
		return k.moveEnd(ctx, service, t, q.Now, end)
	}
	if now, known := k.Tokens.Get(t.ID); known {
		t = &now
	}
	// The end of a shared token never moves back, since another lease may need the token.
	if service.Provider.Operations.Renew != nil && t.EndsAt.Before(end) {
		if latest.Before(end) {
			latest = end
		}
		if _, err := k.moveEnd(ctx, service, t, q.Now, latest); err != nil {
			return time.Time{}, err
		}
	}
	return k.Tokens.moveHold(ctx, t.ID, q.Hold, end, q.Now)
}

// moveEnd moves the end of a token at the service, then in storage. It returns when the token really ends.
func (k *Keeper) moveEnd(ctx context.Context, service *connector.Service, t *Token, now, end time.Time) (time.Time, error) {
	said, err := service.Renew(ctx, t.atService(), now, end)
	if err != nil {
		return time.Time{}, err
	}
	moved := service.Provider.Operations.Renew != nil // at the service
	renewed, err := k.Tokens.change(ctx, t.ID, Live, func(t *Token) {
		if moved {
			t.TokenEnd = said.UTC()
		}
		t.EndsAt = t.capped(end).UTC()
	})
	return renewed.EndsAt, err
}

// renewals are the tokens that are being renewed. The service must move the end of a token in the order in which the
// engine stores the ends: the shorter of two renewals at once would otherwise end a shared token before its other lease.
type renewals struct {
	mu     sync.Mutex
	tokens map[token.ID]*turn
}

type turn struct {
	taken  chan struct{} // holds one value while somebody renews the token
	users  int           // that renew the token, or wait
	latest time.Time     // end that any of them wants
}

// lock waits until nobody else renews a token. It returns the latest end that anybody waiting wants, so that one request to
// the service serves all.
func (rs *renewals) lock(ctx context.Context, id token.ID, end time.Time) (latest time.Time, unlock func(), _ error) {
	rs.mu.Lock()
	t := rs.tokens[id]
	if t == nil {
		t = &turn{taken: make(chan struct{}, 1)}
		rs.tokens[id] = t
	}
	t.users++
	if end.After(t.latest) {
		t.latest = end
	}
	rs.mu.Unlock()
	leave := func() {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(rs.tokens, id)
		}
	}
	select {
	case t.taken <- struct{}{}:
		rs.mu.Lock()
		defer rs.mu.Unlock()
		return t.latest, func() { <-t.taken; leave() }, nil
	case <-ctx.Done():
		leave()
		return time.Time{}, nil, context.Cause(ctx)
	}
}
