// Package access decides where and for what a token may be used: by scopes, addresses, regions, hosts and audiences. It does
// not depend on Vault.
package access

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Reason is why a token is not good. The zero Reason means that the token is good.
type Reason string

// The reasons, in the order of the checks.
const (
	Good              Reason = ""
	Malformed         Reason = "malformed"           // the text is not a token: noise or a typing error
	WrongEnvironment  Reason = "wrong_environment"   // another mount issued the token
	Unknown           Reason = "unknown"             // no record of the token exists
	Expired           Reason = "expired"             // its lease expired
	Revoked           Reason = "revoked"             // it was revoked
	RoleDeleted       Reason = "role_deleted"        // its role was deleted
	Suspended         Reason = "suspended"           // it is suspended, or the entity that requested it is; a resume undoes that
	SubjectDisabled   Reason = "subject_disabled"    // the entity that requested it is disabled or was deleted
	WrongAudience     Reason = "wrong_audience"      // its audience is another API
	InsufficientScope Reason = "insufficient_scope"  // it does not grant a required scope
	AddressNotAllowed Reason = "address_not_allowed" // the client's address is not in token_bound_cidrs
	RegionNotAllowed  Reason = "region_not_allowed"  // the client's region is not in bound_regions
	HostNotAllowed    Reason = "host_not_allowed"    // the host is not in bound_hosts
)

// Permissions are what a token may be used for.
type Permissions struct {
	Scopes    Scopes
	Audience  []string    // nil: any audience; empty and not nil: none
	Addresses []Addresses // the client's address must be in each set; nil: any address
	Regions   []Regions   // the client's region must be in each set; nil: any region
	Hosts     []Hosts     // the API's host must be in each set; nil: any host
}

// Bounds are where a token may be used from, and at which hosts.
type Bounds struct {
	Addresses Addresses
	Regions   Regions
	Hosts     Hosts
}

// Restricted reports whether any of the bounds is restricted.
func (b *Bounds) Restricted() bool {
	return b.Addresses.Restricted() || b.Regions.Restricted() || len(b.Hosts) > 0
}

// Effective returns the intersection of all sets of addresses, of all sets of regions, and of all sets of hosts; ok is
// false if one of them is empty.
func (p *Permissions) Effective() (b Bounds, ok bool) {
	for _, a := range p.Addresses {
		if b.Addresses, ok = b.Addresses.Intersect(a); !ok {
			return b, false
		}
	}
	for _, r := range p.Regions {
		if b.Regions, ok = b.Regions.Intersect(r); !ok {
			return b, false
		}
	}
	for _, h := range p.Hosts {
		if b.Hosts, ok = b.Hosts.Intersect(h); !ok {
			return b, false
		}
	}
	return b, true
}

// Empty reports whether no use is left.
func (p *Permissions) Empty() bool {
	if p == nil || len(p.Scopes) == 0 || (p.Audience != nil && len(p.Audience) == 0) {
		return true
	}
	_, ok := p.Effective()
	return !ok
}

// Use is a use of a token. An API states what it requires in Scopes and Audience, and what it sees in ClientIP, Region
// and Host. A token that is bound to addresses, regions or hosts is not good for a use that does not state them: bounds
// hold even if an API forgets to send the facts.
type Use struct {
	Scopes   []string   // must all be granted; nil: nothing is required
	Audience string     // must be in the audience; empty: not required
	ClientIP netip.Addr // the client's address; invalid: not stated
	Region   string     // the client's region, as ParseRegion returns it; empty: not stated
	Host     string     // the API's host, as ParseHost returns it; empty: not stated
}

// State is the state of a token, whatever its permissions.
type State struct {
	ExpiresAt       time.Time // the token is not good from this moment on
	Revoked         bool
	RoleDeleted     bool
	Suspended       bool
	SubjectDisabled bool
}

// Alive returns why the token is not good for any use, or Good.
func (s State) Alive(now time.Time) Reason {
	switch {
	case !now.Before(s.ExpiresAt):
		return Expired
	case s.Revoked:
		return Revoked
	case s.RoleDeleted:
		return RoleDeleted
	case s.Suspended:
		return Suspended
	case s.SubjectDisabled:
		return SubjectDisabled
	}
	return Good
}

// Ended reports whether the token is dead for good: no resume revives it.
func (s State) Ended(now time.Time) bool {
	reason := s.Alive(now)
	return reason != Good && reason != Suspended
}

