package mount

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// staticMount implements static.Mount for a mount.
type staticMount struct{ m *Mount }

func (m staticMount) state(st *State) *static.State {
	return &static.State{
		Roles: st.Roles, Entries: st.Statics, Inventory: st.Inventory,
		Minters: role.Minters{
			Native:   native.Minter{Tokens: &st.Tokens},
			Upstream: upstream.Minter{Keeper: m.m.Upstreams},
		},
	}
}

// Load implements static.Mount.
func (m staticMount) Load(ctx context.Context, s logical.Storage) (*static.State, error) {
	st, err := m.m.Load(ctx, s)
	if err != nil {
		return nil, err
	}
	return m.state(st), nil
}

// Loaded implements static.Mount.
func (m staticMount) Loaded() *static.State {
	st := m.m.Loaded()
	if st == nil {
		return nil
	}
	return m.state(st)
}

// MayWrite implements static.Mount.
func (m staticMount) MayWrite() bool { return m.m.MayWrite() }

// ProveWritable implements static.Mount.
func (m staticMount) ProveWritable(ctx context.Context, s logical.Storage) error {
	return m.m.Fence.ProveWritable(ctx, s)
}

// EntityDisabled implements static.Mount.
func (m staticMount) EntityDisabled(ctx context.Context, id string) (bool, error) {
	return m.m.World.Subjects.Disabled(ctx, id)
}

// FlushInventory implements static.Mount.
func (m staticMount) FlushInventory() { m.m.FlushSoon() }

// WakeQueue implements static.Mount.
func (m staticMount) WakeQueue() { m.m.queue.Wake() }
