package backend

import (
	"context"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// upstreamMount implements upstream.Mount for a mount.
type upstreamMount struct{ b *backend }

// Active implements upstream.Mount.
func (m upstreamMount) Active(ctx context.Context) bool {
	if !m.b.WriteSafeReplicationState() {
		return false
	}
	_, err := m.b.load(ctx, m.b.storage)
	return err == nil
}

// Roles implements upstream.Mount.
func (m upstreamMount) Roles() *role.Store {
	if st := m.b.state.Load(); st != nil {
		return st.Roles
	}
	return nil
}

// StaticRoleHolds implements upstream.Mount.
func (m upstreamMount) StaticRoleHolds(ctx context.Context, staticRole string, id token.ID) bool {
	return m.b.statics.Holds(ctx, staticRole, id)
}
