package upstream

import (
	"context"
	"errors"
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
	end, err := k.renew(ctx, service, &t, q, q.Now.Add(ttl))
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

// renew has a token live until end. It returns when the token really ends; ErrRevoked if the token was revoked meanwhile.
func (k *Keeper) renew(ctx context.Context, service *connector.Service, t *Token, q *Renewal, end time.Time) (time.Time, error) {
	asked := end
	if q.Hold != "" && t.EndsAt.After(end) {
		asked = t.EndsAt // that of another lease
	}
	said, err := service.Renew(ctx, t.atService(), q.Now, asked)
	if err != nil {
		return time.Time{}, err
	}
	moved := service.Provider.Operations.Renew != nil // at the service
	if q.Hold == "" || moved {
		renewed, err := k.Tokens.change(ctx, t.ID, Live, func(t *Token) {
			if moved {
				t.TokenEnd = said.UTC()
			}
			t.EndsAt = t.capped(asked).UTC()
		})
		if err != nil {
			return time.Time{}, err
		}
		t = &renewed
	}
	if q.Hold == "" {
		return t.EndsAt, nil
	}
	return k.Tokens.moveHold(ctx, t.ID, q.Hold, end, q.Now)
}
