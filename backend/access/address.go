package access

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"
)

const maxAddresses = 1000

// manyRanges is the number of ranges from which a routing table is faster than comparing each range. Both give the same
// answers, so that no test can tell them apart.
const manyRanges = 10

// Addresses is a set of IP ranges. The zero value is not restricted: it contains every address.
type Addresses struct {
	ranges []netip.Prefix
	table  *bart.Lite // set from manyRanges on
}

// ParseAddresses parses CIDR ranges ("10.0.0.0/8", "2001:db8::/32") and single addresses. A range of IPv4-mapped IPv6
// addresses becomes the IPv4 range. An empty list gives a set that is not restricted.
func ParseAddresses(list []string) (Addresses, error) {
	if len(list) > maxAddresses {
		return Addresses{}, fmt.Errorf("%d ranges given, at most %d are allowed", len(list), maxAddresses)
	}
	ranges := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		r, err := parseRange(s)
		if err != nil {
			return Addresses{}, err
		}
		ranges = append(ranges, r)
	}
	return NewAddresses(ranges), nil
}

func parseRange(s string) (netip.Prefix, error) {
	bad := func(why string) (netip.Prefix, error) {
		return netip.Prefix{}, fmt.Errorf(`%q is not an address range: %s`, clip(s), why)
	}
	const want = `want an address such as 192.0.2.7 or a CIDR range such as 192.0.2.0/24 or 2001:db8::/32`
	var r netip.Prefix
	if strings.Contains(s, "/") {
		var err error
		if r, err = netip.ParsePrefix(s); err != nil {
			return bad(want)
		}
	} else {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" {
			return bad(want)
		}
		r = netip.PrefixFrom(addr, addr.BitLen())
	}
	if r.Addr().Is4In6() {
		if r.Bits() < 96 {
			return bad("a range of IPv4-mapped addresses needs at least 96 bits")
		}
		r = netip.PrefixFrom(r.Addr().Unmap(), r.Bits()-96)
	}
	if r != r.Masked() {
		return bad(fmt.Sprintf("it has bits set beyond its length, did you mean %s?", r.Masked()))
	}
	return r, nil
}

// NewAddresses returns a set of ranges. The caller has checked the ranges.
func NewAddresses(ranges []netip.Prefix) Addresses {
	a := Addresses{ranges: ranges}
	if len(ranges) >= manyRanges {
		a.table = new(bart.Lite)
		for _, r := range ranges {
			a.table.Insert(r)
		}
	}
	return a
}

// Restricted reports whether there may be an address that a does not contain.
func (a Addresses) Restricted() bool { return len(a.ranges) > 0 }

// Ranges returns the ranges, or nil if a is not restricted.
func (a Addresses) Ranges() []netip.Prefix { return a.ranges }

// Contains reports whether addr is in one of the ranges. An IPv4-mapped IPv6 address counts as the IPv4 address. A zone is
// ignored. Only a set that is not restricted contains an invalid address.
func (a Addresses) Contains(addr netip.Addr) bool {
	if !a.Restricted() {
		return true
	}
	addr = addr.Unmap().WithZone("")
	if a.table != nil {
		return a.table.Contains(addr)
	}
	for _, r := range a.ranges {
		if r.Contains(addr) {
			return true
		}
	}
	return false
}

// Exceeding returns the ranges of narrower that no single range of a covers.
func (a Addresses) Exceeding(narrower Addresses) []netip.Prefix {
	if !a.Restricted() {
		return nil
	}
	var outside []netip.Prefix
next:
	for _, n := range narrower.ranges {
		for _, r := range a.ranges {
			if r.Bits() <= n.Bits() && r.Contains(n.Addr()) {
				continue next
			}
		}
		outside = append(outside, n)
	}
	return outside
}

// Intersect returns the addresses that are in both sets; ok is false if there are none.
func (a Addresses) Intersect(other Addresses) (_ Addresses, ok bool) {
	switch {
	case !a.Restricted():
		return other, true
	case !other.Restricted():
		return a, true
	}
	var both []netip.Prefix
	for _, r := range a.ranges {
		for _, o := range other.ranges {
			if narrower := max(r.Bits(), o.Bits()); !r.Overlaps(o) {
				continue
			} else if r.Bits() == narrower {
				both = append(both, r)
			} else {
				both = append(both, o)
			}
		}
	}
	slices.SortFunc(both, netip.Prefix.Compare)
	both = slices.Compact(both)
	return NewAddresses(both), len(both) > 0
}

// Strings returns the ranges in CIDR notation. The list may be empty but is never nil.
func (a Addresses) Strings() []string {
	list := make([]string, len(a.ranges))
	for i, r := range a.ranges {
		list[i] = r.String()
	}
	return list
}

// ParseClientIP parses the address of a client: an IP address, or an address with a port as in RemoteAddr of net/http.
func ParseClientIP(s string) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr, nil
	}
	if addrPort, err := netip.ParseAddrPort(s); err == nil {
		return addrPort.Addr(), nil
	}
	return netip.Addr{}, fmt.Errorf("%q is not an IP address", clip(s))
}

// ClientRange returns the range of addresses that belong to one client: an IPv4 address, or a /64 network of IPv6. The range
// of an invalid address is the zero Prefix.
func ClientRange(addr netip.Addr) netip.Prefix {
	bits := 64
	if addr = addr.Unmap(); addr.Is4() {
		bits = 32
	}
	p, _ := addr.Prefix(bits)
	return p
}
