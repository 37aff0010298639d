package report

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Reasons of right-sizing: what uses did not need.
const (
	ReasonUnneededScopes  = "unneeded_scopes"
	ReasonFewAddresses    = "few_addresses"
	ReasonFewRegions      = "few_regions"
	ReasonShortUse        = "short_use"
	mostSuggested         = 16 // addresses and regions in a command
	shortUse              = 2  // a life is too long if it is more than shortUse times as long as the longest use
	roundUseTo            = time.Hour
	DefaultWatchedFor     = 14 * 24 * time.Hour // default of RightSizeQuery.WatchedFor
	withoutScopesSentence = "no use named the scopes that it needed: introspect with required_scopes, or report scopes by usage"
)

// RightSizeKinds are the kinds of right-sizing.
var RightSizeKinds = []string{KindRole}

// RightSizeCaveats are what right-sizing cannot know.
var RightSizeCaveats = []string{
	"roles without a known use, and roles that were watched for less than watched_for, are left out",
	"a role seems to need only what its tokens were seen to need since watched_since: a job that runs less often, such as once a " +
		"quarter, was not seen",
	"of each token only the last address and the last region are known; scopes only where the API server named the scopes of a use",
	"a change acts at once on live tokens: ask the owner of the role before running the command",
}

// RightSizeQuery selects a page of right-sizing.
type RightSizeQuery struct {
	Query
	Role       string        // only this role; empty: all
	WatchedFor time.Duration // leave out roles that were watched for a shorter time
}

// Suggestion is what right-sizing says of a role.
type Suggestion struct {
	WatchedSince   time.Time     `json:"watched_since"`
	UsedScopes     []string      `json:"used_scopes"`
	UnneededScopes []string      `json:"unneeded_scopes"` // granted scopes that no use needed
	UsedAddresses  []string      `json:"used_addresses"`
	UsedRegions    []string      `json:"used_regions"`
	LongestUse     time.Duration `json:"longest_use"` // longest time from an issue to the last use
}

// RightSize returns the roles of native tokens whose tokens were used, with what the role could do without.
func (v *View) RightSize(q *RightSizeQuery) (*Page, error) {
	if q.Role != "" && v.Roles.Get(q.Role) == nil {
		return nil, refusal.Field("role", "there is no role %q", refusal.Clip(q.Role))
	}
	used := v.Used()
	p, err := page(&q.Query, v.roles(func(r *role.Role) *Item {
		if q.Role != "" && q.Role != r.Name() || r.Connection != "" {
			return nil
		}
		record := v.Watch.Get(Subject{KindRole, r.ID.String()})
		if record.Since.IsZero() || v.Now.Sub(record.Since) < q.WatchedFor {
			return nil
		}
		if u := used[r.ID]; u != nil {
			record.Used.merge(u)
		}
		return v.rightSize(r, &record)
	}))
	if err != nil {
		return nil, err
	}
	p.Caveats = RightSizeCaveats
	return p, nil
}

// UsedByRole returns what the uses of the tokens in the inventory needed, by role. UsedByRole visits all tokens.
func UsedByRole(inventory *ledger.Inventory, usage *insight.Usage) map[token.RoleID]*Used {
	all := make(map[token.RoleID]*Used)
	for row := range inventory.After(token.ID{}) {
		seen, used := usage.LastSeen(row.ID)
		if !used {
			continue
		}
		u := all[row.RoleID]
		if u == nil {
			u = new(Used)
			all[row.RoleID] = u
		}
		u.see(&row, &seen)
	}
	return all
}

// rightSize returns the item of a role; nil if no use is known, or if the uses needed all of the role.
func (v *View) rightSize(r *role.Role, record *Record) *Item {
	u := &record.Used
	if !u.Seen {
		return nil
	}
	i := &Item{
		Kind: KindRole, Name: r.Name(), Owner: r.Owner, Scopes: mostOf(r), LastSeenAt: record.Last,
		Suggestion: Suggestion{
			WatchedSince: record.Since, UsedScopes: u.Scopes, UsedAddresses: u.Addresses, UsedRegions: u.Regions, LongestUse: u.Longest,
		},
	}
	fields := slices.Concat(sizeScopes(i, r, u), sizePlaces(i, r, u), v.sizeLife(i, r, u))
	if len(i.Reasons) == 0 {
		return nil
	}
	if len(u.Scopes) == 0 {
		i.Detail += "; " + withoutScopesSentence
	}
	i.Detail += watchedFor(v.Now.Sub(record.Since))
	i.Command = v.writeRole(r, fields)
	return i
}

