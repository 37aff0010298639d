package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// staticMount implements static.Mount for a mount.
type staticMount struct{ b *backend }

func (m staticMount) state(st *state) *static.State {
	return &static.State{
		Roles: st.Roles, Entries: st.statics, Inventory: st.Inventory,
		Minters: role.Minters{
			Native:   native.Minter{Tokens: &st.Tokens},
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
	return m.b.fence.ProveWritable(ctx, s)
}

// EntityDisabled implements static.Mount.
func (m staticMount) EntityDisabled(ctx context.Context, id string) (bool, error) {
	return m.b.world.Subjects.Disabled(ctx, id)
}

// FlushInventory implements static.Mount.
func (m staticMount) FlushInventory() { m.b.flushSoon() }

// WakeQueue implements static.Mount.
func (m staticMount) WakeQueue() { m.b.queue.Wake() }
