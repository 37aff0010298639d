package report

import (
	"context"
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
	more := false
	for _, list := range []struct {
		into *[]string
		of   []string
		most int
	}{{&u.Scopes, o.Scopes, maxScopes}, {&u.Addresses, o.Addresses, maxAddresses}, {&u.Regions, o.Regions, maxRegions}} {
		for _, value := range list.of {
			at, has := slices.BinarySearch(*list.into, value)
			switch {
			case has:
			case len(*list.into) >= list.most:
				more = true
			default:
				*list.into, changed = slices.Insert(slices.Clone(*list.into), at, value), true
			}
		}
	}
	if o.Longest > u.Longest {
		u.Longest, changed = o.Longest, true
	}
	if o.Seen && !u.Seen || (o.More || more) && !u.More {
		u.Seen, u.More, changed = u.Seen || o.Seen, u.More || o.More || more, true
	}
	return changed
}

// UsedBy returns what the uses of a token needed; the zero Used if no use is known.
func UsedBy(ctx context.Context, usage *insight.Usage, row *ledger.Row) Used {
	of, err := usage.Get(ctx, row.ID)
	if err != nil || of.LastUse.IsZero() {
		return Used{}
	}
	u := Used{Seen: true, Scopes: of.Scopes, More: of.MoreScopes, Longest: max(0, of.LastUse.Sub(row.IssuedAt))}
	if of.Address.IsValid() {
		u.Addresses = []string{prefixOf(of.Address).String()}
	}
	if of.Region != "" {
		u.Regions = []string{of.Region}
	}
	return u
}

// prefixOf returns an IPv4 address, or the /64 of an IPv6 address: hosts change the rest of an IPv6 address at will.
func prefixOf(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(a, 32)
	}
	p, _ := a.Prefix(64)
	return p
}
