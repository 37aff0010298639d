package access

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseHosts(t *testing.T) {
	for _, c := range []struct {
		list []string
		want string // part of the error
	}{
		{[]string{"api.example.com", "*.Example.com", "localhost", "10.0.0.1", "a_b.internal", "az09-9.z"}, ""},
		{[]string{strings.Repeat("a", 63) + ".com"}, ""},
		{[]string{strings.Repeat("ab.", 84) + "c"}, ""},
		{[]string{strings.Repeat("ab.", 84) + "cd"}, "not a host name"},
		{[]string{"api.example.com:443"}, "without port"},
		{[]string{"https://example.com"}, "not a host name"},
		{[]string{"*"}, "not a host name"},
		{[]string{"a.*.com"}, "not a host name"},
		{[]string{"-a.com"}, "not a host name"},
		{[]string{"a-.com"}, "not a host name"},
		{[]string{"a/com"}, "not a host name"},
		{[]string{"a{com"}, "not a host name"},
		{[]string{""}, "not a host name"},
		{[]string{"a..b"}, "not a host name"},
		{[]string{strings.Repeat("a", 64)}, "not a host name"},
		{[]string{"a.com", "A.com"}, "twice"},
		{make([]string, maxHosts+1), "at most 100"},
	} {
		_, err := ParseHosts(c.list)
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%.60q: got %v, want %q", c.list, err, c.want)
		}
	}
}

func TestHostsContain(t *testing.T) {
	hosts := Hosts{"api.example.com", "*.internal"}
	for s, want := range map[string]bool{
		"api.example.com": true, "API.example.com:8443": true, "api.example.com.": true, "a.internal": true,
		"example.com": false, "x.api.example.com": false, "internal": false, "a.b.internal": false,
	} {
		host, err := ParseHost(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := hosts.Contains(host); got != want {
			t.Errorf("contains %q: %v", s, got)
		}
	}
	for _, s := range []string{"http://x/", "api.example.com:65536", "api.example.com:http", ""} {
		if host, err := ParseHost(s); err == nil {
			t.Errorf("%q is taken for the host %q", s, host)
		}
	}
	if !Hosts(nil).Contains("") || hosts.Contains("") {
		t.Error("the empty host is only in what is not restricted")
	}
	if (Hosts{"*."}).Contains("localhost") {
		t.Error("a host without a parent matches a wildcard")
	}
}

func TestMaxHosts(t *testing.T) {
	list := make([]string, maxHosts)
	for i := range list {
		list[i] = fmt.Sprintf("host-%d", i)
	}
	if hosts, err := ParseHosts(list); err != nil || len(hosts) != maxHosts {
		t.Error(err)
	}
}

func TestIntersectHosts(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"", "", ""},
		{"a.com", "", "a.com"},
		{"", "a.com", "a.com"},
		{"a.com b.com", "b.com c.com", "b.com"},
		{"*.com", "a.com b.org", "a.com"},
		{"a.com b.org", "*.com", "a.com"},
		{"*.com a.com", "*.com", "*.com a.com"},
		{"a.com", "b.com", "nothing"},
	} {
		got, ok := Hosts(strings.Fields(c.a)).Intersect(strings.Fields(c.b))
		if ok != (c.want != "nothing") || ok && strings.Join(got, " ") != c.want {
			t.Errorf("%q and %q: %q, %v; want %q", c.a, c.b, got, ok, c.want)
		}
	}
}

func TestAudiences(t *testing.T) {
	long := strings.Repeat("a", maxAudienceLen)
	many := make([]string, maxAudiences+1)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	for _, list := range [][]string{nil, {"billing", "https://api.example.com/~x"}, {"!", "~"}, {long}, many[1:]} {
		if got, err := ParseAudience(list); err != nil || len(got) != len(list) {
			t.Errorf("%.80q: %v", list, err)
		}
	}
	for _, list := range [][]string{{""}, {"a b"}, {"a\x7f"}, {"\u00e9"}, {long + "a"}, {"a", "b", "a"}, many} {
		if _, err := ParseAudience(list); err == nil {
			t.Errorf("%.80q is accepted", list)
		}
	}
	for _, c := range []struct{ a, b, want []string }{
		{nil, nil, nil},
		{nil, []string{"a"}, []string{"a"}},
		{[]string{"a"}, nil, []string{"a"}},
		{[]string{"a", "b"}, []string{"b", "c"}, []string{"b"}},
		{[]string{"a"}, []string{"b"}, []string{}},
		{nil, []string{}, []string{}},
	} {
		if got := IntersectAudiences(c.a, c.b); (got == nil) != (c.want == nil) || !slices.Equal(got, c.want) {
			t.Errorf("%q and %q: %q, want %q", c.a, c.b, got, c.want)
		}
	}
}

