package native

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Minter is the role.Minter of native tokens.
type Minter struct{ *Tokens }

var _ role.Minter = Minter{}

// Permit implements role.Minter.
func (m Minter) Permit(r *role.Role) error {
	c, err := m.Config.Get()
	if err != nil {
		return err
	}
	return c.MayIssue(r)
}

// Mint implements role.Minter. The caller lists the token in the inventory.
func (m Minter) Mint(ctx context.Context, s logical.Storage, q *role.MintRequest) (*role.Minted, error) {
	r := q.Role
	lifetime := q.End.Sub(q.Now)
	claims, err := m.grantClaims(r, q.EntityID, new(token.Claims), lifetime, q.Now)
	if err != nil {
		return nil, err
	}
	minting, err := m.mintingFor(s, r, q.MountPoint, lifetime)
	if err != nil {
		return nil, err
	}
	text, err := minting.access(ctx, claims)
	if errors.Is(err, errNoPlace) {
		return nil, refusal.Wrap(err)
	}
	if err != nil {
		return nil, err
	}
	return &role.Minted{ID: claims.ID, Text: text, RoleID: r.ID, Version: r.Version, Key: minting.key, ExpiresAt: claims.ExpiresAt}, nil
}

// EndsAt implements role.Minter. A token is revoked with its role, or with its key.
func (m Minter) EndsAt(t *role.Minted) time.Time {
	if m.Roles.ByID(t.RoleID) == nil && m.Roles.BrokenID(t.RoleID) == nil || m.keyIsGone(t.Key) {
		return time.Time{}
	}
	d, deviates := m.Deviations.Get(t.ID)
	switch {
	case !deviates:
		return t.ExpiresAt
	case d.Revoked:
		return time.Time{}
	default:
		return time.Unix(d.ExpiresAt, 0)
	}
}

// keyIsGone reports whether a sealing key no longer opens its tokens, for whatever reason.
func (t *Tokens) keyIsGone(name string) bool {
	key := t.Sealing.Keys().Find(name)
	return key != nil && (key.Secret == nil || key.Broken != nil)
}

// Works implements role.Minter.
func (m Minter) Works(t *role.Minted) bool {
	if !m.Now().Before(m.EndsAt(t)) {
		return false
	}
	if r := m.Roles.ByID(t.RoleID); r != nil {
		if permissions, _ := r.Permissions(&token.Claims{RoleVersion: t.Version}); permissions.Empty() {
			return false
		}
	}
	_, err := token.Open(m.Sealing.Ring(), t.Text)
	return !errors.Is(err, token.ErrDestroyedKey) && !errors.Is(err, token.ErrExpiredKey)
}

// ShortenTo implements role.Minter.
func (m Minter) ShortenTo(ctx context.Context, s logical.Storage, t *role.Minted, end time.Time) error {
	if !m.EndsAt(t).After(end) {
		return nil
	}
	_, err := m.Deviations.Renew(ctx, s, t.ID, t.ExpiresAt, end, 0, m.Now())
	if errors.Is(err, ledger.ErrRevoked) {
		return nil
	}
	return err
}

// Revoke implements role.Minter.
func (m Minter) Revoke(ctx context.Context, s logical.Storage, t *role.Minted) error {
	return m.RevokeLease(ctx, s, t.ID, token.StatusRef{}, t.ExpiresAt, time.Time{})
}
