package role

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Limits of a role in storage. A storage entry has at most 1 MiB.
const (
	maxRoleBytes = 64 << 10 // encoded, without past versions

	// Past versions beyond these limits are joined.
	maxPast      = 100
	maxPastBytes = 512 << 10
)

// Past is a former version of a role, or the intersection of several former versions.
type Past struct {
	Terms
	First   uint32    `json:"first"`   // number of the oldest joined version
	Version uint32    `json:"version"` // number of the newest joined version
	Since   time.Time `json:"since"`   // beginning of the oldest joined version
	Until   time.Time `json:"until"`   // latest expiry of a token of these versions
}

// version holds the current permissions of the tokens of some versions of the role.
type version struct {
	access.Permissions                   // for a token that the request did not narrow
	issued             *Terms            // terms at the issue
	metadata           map[string]string // without templates
	first, last        uint32
}

// nothing is the version of tokens of a forgotten version: no permissions, and an empty audience.
var nothing = &version{Permissions: access.Permissions{Scopes: access.Scopes{}, Audience: []string{}}, issued: new(Terms)}

// version returns the version with a number; nil for a future version.
func (r *Role) version(number uint32) *version {
	if number > r.Version {
		return nil
	}
	i, found := slices.BinarySearchFunc(r.versions, number, func(v *version, number uint32) int {
		switch {
		case v.last < number:
			return -1
		case v.first > number:
			return 1
		}
		return 0
	})
	if !found {
		return nothing
	}
	return r.versions[i]
}

// Freeze narrows the claims of a new token of an old grant to the current permissions of the grant, if the role was tightened
// since the issue of the grant: a later widening of the role must not widen the new token. Freeze sets only the claims that
// the role narrows, so that changes of a role do not make tokens longer.
func (r *Role) Freeze(claims *token.Claims, permissions *access.Permissions) {
	if claims.RoleVersion == r.Version {
		return
	}
	issued := r.version(claims.RoleVersion).issued
	if claims.Scopes != nil || !slices.Equal(permissions.Scopes, issued.Scopes) {
		claims.Scopes = permissions.Scopes
	}
	if claims.Audience != nil || !slices.Equal(permissions.Audience, issued.Audience) {
		claims.Audience = permissions.Audience
	}
	bounds, _ := permissions.Effective()
	if bounds.Addresses.Restricted() && !sameSet(bounds.Addresses.Strings(), issued.TokenBoundCIDRs) {
		claims.Addresses = bounds.Addresses.Ranges()
	}
	if bounds.Regions.Restricted() && !slices.Equal(bounds.Regions, issued.BoundRegions) {
		claims.Regions = bounds.Regions
	}
	if len(bounds.Hosts) > 0 && !sameSet(bounds.Hosts, issued.BoundHosts) {
		claims.Hosts = bounds.Hosts
	}
}

// sameSet reports whether two lists without repetitions have the same elements.
func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// Succeed makes e the successor of old: a new version if the terms differ. Succeed drops the versions that no live token can
// have. No token lives longer than longest.
func (e *Entry) Succeed(old *Entry, longest time.Duration, now time.Time) error {
	e.Past = nil
	for _, past := range old.Past {
		if now.Before(past.Until) {
			e.Past = append(e.Past, past)
		}
	}
	if reflect.DeepEqual(e.Terms, old.Terms) {
		return nil
	}
	issued := old.Terms
	issued.AllowedScopes = nil // the claims of a narrowed token hold its scopes
	e.Past = append(e.Past, Past{Terms: issued, First: old.Version, Version: old.Version, Since: old.Since, Until: now.Add(longest)})
	e.Version, e.Since = old.Version+1, now
	var err error
	e.Past, err = bounded(e.Past, now)
	return err
}