func TestEmpty(t *testing.T) {
	some := func() *Permissions { return &Permissions{Scopes: Scopes{"a"}} }
	with := func(f func(*Permissions)) *Permissions { p := some(); f(p); return p }
	for name, c := range map[string]struct {
		permissions *Permissions
		want        bool
	}{
		"nil":         {nil, true},
		"scopes":      {some(), false},
		"no scopes":   {new(Permissions), true},
		"an audience": {with(func(p *Permissions) { p.Audience = []string{"x"} }), false},
		"no audience": {with(func(p *Permissions) { p.Audience = []string{} }), true},
		"addresses": {with(func(p *Permissions) {
			p.Addresses = []Addresses{mustAddresses(t, "10.0.0.0/8"), mustAddresses(t, "10.1.0.0/16")}
		}), false},
		"no address left": {with(func(p *Permissions) {
			p.Addresses = []Addresses{mustAddresses(t, "10.0.0.0/8"), mustAddresses(t, "::1")}
		}), true},
		"hosts":          {with(func(p *Permissions) { p.Hosts = []Hosts{{"*.com"}, {"a.com"}} }), false},
		"no host left":   {with(func(p *Permissions) { p.Hosts = []Hosts{{"*.com"}, {"com"}} }), true},
		"regions":        {with(func(p *Permissions) { p.Regions = []Regions{{"AT", "DE"}, {"DE"}} }), false},
		"no region left": {with(func(p *Permissions) { p.Regions = []Regions{{"AT"}, {"DE"}} }), true},
	} {
		if got := c.permissions.Empty(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	p := with(func(p *Permissions) {
		p.Addresses = []Addresses{mustAddresses(t, "10.0.0.0/8"), mustAddresses(t, "10.1.0.0/16")}
		p.Hosts = []Hosts{{"*.com"}, {"a.com"}}
		p.Regions = []Regions{{"AT", "DE"}, {"DE", "FR"}}
	})
	if b, ok := p.Effective(); !ok || fmt.Sprint(b.Addresses.Strings(), b.Hosts, b.Regions) != "[10.1.0.0/16] [a.com] [DE]" {
		t.Error(b.Addresses.Strings(), b.Hosts, b.Regions, ok)
	}
	for _, b := range []Bounds{{Addresses: mustAddresses(t, "::1")}, {Regions: Regions{"DE"}}, {Hosts: Hosts{"a.com"}}} {
		if !b.Restricted() || new(Bounds).Restricted() {
			t.Error(b)
		}
	}
}

func TestExplain(t *testing.T) {
	bound := &Permissions{
		Scopes: Scopes{"a"}, Audience: []string{"billing"}, Hosts: []Hosts{{"api.example.com"}},
		Addresses: []Addresses{mustAddresses(t, "10.0.0.0/8"), {}, mustAddresses(t, "10.1.0.0/16")}, Regions: []Regions{{"AT", "DE"}, {"DE"}},
	}
	elsewhere := &Use{Scopes: []string{"a", "b"}, Audience: "hr", ClientIP: netip.MustParseAddr("192.0.2.1"), Region: "FR", Host: "evil.example.com"}
	for _, c := range []struct {
		reason Reason
		use    *Use
		want   string // part of the sentence
	}{
		{WrongAudience, elsewhere, `["billing"], not for "hr"`},
		{InsufficientScope, elsewhere, `does not cover ["b"]`},
		{AddressNotAllowed, elsewhere, "from [10.0.0.0/8] and [10.1.0.0/16], not from 192.0.2.1"},
		{AddressNotAllowed, new(Use), "client_ip"},
		{RegionNotAllowed, elsewhere, "from regions [AT DE] and [DE], not from FR"},
		{RegionNotAllowed, new(Use), "missing or not known"},
		{HostNotAllowed, elsewhere, `not at "evil.example.com"`},
		{HostNotAllowed, new(Use), "and host is missing"},
		{Malformed, elsewhere, "checksum"},
		{WrongEnvironment, elsewhere, "this mount"},
		{Unknown, elsewhere, "no record"},
	} {
		if got := Explain(c.reason, bound, c.use); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.reason, got, c.want)
		}
	}
	if got := Explain(InsufficientScope, new(Permissions), elsewhere); got != `the token grants no scopes, and ["a" "b"] is required` {
		t.Errorf("without scopes: %q", got)
	}
}

