package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// upstreamMount is the mount as the keeper of upstream tokens needs it.
type upstreamMount struct{ b *backend }

// Active implements upstream.Mount.
func (m upstreamMount) Active(ctx context.Context) bool {
	if !m.b.WriteSafeReplicationState() {
		return false
	}
	_, err := m.b.load(ctx, m.b.storage)
	return err == nil
}

// Connections implements upstream.Mount.
func (m upstreamMount) Connections() []*upstream.Connection {
	st := m.b.state.Load()
	if st == nil {
		return nil
	}
	all := st.connections.All()
	connections := make([]*upstream.Connection, len(all))
	for i, c := range all {
		connections[i] = st.connections.ready(c)
	}
	return connections
}

// Connection implements upstream.Mount.
func (m upstreamMount) Connection(id, name string) (*upstream.Connection, error) {
	if st := m.b.state.Load(); st != nil {
		if c := st.connections.ByID(id); c != nil {
			return st.connections.ready(c), nil
		}
	}
	return nil, fmt.Errorf("connection %q was deleted", name)
}

// ConnectionDeleted implements upstream.Mount.
func (m upstreamMount) ConnectionDeleted(id string) bool {
	st := m.b.state.Load()
	return st != nil && st.connections.ByID(id) == nil && st.connections.BrokenID(id) == nil
}

// RoleDeleted implements upstream.Mount.
func (m upstreamMount) RoleDeleted(id token.RoleID) bool {
	st := m.b.state.Load()
	return st != nil && st.roles.ByID(id) == nil && st.roles.BrokenID(id) == nil
}

// Refresh implements upstream.Mount.
func (m upstreamMount) Refresh(ctx context.Context) error {
	st, err := m.b.load(ctx, m.b.storage)
	if err != nil {
		return err
	}
	st.connections.Writing.Lock()
	err = st.connections.ReloadAll(ctx, m.b.storage)
	st.connections.Writing.Unlock()
	if err != nil {
		return err
	}
	st.roles.Writing.Lock()
	defer st.roles.Writing.Unlock()
	return st.roles.ReloadAll(ctx, m.b.storage)
}

// StaticRoleHolds implements upstream.Mount.
func (m upstreamMount) StaticRoleHolds(ctx context.Context, staticRole string, id token.ID) bool {
	return m.b.staticHolds(ctx, staticRole, id, m.b.now())
}

// ChangeRoot implements upstream.Mount.
func (m upstreamMount) ChangeRoot(ctx context.Context, id string, change func(*upstream.Root) error) (*upstream.Connection, error) {
	st, err := m.b.load(ctx, m.b.storage)
	if err != nil {
		return nil, err
	}
	st.connections.Writing.Lock()
	defer st.connections.Writing.Unlock()
	known := st.connections.ByID(id)
	if known == nil {
		return nil, upstream.ErrNoConnection
	}
	c, err := st.connections.Latest(ctx, m.b.storage, known.name)
	if err != nil {
		return nil, err
	}
	if c == nil || c.ID != id {
		return nil, upstream.ErrNoConnection
	}
	changed := *c
	if err := change(&changed.Root); err != nil {
		return nil, err
	}
	if err := st.connections.Put(ctx, m.b.storage, &changed); err != nil {
		// Whether storage has taken it is not known. What it holds is, once it answers.
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), upstream.RevokeWait)
		defer cancel()
		_, readErr := st.connections.Latest(asking, m.b.storage, known.name)
		return nil, errors.Join(err, readErr)
	}
	return st.connections.ready(&changed), nil
}

// ready makes a connection ready for calls.
func (cs *connectionStore) ready(c *connection) *upstream.Connection {
	up, err := cs.upstream(c.name, c)
	return &upstream.Connection{ID: c.ID, Name: c.name, URL: c.URL, Root: c.Root, Service: up, Broken: err}
}

// order is what a token of a role of a connection is asked for with.
func (cs *connectionStore) order(r *role.Role, mountPoint string, now, end time.Time) (*upstream.Order, error) {
	c := cs.Get(r.Connection)
	up, err := cs.upstream(r.Connection, c)
	if err != nil {
		return nil, fmt.Errorf("role %q: %w", r.Name(), err)
	}
	return &upstream.Order{
		Connection: &upstream.Connection{ID: c.ID, Name: c.name, URL: c.URL, Root: c.Root, Service: up}, Role: r.Name(), RoleID: r.ID, Params: r.Params, Leaseless: r.NoLease, Now: now, End: end,
		NewName: func() (string, error) { return c.newName(mountPoint, r.Name(), up.Provider.MaxName) },
	}, nil
}

// endUpstream ends a token of a service for good, now or as soon as the service can be reached.
func (b *backend) endUpstream(ctx context.Context, _ logical.Storage, _ *state, id token.ID) error {
	_, err := b.upstreams.Revoke(ctx, id)
	return err
}
