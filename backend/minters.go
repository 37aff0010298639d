package backend

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// nativeMinter is the role.Minter of native tokens.
type nativeMinter struct {
	st         *state
	identities func() role.Identities
}

// Permit implements role.Minter.
func (m nativeMinter) Permit(r *role.Role) error {
	c, err := m.st.config.get()
	if err != nil {
		return err
	}
	return c.mayIssue(r)
}

// Mint implements role.Minter.
func (m nativeMinter) Mint(ctx context.Context, s logical.Storage, q *role.MintRequest) (*role.Minted, error) {
	r := q.Role
	claims, err := newClaims(q.End.Sub(q.Now), q.Now)
	if err != nil {
		return nil, err
	}
	claims.Role, claims.RoleVersion, claims.Subject, claims.Grant = r.ID, r.Version, q.EntityID, claims.ID
	if claims.Metadata, err = r.MetadataFor(q.EntityID, m.identities()); err != nil {
		return nil, err
	}
	c, err := m.st.config.get()
	if err != nil {
		return nil, err
	}
	i := &issuing{st: m.st, storage: s, config: c, role: r, mountPoint: q.MountPoint, lifetime: q.End.Sub(q.Now)}
	text, err := i.access(ctx, claims)
	if errors.Is(err, errNothingLeft) || errors.Is(err, errNoPlace) {
		return nil, refusal.New("%w", err)
	}
	if err != nil {
		return nil, err
	}
	return &role.Minted{ID: claims.ID, Text: text, RoleID: r.ID, Version: r.Version, Key: i.key, ExpiresAt: claims.ExpiresAt}, nil
}

// EndsAt implements role.Minter. A token is revoked with its role, or with its key.
func (m nativeMinter) EndsAt(t *role.Minted) time.Time {
	if m.st.roles.ByID(t.RoleID) == nil && m.st.roles.BrokenID(t.RoleID) == nil || m.st.keyIsGone(t.Key) {
		return time.Time{}
	}
	d, deviates := m.st.deviations.Get(t.ID)
	switch {
	case !deviates:
		return t.ExpiresAt
	case d.Revoked:
		return time.Time{}
	default:
		return time.Unix(d.ExpiresAt, 0)
	}
}

// Works implements role.Minter.
func (m nativeMinter) Works(t *role.Minted) bool {
	if !m.st.now().Before(m.EndsAt(t)) {
		return false
	}
	if r := m.st.roles.ByID(t.RoleID); r != nil {
		if permissions, _ := r.Permissions(&token.Claims{RoleVersion: t.Version}); permissions.Empty() {
			return false
		}
	}
	_, err := token.Open(m.st.keys.Ring(), t.Text)
	return !errors.Is(err, token.ErrDestroyedKey) && !errors.Is(err, token.ErrSpentKey)
}

// ShortenTo implements role.Minter.
func (m nativeMinter) ShortenTo(ctx context.Context, s logical.Storage, t *role.Minted, end time.Time) error {
	if !m.EndsAt(t).After(end) {
		return nil
	}
	err := m.st.deviations.Renew(ctx, s, t.ID, t.ExpiresAt, end, m.st.now())
	if errors.Is(err, ledger.ErrRevoked) {
		return nil
	}
	return err
}

// Revoke implements role.Minter.
func (m nativeMinter) Revoke(ctx context.Context, s logical.Storage, t *role.Minted) error {
	return m.st.revoke(ctx, s, t.ID, token.StatusRef{}, t.ExpiresAt)
}

// staticMount is the mount as the keeper of static roles needs it.
type staticMount struct{ b *backend }

func (m staticMount) state(st *state) *static.State {
	return &static.State{
		Roles: st.roles, Entries: st.statics, Inventory: st.inventory,
		Minters: role.Minters{
			Native:   nativeMinter{st, func() role.Identities { return m.b.System() }},
			Upstream: upstream.Minter{Keeper: m.b.upstreams},
		},
	}
}

// Load implements static.Mount.
func (m staticMount) Load(ctx context.Context, s logical.Storage) (*static.State, error) {
	st, err := m.b.load(ctx, s)
	if err != nil {
		return nil, err
	}
	return m.state(st), nil
}

// Loaded implements static.Mount.
func (m staticMount) Loaded() *static.State {
	st := m.b.state.Load()
	if st == nil {
		return nil
	}
	return m.state(st)
}

// MayWrite implements static.Mount.
func (m staticMount) MayWrite() bool { return m.b.WriteSafeReplicationState() }

// ProveWritable implements static.Mount.
func (m staticMount) ProveWritable(ctx context.Context, s logical.Storage) error {
	return m.b.proveWritable(ctx, s)
}

// EntityDisabled implements static.Mount.
func (m staticMount) EntityDisabled(ctx context.Context, id string) (bool, error) {
	return m.b.subjects.disabled(ctx, id)
}

// FlushInventory implements static.Mount.
func (m staticMount) FlushInventory() { m.b.flushSoon() }

// WakeQueue implements static.Mount.
func (m staticMount) WakeQueue() { m.b.queue.Wake() }