func TestDecide(t *testing.T) {
	now := time.Unix(1000, 0)
	alive := State{ExpiresAt: now.Add(time.Second)}
	grant := Permissions{Scopes: Scopes{"a:*"}}
	bound := Permissions{
		Scopes: grant.Scopes, Audience: []string{"billing"}, Hosts: []Hosts{{"api.example.com"}},
		Addresses: []Addresses{mustAddresses(t, "10.0.0.0/8"), mustAddresses(t, "10.1.0.0/16", "192.0.2.0/24")},
		Regions:   []Regions{{"AT", "DE"}, {"DE", "FR"}},
	}
	good := Use{Scopes: []string{"a:b"}, Audience: "billing", ClientIP: netip.MustParseAddr("10.1.2.3"), Region: "DE", Host: "api.example.com"}
	with := func(f func(*Use)) Use { u := good; f(&u); return u }

	for _, c := range []struct {
		name  string
		state State
		grant Permissions
		use   Use
		want  Reason
	}{
		{"unbound, nothing asked", alive, grant, Use{}, Good},
		{"unbound, all told", alive, grant, good, Good},
		{"bound, all told", alive, bound, good, Good},
		{"at its end", State{ExpiresAt: now}, grant, Use{}, Expired},
		{"expired goes before revoked", State{ExpiresAt: now, Revoked: true}, grant, Use{}, Expired},
		{"revoked", State{ExpiresAt: alive.ExpiresAt, Revoked: true, RoleDeleted: true}, grant, Use{}, Revoked},
		{"role deleted", State{ExpiresAt: alive.ExpiresAt, RoleDeleted: true, SubjectDisabled: true}, grant, Use{}, RoleDeleted},
		{"subject disabled", State{ExpiresAt: alive.ExpiresAt, SubjectDisabled: true}, grant, Use{Audience: "x"}, SubjectDisabled},
		{"another audience", alive, bound, with(func(u *Use) { u.Audience = "hr" }), WrongAudience},
		{"no audience left", alive, Permissions{Audience: []string{}}, Use{}, WrongAudience},
		{"audience not asked", alive, bound, with(func(u *Use) { u.Audience = "" }), Good},
		{"scope", alive, bound, with(func(u *Use) { u.Scopes = []string{"a:b", "b"} }), InsufficientScope},
		{"in one of the two ranges", alive, bound, with(func(u *Use) { u.ClientIP = netip.MustParseAddr("192.0.2.1") }), AddressNotAllowed},
		{"address not told", alive, bound, with(func(u *Use) { u.ClientIP = netip.Addr{} }), AddressNotAllowed},
		{"mapped address", alive, bound, with(func(u *Use) { u.ClientIP = netip.MustParseAddr("::ffff:10.1.2.3") }), Good},
		{"in one of the two sets of regions", alive, bound, with(func(u *Use) { u.Region = "AT" }), RegionNotAllowed},
		{"region not told", alive, bound, with(func(u *Use) { u.Region = "" }), RegionNotAllowed},
		{"address goes before region", alive, bound, with(func(u *Use) { u.ClientIP, u.Region = netip.Addr{}, "" }), AddressNotAllowed},
		{"region goes before host", alive, bound, with(func(u *Use) { u.Region, u.Host = "US", "" }), RegionNotAllowed},
		{"host", alive, bound, with(func(u *Use) { u.Host = "evil.example.com" }), HostNotAllowed},
		{"host not told", alive, bound, with(func(u *Use) { u.Host = "" }), HostNotAllowed},
	} {
		got := Decide(now, c.state, &c.grant, &c.use)
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if sentence := Explain(got, &c.grant, &c.use); (sentence == "") != (got == Good) {
			t.Errorf("%s: %q is explained as %q", c.name, got, sentence)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	now := time.Unix(1000, 0)
	grant := &Permissions{Scopes: Scopes{"a:*"}, Addresses: []Addresses{mustAddresses(b, "10.0.0.0/8")}}
	use := &Use{Scopes: []string{"a:b"}, ClientIP: netip.MustParseAddr("10.1.2.3")}
	b.ReportAllocs()
	for b.Loop() {
		if Decide(now, State{ExpiresAt: now.Add(time.Second)}, grant, use) != Good {
			b.Fatal()
		}
	}
}
