package mount

import (
	"context"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// upstreamMount implements upstream.Mount for a mount.
type upstreamMount struct{ m *Mount }

// Active implements upstream.Mount.
func (m upstreamMount) Active(ctx context.Context) bool {
	if !m.m.MayWrite() {
		return false
	}
	_, err := m.m.Load(ctx, m.m.Storage)
	return err == nil
}

// Roles implements upstream.Mount.
func (m upstreamMount) Roles() *role.Store {
	if st := m.m.Loaded(); st != nil {
		return st.Roles
	}
	return nil
}

// StaticRoleHolds implements upstream.Mount.
func (m upstreamMount) StaticRoleHolds(ctx context.Context, staticRole string, id token.ID) bool {
	return m.m.Statics.Holds(ctx, staticRole, id)
}
