package mount

import (
	"context"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/reconcile"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/report"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// Report returns what reports read of the mount now. mountPoint is the path of the mount, for commands.
func (m *Mount) Report(st *State, mountPoint string) *report.View {
	destroyed := st.DestroyedKeys()
	return &report.View{
		Now: m.now(), MountPoint: mountPoint, Roles: st.Roles, Connections: st.Connections, Statics: st.Statics,
		Upstreams: st.Upstreams, Inventory: st.Inventory, Refreshes: st.Refreshes, Usage: m.Usage, Watch: m.Watch,
		Privileged: st.Config.OrDefaults().PrivilegedScopes, MaxTTL: m.System.MaxLeaseTTL(),
		Disabled:   m.World.Subjects.Disabled,
		Reconciled: func(c *upstream.Connection) []reconcile.Item { return m.Reconciler.Items(c) },
		Life:       func(row *ledger.Row) access.State { return st.rowLife(row, destroyed) },
		Used: func() map[token.RoleID]*report.Used {
			return m.used.get(m.now, func() map[token.RoleID]*report.Used { return report.UsedByRole(st.Inventory, m.Usage) })
		},
	}
}

// Summary returns the numbers of a mount. On a large mount, reading again soon returns the same numbers.
func (m *Mount) Summary(st *State) *report.Summary {
	return m.summary.get(m.now, func() *report.Summary { return m.Report(st, "").Summary(len(st.Broken())) })
}

// NoteIssued remembers that a role issued a token.
func (m *Mount) NoteIssued(st *State, r *role.Role) {
	now := m.now()
	m.Watch.Note(ofRole(r.ID), now)
	if c := st.Connections.Get(r.Connection); r.Connection != "" && c != nil {
		m.Watch.Note(report.Subject{Kind: report.KindConnection, ID: c.ID}, now)
	}
}

// NoteRead remembers that the token of a static role was read.
func (m *Mount) NoteRead(staticRole string) {
	m.Watch.Note(report.Subject{Kind: report.KindStaticRole, ID: staticRole}, m.now())
}

func ofRole(id token.RoleID) report.Subject {
	return report.Subject{Kind: report.KindRole, ID: id.String()}
}

// watchAll has reports watch every role, connection and static role, and forget those that are gone.
func (m *Mount) watchAll(st *State, now time.Time) {
	var subjects []report.Subject
	there := make(map[report.Subject]bool)
	add := func(kind, id string) {
		s := report.Subject{Kind: kind, ID: id}
		subjects, there[s] = append(subjects, s), true
	}
	for _, r := range st.Roles.All() {
		add(report.KindRole, r.ID.String())
	}
	for _, c := range st.Connections.All() {
		add(report.KindConnection, c.ID)
	}
	for _, e := range st.Statics.All() {
		add(report.KindStaticRole, e.Name())
	}
	// An entry that cannot be read may come back.
	unreadable := map[string]bool{
		report.KindRole:       len(st.Roles.Damaged()) > 0,
		report.KindConnection: len(st.Connections.Damaged()) > 0,
		report.KindStaticRole: len(st.Statics.Damaged()) > 0,
	}
	m.Watch.Follow(subjects, func(s report.Subject) bool { return !there[s] && !unreadable[s.Kind] }, now)
}

// folding returns expired, which before a token leaves the inventory remembers what the uses of the token needed.
func (m *Mount) folding(st *State, now time.Time) func(token.ID, time.Time) bool {
	expired := st.expired(now)
	return func(id token.ID, ownEnd time.Time) bool {
		if !expired(id, ownEnd) {
			return false
		}
		if row, known := st.Inventory.Get(id); known && st.Roles.ByID(row.RoleID) != nil {
			m.Watch.Fold(ofRole(row.RoleID), report.UsedBy(m.Usage, &row), now)
		}
		return true
	}
}

// flushWatch writes what reports remember, when the mount stops.
func (m *Mount) flushWatch(ctx context.Context) {
	if m.Loaded() == nil || !m.MayWrite() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := m.Watch.Flush(ctx, m.Storage, true, m.now()); err != nil {
		m.Log.Warn("what reports remember was not written", "error", err)
	}
}