// bounded joins past versions until the number and size of the versions are within the limits. Each step joins the two
// neighbours that were in force for the shortest time, since the fewest tokens were issued under these versions. A join
// never widens a token: joined versions grant only what both versions grant. If two versions have nothing in common, bounded
// drops the older version, and the tokens of that version lose all permissions. The last version of past was in force until
// end.
func bounded(past []Past, end time.Time) ([]Past, error) {
	sizes := make([]int, len(past))
	total := 0
	for i := range past {
		var err error
		if sizes[i], err = encodedSize(&past[i]); err != nil {
			return nil, err
		}
		total += sizes[i]
	}
	for len(past) > 1 && (len(past) > maxPast || total > maxPastBytes) {
		i := shortest(past, end)
		joined, ok := past[i].join(&past[i+1])
		size, err := encodedSize(&joined)
		if err != nil {
			return nil, err
		}
		if !ok || size > maxRoleBytes {
			joined, size = past[i+1], sizes[i+1]
		}
		total += size - sizes[i] - sizes[i+1]
		past = slices.Replace(past, i, i+2, joined)
		sizes = slices.Replace(sizes, i, i+2, size)
	}
	return past, nil
}

// shortest returns the first of the two neighbours in past that were in force for the shortest time together.
func shortest(past []Past, end time.Time) int {
	best, least := 0, time.Duration(math.MaxInt64)
	for i := range len(past) - 1 {
		over := end
		if i+2 < len(past) {
			over = past[i+2].Since
		}
		if d := over.Sub(past[i].Since); d < least {
			best, least = i, d
		}
	}
	return best
}

// join returns the intersection of two versions, the older version first; ok is false if the intersection is empty.
func (p *Past) join(newer *Past) (joined Past, ok bool) {
	joined = Past{First: p.First, Version: newer.Version, Since: p.Since, Until: p.Until}
	if newer.Until.After(joined.Until) {
		joined.Until = newer.Until
	}
	joined.Scopes = access.Scopes(p.Scopes).Intersect(newer.Scopes)
	joined.Audience = access.IntersectAudiences(p.Audience, newer.Audience)
	joined.Metadata = make(map[string]string)
	for key, value := range p.Metadata {
		if other, both := newer.Metadata[key]; both && other == value {
			joined.Metadata[key] = value
		}
	}
	hosts, ok := access.Hosts(p.BoundHosts).Intersect(newer.BoundHosts)
	if !ok {
		return joined, false
	}
	joined.BoundHosts = hosts
	regions, ok := access.Regions(p.BoundRegions).Intersect(newer.BoundRegions)
	if !ok {
		return joined, false
	}
	joined.BoundRegions = regions
	older, err := access.ParseAddresses(p.TokenBoundCIDRs)
	if err != nil {
		return joined, false
	}
	newerAddresses, err := access.ParseAddresses(newer.TokenBoundCIDRs)
	if err != nil {
		return joined, false
	}
	addresses, ok := older.Intersect(newerAddresses)
	if !ok {
		return joined, false
	}
	if addresses.Restricted() {
		joined.TokenBoundCIDRs = addresses.Strings()
	}
	_, err = access.ParseAddresses(joined.TokenBoundCIDRs) // rejects too many addresses
	return joined, err == nil && (joined.Audience == nil || len(joined.Audience) > 0)
}

// CheckSize rejects a role that is too large to be stored together with its past versions. The refusal names the largest
// field.
func (e *Entry) CheckSize() (field string, err error) {
	current := *e
	current.Past = nil
	size, err := encodedSize(&current)
	if err != nil || size <= maxRoleBytes {
		return "", err
	}
	largest := 0
	for name, value := range map[string]any{
		"scopes": e.Scopes, "allowed_scopes": e.AllowedScopes, "audience": e.Audience, "metadata": e.Metadata, "params": e.Params,
		"token_bound_cidrs": e.TokenBoundCIDRs, "request_bound_cidrs": e.RequestBoundCIDRs, "bound_regions": e.BoundRegions, "bound_hosts": e.BoundHosts,
	} {
		part, err := encodedSize(value)
		if err != nil {
			return "", err
		}
		if part > largest {
			field, largest = name, part
		}
	}
	return field, fmt.Errorf("the role takes %d bytes of storage, at most %d are allowed: choose fewer or shorter values, of this field above all", size, maxRoleBytes)
}

func encodedSize(value any) (int, error) {
	encoded, err := json.Marshal(value)
	return len(encoded), err
}