// Decide returns why a token with this state and these permissions is not good for this use now. Every path that accepts
// a token calls Decide.
func Decide(now time.Time, state State, permissions *Permissions, use *Use) Reason {
	if reason := state.Alive(now); reason != Good {
		return reason
	}
	switch {
	case !permissions.allowsAudience(use.Audience):
		return WrongAudience
	case len(permissions.Scopes.Missing(use.Scopes)) > 0:
		return InsufficientScope
	case !permissions.allowsAddress(use.ClientIP):
		return AddressNotAllowed
	case !permissions.allowsRegion(use.Region):
		return RegionNotAllowed
	case !permissions.allowsHost(use.Host):
		return HostNotAllowed
	}
	return Good
}

func (p *Permissions) allowsAudience(audience string) bool {
	switch {
	case p.Audience == nil:
		return true
	case audience == "":
		return len(p.Audience) > 0
	}
	return slices.Contains(p.Audience, audience)
}

func (p *Permissions) allowsAddress(addr netip.Addr) bool {
	for i := range p.Addresses {
		if !p.Addresses[i].Contains(addr) {
			return false
		}
	}
	return true
}

func (p *Permissions) allowsRegion(region string) bool {
	for i := range p.Regions {
		if !p.Regions[i].Contains(region) {
			return false
		}
	}
	return true
}

func (p *Permissions) allowsHost(host string) bool {
	for i := range p.Hosts {
		if !p.Hosts[i].Contains(host) {
			return false
		}
	}
	return true
}

// Explain describes a reason in a sentence, for a caller who may know the permissions; empty for Good.
func Explain(reason Reason, permissions *Permissions, use *Use) string {
	switch reason {
	case Malformed:
		return "this is not a token: its checksum is wrong, it may be truncated or mistyped"
	case WrongEnvironment:
		return "the token was not issued by this mount"
	case Unknown:
		return "this mount has no record of the token"
	case Expired:
		return "the token's lease expired"
	case Revoked:
		return "the token was revoked"
	case RoleDeleted:
		return "the token's role was deleted"
	case Suspended:
		return "the token is suspended, or the Vault entity that requested the token is"
	case SubjectDisabled:
		return "the Vault entity that requested the token was disabled or deleted"
	case WrongAudience:
		return fmt.Sprintf("the token is for audience %q, not for %q", permissions.Audience, use.Audience)
	case InsufficientScope:
		if len(permissions.Scopes) == 0 {
			return fmt.Sprintf("the token grants no scopes, and %q is required", permissions.Scopes.Missing(use.Scopes))
		}
		return fmt.Sprintf("the token grants %q, which does not cover %q", permissions.Scopes, permissions.Scopes.Missing(use.Scopes))
	case AddressNotAllowed:
		if !use.ClientIP.IsValid() {
			return fmt.Sprintf("the token is bound to addresses %s, and client_ip is missing", describeAll(permissions.Addresses))
		}
		return fmt.Sprintf("the token may be used from %s, not from %s", describeAll(permissions.Addresses), use.ClientIP)
	case RegionNotAllowed:
		if use.Region == "" {
			return fmt.Sprintf("the token is bound to regions %s, and the region of the client is missing or not known", describeRegions(permissions.Regions))
		}
		return fmt.Sprintf("the token may be used from regions %s, not from %s", describeRegions(permissions.Regions), use.Region)
	case HostNotAllowed:
		if use.Host == "" {
			return fmt.Sprintf("the token is bound to hosts %q, and host is missing", slices.Concat(permissions.Hosts...))
		}
		return fmt.Sprintf("the token may be used at %q, not at %q", slices.Concat(permissions.Hosts...), use.Host)
	}
	return ""
}

// describeAll lists the restricted sets. An address must be in each of them.
func describeAll(sets []Addresses) string {
	var all []string
	for _, set := range sets {
		if set.Restricted() {
			all = append(all, fmt.Sprint(set.Strings()))
		}
	}
	return strings.Join(all, " and ")
}

// describeRegions lists the sets. A region must be in each of them.
func describeRegions(sets []Regions) string {
	all := make([]string, len(sets))
	for i, set := range sets {
		all[i] = fmt.Sprint([]string(set))
	}
	return strings.Join(all, " and ")
}
