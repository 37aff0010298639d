package report

import (
	"slices"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Checks of the report of what is broad, which are also the reasons.
const (
	CheckPrivileged = "privileged_scope" // a scope matches the mount's privileged_scopes
	CheckWildcard   = "wildcard_scope"   // a scope ends in *
	CheckUnbound    = "unbound"          // no address, audience, region, host or key bounds the tokens of the role
	CheckLongLife   = "long_life"        // a token may live longer than MaxLife
	CheckNoAddress  = "no_address"
	CheckNoAudience = "no_audience"
	CheckNoRegion   = "no_region"
)

// Checks are all checks; DefaultChecks are the checks of a request that names none.
var (
	Checks        = []string{CheckPrivileged, CheckWildcard, CheckUnbound, CheckLongLife, CheckNoAddress, CheckNoAudience, CheckNoRegion}
	DefaultChecks = Checks[:4]
)

// DefaultMaxLife is the default of BroadQuery.MaxLife.
const DefaultMaxLife = 30 * 24 * time.Hour

// BroadKinds are the kinds of the report of what is broad.
var BroadKinds = []string{KindRole, KindToken}

// BroadCaveats are what the report of what is broad cannot know.
var BroadCaveats = []string{
	"the inventory does not hold what a request bound a token to: a token may be narrower than the report says",
	"the permissions of a role with a connection are in the terms of its service: of such a role only the life is checked",
}

// BroadQuery selects a page of what is broad.
type BroadQuery struct {
	Query
	MaxLife time.Duration // lives beyond MaxLife are long; at least 1 s
	Checks  []string      // of Checks
}

// Broad returns roles and live tokens with more permissions or a longer life than they should have. A token is checked for its
// scopes and its life; for its bounds see the role.
func (v *View) Broad(q *BroadQuery) (*Page, error) {
	if q.MaxLife < time.Second {
		return nil, refusal.Field("max_life", "must be at least 1s")
	}
	for _, check := range q.Checks {
		if !slices.Contains(Checks, check) {
			return nil, refusal.Field("checks", "%q is not one of: %s", refusal.Clip(check), strings.Join(Checks, ", "))
		}
	}
	type scoped struct {
		scopes string
		role   token.RoleID
	}
	broad := make(map[scoped]bool) // many tokens have the same scopes
	p, err := page(&q.Query,
		v.roles(func(r *role.Role) *Item { return v.broadRole(r, q) }),
		v.tokens(func(row *ledger.Row) *Item {
			has, known := broad[scoped{row.Scopes, row.RoleID}]
			if !known {
				i := &Item{Scopes: v.scopesOf(row)}
				v.broadScopes(i, q)
				has = len(i.Reasons) > 0
				broad[scoped{row.Scopes, row.RoleID}] = has
			}
			life := v.Life(row)
			if !has && !(q.has(CheckLongLife) && life.ExpiresAt.Sub(row.IssuedAt) > q.MaxLife) || life.Alive(v.Now) != access.Good {
				return nil
			}
			return v.broadToken(row, life.ExpiresAt, q)
		}),
	)
	if err != nil {
		return nil, err
	}
	p.Caveats = BroadCaveats
	return p, nil
}

func (v *View) broadRole(r *role.Role, q *BroadQuery) *Item {
	i := &Item{Kind: KindRole, Name: r.Name(), Connection: r.Connection, Owner: r.Owner, Scopes: mostOf(r)}
	fields := v.broadScopes(i, q)
	if r.Connection == "" {
		fields = append(fields, unbound(i, r, q)...)
	}
	if most := v.longest(r); q.has(CheckLongLife) && most > q.MaxLife {
		i.because(CheckLongLife, "a token may live %s, more than %s", refusal.Short(most), refusal.Short(q.MaxLife))
		fields = append(fields, "max_ttl="+refusal.Short(q.MaxLife))
		if r.TTL > q.MaxLife {
			fields = append(fields, "ttl="+refusal.Short(q.MaxLife))
		}
	}
	if len(i.Reasons) == 0 {
		return nil
	}
	i.Command = v.writeRole(r, fields)
	return i
}

// scopesOf returns the scopes that a token has today.
func (v *View) scopesOf(row *ledger.Row) []string {
	scopes := strings.Fields(row.Scopes)
	if r := v.Roles.ByID(row.RoleID); r != nil && r.Connection == "" {
		scopes = access.Scopes(scopes).Intersect(mostOf(r))
	}
	return scopes
}

func (v *View) broadToken(row *ledger.Row, end time.Time, q *BroadQuery) *Item {
	i := v.itemOf(row, end)
	i.Scopes = v.scopesOf(row)
	v.broadScopes(i, q)
	if life := i.ExpiresAt.Sub(i.IssuedAt); q.has(CheckLongLife) && life > q.MaxLife {
		i.because(CheckLongLife, "lives %s, more than %s", refusal.Short(life.Truncate(time.Second)), refusal.Short(q.MaxLife))
	}
	return i
}

func (q *BroadQuery) has(check string) bool { return slices.Contains(q.Checks, check) }

// broadScopes adds the reasons of the scopes of an item, and returns the fields of a role to change.
func (v *View) broadScopes(i *Item, q *BroadQuery) (fields []string) {
	held := access.Scopes(i.Scopes)
	if privileged := held.Matching(v.Privileged); q.has(CheckPrivileged) && len(privileged) > 0 {
		i.because(CheckPrivileged, "holds the privileged %q", privileged)
	}
	wild := slices.DeleteFunc(slices.Clone(held), func(scope string) bool { return !strings.HasSuffix(scope, "*") })
	if q.has(CheckWildcard) && len(wild) > 0 {
		i.because(CheckWildcard, "holds the wildcards %q", []string(wild))
	}
	if len(i.Reasons) > 0 {
		fields = []string{"scopes=..."}
	}
	return fields
}

// unbound adds the reasons of what a role does not bound, and returns the fields of the role to change.
func unbound(i *Item, r *role.Role, q *BroadQuery) (fields []string) {
	missing := []struct {
		check, field string
		bound        bool
	}{
		{CheckNoAddress, "token_bound_cidrs", len(r.TokenBoundCIDRs) > 0},
		{CheckNoAudience, "audience", len(r.Audience) > 0},
		{CheckNoRegion, "bound_regions", len(r.BoundRegions) > 0},
	}
	bound := len(r.BoundHosts) > 0 || r.Proof != ""
	for _, m := range missing {
		bound = bound || m.bound
	}
	if q.has(CheckUnbound) && !bound {
		i.because(CheckUnbound, "a token works from any address and region, for any audience and host, without a proof")
		fields = append(fields, "audience=...", "token_bound_cidrs=...")
	}
	for _, m := range missing {
		if q.has(m.check) && !m.bound {
			i.because(m.check, "%s is empty", m.field)
			if field := m.field + "=..."; !slices.Contains(fields, field) {
				fields = append(fields, field)
			}
		}
	}
	return fields
}

// mostOf returns all scopes that a token of a role may have.
func mostOf(r *role.Role) []string {
	if len(r.AllowedScopes) > 0 {
		return r.AllowedScopes
	}
	return r.Scopes
}

// longest returns how long a token of a role may live, renewals included.
func (v *View) longest(r *role.Role) time.Duration {
	_, most, err := r.Lives(0)
	if err != nil || most == 0 || most > v.MaxTTL {
		return v.MaxTTL
	}
	return most
}

// writeRole returns the command that changes fields of a role.
func (v *View) writeRole(r *role.Role, fields []string) string {
	words := []string{"vault", "write", quoted(v.MountPoint + "roles/" + r.Name())}
	for _, field := range fields {
		words = append(words, quoted(field))
	}
	return strings.Join(words, " ")
}

// quoted returns a word that a shell takes as it is.
func quoted(word string) string {
	if strings.IndexFunc(word, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("_-./=:,@+", c))
	}) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
