package mount

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
)

// WriteRole creates or changes a role, and warns if the mount's maximum lease TTL is less than the role says, or if
// the role's review is overdue.
func (m *Mount) WriteRole(
	ctx context.Context, s logical.Storage, st *State, q *native.WriteRoleRequest,
) (warnings []string, _ error) {
	q.Upstreams, q.CheckDetection = m.Upstreams, detect.CheckRoleModes
	r, err := st.WriteRole(ctx, s, q)
	if err != nil {
		return nil, err
	}
	if mountMax := m.System.MaxLeaseTTL(); r.MaxTTL > mountMax || r.TTL > mountMax {
		warnings = append(warnings, fmt.Sprintf("tokens will live for at most %s, the maximum lease TTL of the mount, which is less "+
			"than the role says", refusal.Short(mountMax)))
	}
	return append(warnings, r.Warn(q.Change.ReviewBy, m.now())...), nil
}

// DeleteRole deletes a role and revokes its tokens. DeleteRole refuses a role whose token a static role keeps.
func (m *Mount) DeleteRole(ctx context.Context, s logical.Storage, st *State, name string) error {
	tokens := 0
	err := st.DeleteRole(ctx, s, name, func(r *role.Role) error {
		tokens = st.Inventory.Count(r.ID)
		if err := st.Statics.ReloadAll(ctx, s); err != nil {
			return err
		}
		if keeper := static.OfRole(st.Statics, r.Name()); keeper != nil {
			return refusal.Field("name", "static role %q keeps a token of role %q: delete the static role first", keeper.Name(), r.Name())
		}
		return nil
	}, m.Upstreams)
	if err == nil {
		m.Counters.Revoked(metrics.ByRole, tokens)
	}
	return err
}
