package upstream

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// Minter is the role.Minter of the tokens of upstream services. The Keeper is required: its storage is the mount's,
// and the storage of a request is ignored.
type Minter struct{ Keeper *Keeper }

// Permit implements role.Minter: the settings of the mount forbid no role with a connection.
func (m Minter) Permit(*role.Role) error { return nil }

// Mint implements role.Minter.
func (m Minter) Mint(ctx context.Context, _ logical.Storage, q *role.MintRequest) (*role.Minted, error) {
	made, err := m.Keeper.Mint(ctx, &IssueRequest{
		Role: q.Role, MountPoint: q.MountPoint, StaticRole: q.StaticRole, Subject: q.EntityID, Now: q.Now, End: q.End,
	})
	if err != nil {
		return nil, err
	}
	return &role.Minted{
		ID: made.ID, Text: made.Text, Upstream: true, RoleID: q.Role.ID, Version: q.Role.Version,
		Name: made.Name, Data: made.Data, ExpiresAt: made.End,
	}, nil
}

// EndsAt implements role.Minter.
func (m Minter) EndsAt(t *role.Minted) time.Time {
	known, found := m.Keeper.Tokens.Get(t.ID)
	if !found || known.State != Live {
		return time.Time{}
	}
	return known.EndsAt
}

// Works implements role.Minter.
func (m Minter) Works(t *role.Minted) bool { return m.Keeper.now().Before(m.EndsAt(t)) }

// ShortenTo implements role.Minter.
func (m Minter) ShortenTo(ctx context.Context, _ logical.Storage, t *role.Minted, end time.Time) error {
	return m.Keeper.Shorten(ctx, t.ID, end)
}

// Revoke implements role.Minter: the service revokes the token now, or as soon as the service can be reached.
func (m Minter) Revoke(ctx context.Context, _ logical.Storage, t *role.Minted) error {
	_, err := m.Keeper.Revoke(ctx, t.ID)
	return err
}
