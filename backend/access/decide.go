// Package access decides where and for what a token may be used: scopes, addresses, hosts and
// audiences, and the one decision that takes them all in. It knows nothing of Vault.
package access

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Reason says why a token is not good. The zero Reason: it is good.
type Reason string

// The reasons, in the order in which Decide looks for them.
const (
	Good              Reason = ""
	Malformed         Reason = "malformed"           // the text is no token: noise, or mistyped
	WrongEnvironment  Reason = "wrong_environment"   // another mount issued the token
	Unknown           Reason = "unknown"             // no record of the token exists
	Expired           Reason = "expired"             // its lease expired
	Revoked           Reason = "revoked"             // it was revoked
	RoleDeleted       Reason = "role_deleted"        // its role was deleted
	SubjectDisabled   Reason = "subject_disabled"    // the entity that requested it is disabled or was deleted
	WrongAudience     Reason = "wrong_audience"      // it is meant for another API
	InsufficientScope Reason = "insufficient_scope"  // it does not grant a required scope
	AddressNotAllowed Reason = "address_not_allowed" // the client's address is not in token_bound_cidrs
	HostNotAllowed    Reason = "host_not_allowed"    // the host is not in bound_hosts
)

// Permissions are what a token may be used for.
type Permissions struct {
	Scopes    Scopes
	Audience  []string    // nil: any audience; empty and not nil: none
	Addresses []Addresses // it must come from an address that is in each; nil: from anywhere
	Hosts     []Hosts     // it must be used at a host that is in each; nil: at any host
}

// Effective returns the intersection of all sets of addresses, and of all sets of hosts; ok is false if one of them is
// empty.
func (p *Permissions) Effective() (addresses Addresses, hosts Hosts, ok bool) {
	for _, a := range p.Addresses {
		if addresses, ok = addresses.Intersect(a); !ok {
			return addresses, hosts, false
		}
	}
	for _, h := range p.Hosts {
		if hosts, ok = hosts.Intersect(h); !ok {
			return addresses, hosts, false
		}
	}
	return addresses, hosts, true
}

// Empty reports whether no use is left.
func (p *Permissions) Empty() bool {
	if p == nil || len(p.Scopes) == 0 || (p.Audience != nil && len(p.Audience) == 0) {
		return true
	}
	_, _, ok := p.Effective()
	return !ok
}

// Use is a use of a token. An API states what it requires in Scopes and Audience, and what it sees in ClientIP and Host.
// A bound token is not good for a use that does not state the fact it is bound to: bounds hold even if an API forgets to
// ask.
type Use struct {
	Scopes   []string   // must all be granted; nil: nothing is required
	Audience string     // must be in the audience; empty: not required
	ClientIP netip.Addr // where the token was used from; invalid: not stated
	Host     string     // the API host it was used at, as ParseHost returns it; empty: not stated
}

// State is what is known of a token apart from its grants.
type State struct {
	ExpiresAt       time.Time // not good from this moment on
	Revoked         bool
	RoleDeleted     bool
	SubjectDisabled bool
}

// Alive checks the state of the token, whatever its use.
func (s State) Alive(now time.Time) Reason {
	switch {
	case !now.Before(s.ExpiresAt):
		return Expired
	case s.Revoked:
		return Revoked
	case s.RoleDeleted:
		return RoleDeleted
	case s.SubjectDisabled:
		return SubjectDisabled
	}
	return Good
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
		return "this is no token: noise, cut short or mistyped, its checksum does not fit"
	case WrongEnvironment:
		return "the token was not made by this mount"
	case Unknown:
		return "nothing is known of this token here"
	case Expired:
		return "the token's lease has ended"
	case Revoked:
		return "the token was revoked"
	case RoleDeleted:
		return "the role that the token was issued from has been deleted"
	case SubjectDisabled:
		return "the Vault entity that asked for the token has been disabled or deleted"
	case WrongAudience:
		return fmt.Sprintf("the token is for audience %q, not for %q", permissions.Audience, use.Audience)
	case InsufficientScope:
		return fmt.Sprintf("the token grants %q, which does not cover %q", permissions.Scopes, permissions.Scopes.Missing(use.Scopes))
	case AddressNotAllowed:
		if !use.ClientIP.IsValid() {
			return fmt.Sprintf("the token is bound to addresses %s, and client_ip does not tell where it was used from", describeAll(permissions.Addresses))
		}
		return fmt.Sprintf("the token may be used from %s, not from %s", describeAll(permissions.Addresses), use.ClientIP)
	case HostNotAllowed:
		if use.Host == "" {
			return fmt.Sprintf("the token is bound to hosts %q, and host does not tell where it was used", slices.Concat(permissions.Hosts...))
		}
		return fmt.Sprintf("the token may be used at %q, not at %q", slices.Concat(permissions.Hosts...), use.Host)
	}
	return ""
}

// describeAll writes sets of ranges that an address must be in each of.
func describeAll(sets []Addresses) string {
	var all []string
	for _, set := range sets {
		if set.Restricted() {
			all = append(all, fmt.Sprint(set.Strings()))
		}
	}
	return strings.Join(all, " and ")
}
