package report

import (
	"net/netip"
	"slices"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
)

// Bounds of what a Record keeps of the uses of a role's tokens.
const (
	maxScopes    = 64
	maxAddresses = 32
	maxRegions   = 32
)

// Record is what is remembered of a role, a connection or a static role beyond the life of its tokens.
type Record struct {
	Since time.Time `json:"since"`         // since when the engine remembers, to the second
	Last  time.Time `json:"last,omitzero"` // last issue, or last read of a static role's token, to the minute; zero: none
	Used  Used      `json:"used,omitzero"` // only of a role
}

// Used is what uses of tokens needed. A list that is full takes no more: More says so.
type Used struct {
	Scopes    []string      `json:"scopes,omitempty"`    // sorted
	Addresses []string      `json:"addresses,omitempty"` // last address of each token, sorted
	Regions   []string      `json:"regions,omitempty"`   // last region of each token (ISO 3166-1 alpha-2), sorted
	Longest   time.Duration `json:"longest,omitempty"`   // longest time from an issue to the last use
	Seen      bool          `json:"seen,omitempty"`      // a use was reported
	More      bool          `json:"more,omitempty"`      // a list is not complete
}

// merge adds another record, and reports whether the record has changed.
func (r *Record) merge(o *Record) (changed bool) {
	if r.Since.IsZero() || !o.Since.IsZero() && o.Since.Before(r.Since) {
		r.Since, changed = o.Since, true
	}
	if o.Last.After(r.Last) {
		r.Last, changed = o.Last, true
	}
	return r.Used.merge(&o.Used) || changed
}

func (u *Used) merge(o *Used) (changed bool) {
	changed = u.add(&u.Scopes, o.Scopes, maxScopes)
	changed = u.add(&u.Addresses, o.Addresses, maxAddresses) || changed
	changed = u.add(&u.Regions, o.Regions, maxRegions) || changed
	if o.Longest > u.Longest {
		u.Longest, changed = o.Longest, true
	}
	if o.Seen && !u.Seen || o.More && !u.More {
		u.Seen, u.More, changed = u.Seen || o.Seen, u.More || o.More, true
	}
	return changed
}

// UsedBy returns what the uses of a token needed; the zero Used if no use is known.
func UsedBy(usage *insight.Usage, row *ledger.Row) Used {
	var u Used
	if seen, used := usage.LastSeen(row.ID); used {
		u.see(row, &seen)
	}
	return u
}

// see adds what the uses of a token needed.
func (u *Used) see(row *ledger.Row, seen *insight.LastSeen) {
	u.Seen, u.More = true, u.More || seen.MoreScopes
	u.Longest = max(u.Longest, seen.At.Sub(row.IssuedAt))
	u.add(&u.Scopes, seen.Scopes, maxScopes)
	if full := u.More && len(u.Addresses) == maxAddresses; seen.Address.IsValid() && !full {
		u.add(&u.Addresses, []string{prefixOf(seen.Address).String()}, maxAddresses)
	}
	if seen.Region != "" {
		u.add(&u.Regions, []string{seen.Region}, maxRegions)
	}
}

// add adds values to a sorted list, and reports whether the list has changed. A list that is full sets More.
func (u *Used) add(list *[]string, values []string, most int) (changed bool) {
	for _, value := range values {
		at, has := slices.BinarySearch(*list, value)
		switch {
		case has:
		case len(*list) >= most:
			changed, u.More = changed || !u.More, true
		default:
			*list, changed = slices.Insert(slices.Clone(*list), at, value), true
		}
	}
	return changed
}

// prefixOf returns an IPv4 address, or the /64 of an IPv6 address: hosts change the rest of an IPv6 address at will.
func prefixOf(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(a, 32)
	}
	p, _ := a.Prefix(64)
	return p
}