func watchedFor(d time.Duration) string {
	if d < 24*time.Hour {
		return "; watched for less than a day"
	}
	return fmt.Sprintf("; watched for %d days", int(d/(24*time.Hour)))
}

// sizeScopes adds what scopes no use needed. A wildcard makes room for the scopes that uses needed.
func sizeScopes(i *Item, r *role.Role, u *Used) (fields []string) {
	if len(u.Scopes) == 0 || u.More {
		return nil
	}
	narrow := func(granted []string) (needed []string) {
		for _, scope := range granted {
			for _, used := range u.Scopes {
				if (access.Scopes{scope}).Covers(used) && !slices.Contains(needed, used) {
					needed = append(needed, used)
				}
			}
		}
		slices.Sort(needed)
		return needed
	}
	for _, scope := range mostOf(r) {
		if !slices.Contains(u.Scopes, scope) {
			i.UnneededScopes = append(i.UnneededScopes, scope)
		}
	}
	scopes, allowed := narrow(r.Scopes), narrow(r.AllowedScopes)
	if len(i.UnneededScopes) == 0 || len(scopes) == 0 {
		i.UnneededScopes = nil
		return nil
	}
	i.because(ReasonUnneededScopes, "uses needed %q, not %q", u.Scopes, i.UnneededScopes)
	fields = append(fields, "scopes="+strings.Join(scopes, ","))
	if len(r.AllowedScopes) > 0 {
		fields = append(fields, "allowed_scopes="+strings.Join(allowed, ","))
	}
	return fields
}

// sizePlaces adds from where the tokens were used, if the role allows more.
func sizePlaces(i *Item, r *role.Role, u *Used) (fields []string) {
	if u.More || !r.EnforcesBounds() {
		return nil
	}
	if few := fewer(u.Addresses); len(few) > 0 && len(few) <= mostSuggested && len(r.TokenBoundCIDRs) == 0 {
		i.because(ReasonFewAddresses, "used from %s", strings.Join(few, ", "))
		if len(few) == 1 {
			i.Detail += "; a deploy or a provider may change a single address: unless the address is fixed, bind the role to its network"
		}
		fields = append(fields, "token_bound_cidrs="+strings.Join(few, ","))
	}
	if n := len(u.Regions); n > 0 && n <= mostSuggested && (len(r.BoundRegions) == 0 || n < len(r.BoundRegions)) {
		i.because(ReasonFewRegions, "used in %s", strings.Join(u.Regions, ", "))
		fields = append(fields, "bound_regions="+strings.Join(u.Regions, ","))
	}
	return fields
}

// fewer returns addresses, or their /24 and /48 networks if there are many.
func fewer(addresses []string) []string {
	if len(addresses) <= mostSuggested/2 {
		return addresses
	}
	var networks []string
	for _, text := range addresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		bits := 24
		if p.Addr().Is6() {
			bits = 48
		}
		if p, err = p.Addr().Prefix(bits); err == nil {
			networks = append(networks, p.String())
		}
	}
	slices.Sort(networks)
	return slices.Compact(networks)
}

// sizeLife adds the longest use, if tokens may live much longer.
func (v *View) sizeLife(i *Item, r *role.Role, u *Used) (fields []string) {
	need := (u.Longest + roundUseTo).Truncate(roundUseTo)
	most := v.longest(r)
	if most <= shortUse*need || static.OfRole(v.Statics, r.Name()) != nil { // the rotation determines the life of a static token
		return nil
	}
	i.because(ReasonShortUse, "no token was used for longer than %s after its issue, and a token may live %s",
		refusal.Short(u.Longest.Truncate(time.Second)), refusal.Short(most))
	fields = append(fields, "max_ttl="+refusal.Short(need))
	if r.TTL > need {
		fields = append(fields, "ttl="+refusal.Short(need))
	}
	if r.AccessTTL > need {
		fields = append(fields, "access_ttl="+refusal.Short(need))
	}
	return fields
}
