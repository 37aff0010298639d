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

// StaticRequest asks for the token of a static role.
type StaticRequest struct {
	Name       string // of the static role
	MountPoint string
	RemoteAddr string // address of the requester; empty if unknown
	EntityID   string // Vault entity of the requester; empty: none
}

// ReadStatic returns the token of a static role; nil if there is no such static role. ReadStatic refuses a suspended entity
// and an overdue review, and warns if the token is suspended.
func (m *Mount) ReadStatic(
	ctx context.Context, s logical.Storage, st *State, q *StaticRequest,
) (_ *static.Status, warnings []string, _ error) {
	if err := st.CheckSuspended(q.EntityID); err != nil {
		return nil, nil, err
	}
	status, err := m.Statics.ReadToken(ctx, s, q.Name, q.RemoteAddr)
	if status == nil || err != nil {
		return nil, nil, err
	}
	if err := m.ReviewedStatic(st, q.Name, q.MountPoint); err != nil {
		return nil, nil, err
	}
	m.NoteRead(q.Name)
	if e := st.Statics.Get(q.Name); e != nil && !e.Current.Upstream && st.IsSuspended(e.Current.ID, e.EntityID) {
		warnings = []string{"the token is suspended: API servers refuse the token until an operator resumes the token or its entity"}
	}
	return status, warnings, nil
}
