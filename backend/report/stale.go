package report

import (
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// DefaultUnusedFor is the default of StaleQuery.UnusedFor: the CIS benchmarks disable credentials that were not used for
// 45 days.
const DefaultUnusedFor = 45 * 24 * time.Hour

// Reasons of the report of what is stale.
const (
	ReasonUnused        = "unused"         // the last known use is too long ago
	ReasonNeverUsed     = "never_used"     // no use is known
	ReasonUseUnknown    = "use_unknown"    // a token of a service: the engine does not see the uses there
	ReasonNothingIssued = "nothing_issued" // no token was issued
	ReasonNoRole        = "no_role"        // no role has the connection
	ReasonNotRead       = "not_read"       // nobody has read the token of a static role
)

// StaleCaveats are what the report of what is stale cannot know.
var StaleCaveats = []string{
	"a use counts if the API server introspected the token, or a verifier reported the use: a token with reason never_used may " +
		"be in use where nobody reports",
	"the engine does not see the uses of a token of a service (reason use_unknown), nor reads of a static token at a standby, nor a " +
		"static token that a client keeps without reading",
	"roles, connections and static roles are listed only after the engine has watched them for unused_for",
}

// StaleQuery selects a page of what is stale.
type StaleQuery struct {
	Query
	UnusedFor time.Duration // at least 1 s
}

// Stale returns what was not used for a time: live tokens, roles and connections that issued nothing, and static roles whose
// token nobody read.
func (v *View) Stale(q *StaleQuery) (*Page, error) {
	if q.UnusedFor < time.Second {
		return nil, refusal.Field("unused_for", "must be at least 1s")
	}
	before := v.Now.Add(-q.UnusedFor)
	rolesOf := make(map[string]int)
	for _, r := range v.Roles.All() {
		if r.Connection != "" {
			rolesOf[r.Connection]++
		}
	}
	kept := make(map[string]bool) // roles of static roles
	for _, e := range v.Statics.All() {
		kept[e.Role] = true
	}
	p, err := page(&q.Query,
		v.connections(func(c *upstream.Connection) *Item { return v.staleConnection(c, rolesOf[c.Name()], before) }),
		v.roles(func(r *role.Role) *Item {
			if kept[r.Name()] {
				return nil
			}
			return v.staleRole(r, before)
		}),
		v.statics(func(e *static.Entry) *Item { return v.staleStatic(e, before) }),
		v.tokens(func(row *ledger.Row) *Item { return v.staleToken(row, before) }),
	)
	if err != nil {
		return nil, err
	}
	p.Caveats = StaleCaveats
	return p, nil
}

// idle reports whether a subject was watched, and not noted, since a time.
func (v *View) idle(s Subject, before time.Time) (_ Record, idle bool) {
	r := v.Watch.Get(s)
	return r, !r.Since.IsZero() && !r.Since.After(before) && !r.Last.After(before)
}

func (v *View) staleConnection(c *upstream.Connection, roles int, before time.Time) *Item {
	record, idle := v.idle(Subject{KindConnection, c.ID}, before)
	if !idle || v.Upstreams.Count(c.ID, upstream.Live) > 0 {
		return nil
	}
	i := &Item{Kind: KindConnection, Name: c.Name(), LastSeenAt: record.Last, Command: "vault delete " + v.MountPoint + "connections/" + c.Name()}
	nothingIssued(i, &record)
	if roles == 0 {
		i.because(ReasonNoRole, "no role has the connection")
	}
	return i
}

func (v *View) staleRole(r *role.Role, before time.Time) *Item {
	record, idle := v.idle(Subject{KindRole, r.ID.String()}, before)
	if !idle {
		return nil
	}
	i := &Item{Kind: KindRole, Name: r.Name(), Connection: r.Connection, LastSeenAt: record.Last, Command: "vault delete " + v.MountPoint + "roles/" + r.Name()}
	nothingIssued(i, &record)
	if n := v.Inventory.Count(r.ID); n > 0 {
		i.Detail += "; the inventory has tokens of the role, and deleting the role revokes the tokens"
	}
	return i
}

func nothingIssued(i *Item, r *Record) {
	if r.Last.IsZero() {
		i.because(ReasonNothingIssued, "no token was issued since %s, when the engine began to watch", day(r.Since))
		return
	}
	i.because(ReasonNothingIssued, "the last token was issued on %s", day(r.Last))
}

func (v *View) staleStatic(e *static.Entry, before time.Time) *Item {
	record, idle := v.idle(Subject{KindStaticRole, e.Name()}, before)
	last, used := v.Usage.LastUse(e.Current.ID)
	if !idle || used && last.After(before) {
		return nil
	}
	i := &Item{Kind: KindStaticRole, Name: e.Name(), Role: e.Role, EntityID: e.EntityID, Command: "vault delete " + v.MountPoint + "static-roles/" + e.Name()}
	if i.LastSeenAt = record.Last; last.After(record.Last) {
		i.LastSeenAt = last
	}
	if record.Last.IsZero() {
		i.because(ReasonNotRead, "nobody has read the token since %s, when the engine began to watch", day(record.Since))
	} else {
		i.because(ReasonNotRead, "the token was last read on %s", day(record.Last))
	}
	return i
}

func (v *View) staleToken(row *ledger.Row, before time.Time) *Item {
	if row.StaticRole != "" || row.IssuedAt.After(before) { // a static role has an item of its own
		return nil
	}
	last, used := v.Usage.LastUse(row.ID)
	if refresh, refreshed := v.Refreshes.Get(row.ID); refreshed && refresh.At > last.UnixMilli() {
		last, used = time.UnixMilli(refresh.At).Truncate(time.Second), true
	}
	if used && last.After(before) {
		return nil
	}
	i := v.live(row)
	if i == nil {
		return nil
	}
	switch i.LastSeenAt = last; {
	case used:
		i.because(ReasonUnused, "last used on %s", day(last))
	case i.Connection != "":
		i.LastSeenAt = time.Time{}
		i.because(ReasonUseUnknown, "issued on %s by connection %q; the engine does not see uses at the service", day(row.IssuedAt), i.Connection)
	default:
		i.LastSeenAt = time.Time{}
		i.because(ReasonNeverUsed, "issued on %s, no use was reported", day(row.IssuedAt))
	}
	return i
}
