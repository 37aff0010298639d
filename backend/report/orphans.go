package report

import (
	"context"
	"slices"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// Reasons of the report of orphans.
const (
	ReasonEntityGone     = "entity_gone"      // the Vault entity is disabled or deleted
	ReasonRoleGone       = "role_gone"        // the role was deleted
	ReasonConnectionGone = "connection_gone"  // the connection was deleted
	ReasonStaticRoleGone = "static_role_gone" // the static role was deleted, or does not keep the token
	ReasonEntityUnknown  = "entity_unknown"   // Vault did not say whether the entity exists
)

// maxEntities is the maximum number of entities that one page asks Vault about.
const maxEntities = 1000

// OrphanKinds are the kinds of the report of orphans.
var OrphanKinds = []string{KindStaticRole, KindToken, KindUpstreamToken}

// OrphanCaveats are what the report of orphans cannot know.
var OrphanCaveats = []string{
	"introspection refuses the tokens of a deleted role and of a disabled or deleted entity; an API server that verifies JWTs without " +
		"status lists accepts them until they expire",
	"an entity counts as gone up to a minute after Vault says so",
	"the engine cannot see whether the lease of a token still exists in Vault",
	"items of kind upstream_token are of the last reconciliation of each connection since this node became active: see compared_at of " +
		"connections/:name/reconcile",
}

// Orphans returns tokens that have not expired or been revoked, and whose entity, role, connection or static role is gone;
// static roles whose role or entity is gone; and what reconciliations have found.
func (v *View) Orphans(ctx context.Context, q *Query) (*Page, error) {
	asked := make(map[string]bool)
	gone := func(i *Item) {
		if i.EntityID == "" {
			return
		}
		asked[i.EntityID] = true
		switch off, err := v.Disabled(ctx, i.EntityID); {
		case err != nil:
			i.because(ReasonEntityUnknown, "Vault did not answer about entity %s", i.EntityID)
		case off:
			i.because(ReasonEntityGone, "entity %s is disabled or deleted", i.EntityID)
		}
	}
	bounded := *q
	bounded.spent = func() bool { return len(asked) >= maxEntities }
	p, err := page(&bounded,
		v.statics(func(e *static.Entry) *Item { return v.orphanStatic(e, gone) }),
		v.tokens(func(row *ledger.Row) *Item { return v.orphanToken(row, gone) }),
		v.upstreamTokens(),
	)
	if err != nil {
		return nil, err
	}
	p.Caveats = OrphanCaveats
	return p, nil
}

func (v *View) orphanStatic(e *static.Entry, gone func(*Item)) *Item {
	i := &Item{
		Kind: KindStaticRole, Name: e.Name(), Role: e.Role, EntityID: e.EntityID, Owner: e.Owner,
		Command: "vault delete " + v.MountPoint + "static-roles/" + e.Name(),
	}
	if !v.Roles.Has(e.Role) {
		i.because(ReasonRoleGone, "role %q was deleted", e.Role)
	}
	gone(i)
	if len(i.Reasons) == 0 {
		return nil
	}
	return i
}

func (v *View) orphanToken(row *ledger.Row, gone func(*Item)) *Item {
	life := v.Life(row)
	if !v.Now.Before(life.ExpiresAt) {
		return nil
	}
	if r := v.Roles.ByID(row.RoleID); r != nil && r.Connection == "" && row.Subject == "" && row.StaticRole == "" {
		return nil
	}
	i := v.itemOf(row, life.ExpiresAt)
	if i.Connection != "" && !v.Connections.Has(i.Connection) {
		// The engine has forgotten the tokens of a deleted connection: a revoked token cannot be told from one left behind.
		i.because(ReasonConnectionGone, "connection %q was deleted: unless the token was revoked before, the token works at the service, and the "+
			"engine does not revoke the token", i.Connection)
		i.Command = "# revoke the token at the service: no command of the engine does"
		return i
	}
	t, ofService := v.Upstreams.Get(row.ID)
	if ofService && v.Connections.ByID(t.ConnectionID) == nil && v.Connections.BrokenID(t.ConnectionID) == nil {
		i.because(ReasonConnectionGone, "connection %q, which issued the token, was deleted", t.Connection)
	}
	if life.Revoked && (!ofService || t.State == upstream.Live) {
		return nil
	}
	if v.Roles.ByID(row.RoleID) == nil && v.Roles.BrokenID(row.RoleID) == nil {
		i.because(ReasonRoleGone, "role %q was deleted", row.Role)
		if ofService {
			i.Detail += ", and the service has not confirmed the revocation yet"
		}
	}
	if life.Revoked && len(i.Reasons) == 0 {
		return nil // on its way to be revoked
	}
	e := v.Statics.Get(row.StaticRole)
	if row.StaticRole != "" && (e == nil && !v.Statics.Has(row.StaticRole) || e != nil && !keeps(e, row.ID)) {
		i.because(ReasonStaticRoleGone, "static role %q does not keep the token", row.StaticRole)
	}
	if e == nil { // else the static role has an item
		gone(i)
	}
	if len(i.Reasons) == 0 {
		return nil
	}
	return i
}

// keeps reports whether a static role keeps a token, or has still to revoke the token.
func keeps(e *static.Entry, id token.ID) bool {
	return e.Current.ID == id || e.Previous != nil && e.Previous.ID == id ||
		slices.ContainsFunc(e.Ended, func(t static.Token) bool { return t.ID == id })
}
