package mount

import (
	"cmp"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// rowLife returns the life of a token of the inventory, without checking whether the subject is disabled.
func (st *State) rowLife(row *ledger.Row, destroyed map[string]time.Time) access.State {
	if r := st.Roles.ByID(row.RoleID); r == nil || r.Connection == "" {
		return st.RowLife(row, destroyed)
	}
	t, known := st.Upstreams.Get(row.ID)
	life := access.State{ExpiresAt: row.ExpiresAt}
	if known {
		life.ExpiresAt = st.Upstreams.ExpiresAt(&t)
	}
	life.Revoked = known && t.State != upstream.Live || !known && st.Upstreams.Unreadable(row.ID) == nil
	return life
}

// unreadable returns an error if the state of a token of the inventory depends on a stored entry that cannot be read.
func (st *State) unreadable(row *ledger.Row) error {
	return cmp.Or(st.Unreadable(row.ID, row.ID, row.Subject, row.RoleID), st.Upstreams.Unreadable(row.ID))
}

// expired returns a function that reports whether a token of the inventory has expired for good.
func (st *State) expired(now time.Time) func(token.ID, time.Time) bool {
	return func(id token.ID, ownEnd time.Time) bool {
		if d, ok := st.Deviations.Get(id); ok {
			return d.KeepUntil <= now.Unix()
		}
		if _, known := st.Upstreams.Get(id); known {
			return false
		}
		return !now.Before(ownEnd)
	}
}

// Reserve reserves a place below a role's max_tokens. Tokens of static roles are not counted. Suspended tokens are: a resume
// would exceed the limit.
func (m *Mount) Reserve(st *State, r *role.Role) (*role.Place, error) {
	now := m.now()
	return m.World.Limits.Reserve(r, func() int { return st.Inventory.Count(r.ID) }, func() int {
		live := 0
		destroyed := st.DestroyedKeys()
		for row := range st.Inventory.OfRole(r.ID) {
			if row.StaticRole == "" && !st.rowLife(&row, destroyed).Ended(now) {
				live++
			}
		}
		return live
	}, now)
}
