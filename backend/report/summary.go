package report

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

const (
	lately  = 24 * time.Hour // what "lately" means in a Summary
	topSize = 10             // number of roles in Summary.TopRoles
)

// Summary is the numbers of a dashboard's first page. Numbers of tokens count grants of the inventory.
type Summary struct {
	AsOf        time.Time `json:"as_of"`
	Roles       int       `json:"roles"`
	Connections int       `json:"connections"`
	StaticRoles int       `json:"static_roles"`

	Live         int   `json:"live_tokens"`
	Opaque       int   `json:"live_opaque"`
	JWT          int   `json:"live_jwt"`
	OfServices   int   `json:"live_of_services"`
	IssuedLately int   `json:"issued_last_day"`  // tokens issued within a day that are still in the inventory
	EndingSoon   int   `json:"expire_next_day"`  // live tokens that expire within a day
	UsedLately   int   `json:"used_last_day"`    // live tokens with a use within a day
	NeverUsed    int   `json:"never_used"`       // live native tokens without a known use
	Stale        int   `json:"stale_tokens"`     // live tokens in the stale report, with its defaults
	Uses         int64 `json:"uses"`             // of the live tokens
	Refusals     int64 `json:"refusals"`         // of the live tokens
	Queue        int   `json:"revocation_queue"` // tokens of services to be revoked
	Unreadable   int   `json:"unreadable_entries"`
	Unowned      int   `json:"unowned"` // roles, connections and static roles without an owner
	Overdue      int   `json:"overdue_reviews"`
	Privileged   int   `json:"privileged_roles"`

	TopRoles []map[string]any `json:"top_roles"` // the roles with the most live tokens: role, live_tokens
	OfRole   map[string]int   `json:"-"`         // live tokens by role
}

// Summary counts. It visits every token of the inventory once.
func (v *View) Summary(unreadable int) *Summary {
	s := &Summary{
		AsOf: v.Now, Unreadable: unreadable,
		Roles: len(v.Roles.Names()), Connections: len(v.Connections.Names()), StaticRoles: len(v.Statics.Names()),
	}
	v.countTokens(s)
	for _, c := range v.Connections.All() {
		for _, state := range []upstream.State{upstream.Lost, upstream.Ending} {
			s.Queue += v.Upstreams.Count(c.ID, state)
		}
		s.countReview(&c.Review, v.Now)
	}
	for _, r := range v.Roles.All() {
		s.countReview(&r.Review, v.Now)
		if len(access.Scopes(slices.Concat(r.Scopes, r.AllowedScopes)).Matching(v.Privileged)) > 0 {
			s.Privileged++
		}
	}
	for _, e := range v.Statics.All() {
		s.countReview(&e.Review, v.Now)
	}
	return s
}

func (s *Summary) countReview(r *review.Review, now time.Time) {
	if r.Owner == "" {
		s.Unowned++
	}
	if r.Overdue(now) {
		s.Overdue++
	}
}

func (v *View) countTokens(s *Summary) {
	of := make(map[string]int) // role -> live tokens
	before := v.Now.Add(-DefaultUnusedFor)
	for row := range v.Inventory.After(token.ID{}) {
		if v.Now.Sub(row.IssuedAt) < lately {
			s.IssuedLately++
		}
		life := v.Life(&row)
		if life.Alive(v.Now) != access.Good {
			continue
		}
		s.Live++
		of[row.Role]++
		r := v.Roles.ByID(row.RoleID)
		service := r != nil && r.Connection != ""
		switch {
		case service:
			s.OfServices++
		case r != nil && r.TokenFormat == role.FormatJWT:
			s.JWT++
		default:
			s.Opaque++
		}
		if life.ExpiresAt.Sub(v.Now) < lately {
			s.EndingSoon++
		}
		used := v.Usage.Totals(row.ID)
		s.Uses, s.Refusals = s.Uses+used.Uses, s.Refusals+used.Refusals
		switch {
		case v.Now.Sub(used.LastUse) < lately:
			s.UsedLately++
		case used.LastUse.IsZero() && !service:
			s.NeverUsed++
		}
		if row.IssuedAt.Before(before) && v.staleToken(&row, before) != nil {
			s.Stale++
		}
	}
	roles := slices.SortedFunc(maps.Keys(of), func(a, b string) int { return cmp.Or(cmp.Compare(of[b], of[a]), cmp.Compare(a, b)) })
	s.OfRole = of
	for _, name := range roles[:min(topSize, len(roles))] {
		s.TopRoles = append(s.TopRoles, map[string]any{"role": name, "live_tokens": of[name]})
	}
}
