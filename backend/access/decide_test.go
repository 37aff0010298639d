package access

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestParseHosts(t *testing.T) {
	for _, c := range []struct {
		list []string
		want string // part of the error
	}{
		{[]string{"api.example.com", "*.Example.com", "localhost", "10.0.0.1", "a_b.internal"}, ""},
		{[]string{"api.example.com:443"}, "without port"},
		{[]string{"https://example.com"}, "not a host name"},
		{[]string{"*"}, "not a host name"},
		{[]string{"a.*.com"}, "not a host name"},
		{[]string{"-a.com"}, "not a host name"},
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
	if _, err := ParseHost("http://x/"); err == nil {
		t.Error("a URL is taken for a host")
	}
}

func TestDecide(t *testing.T) {
	now := time.Unix(1000, 0)
	alive := State{ExpiresAt: now.Add(time.Second)}
	grant := Permissions{Scopes: Scopes{"a:*"}}
	bound := Permissions{
		Scopes: grant.Scopes, Audience: []string{"billing"}, Hosts: []Hosts{{"api.example.com"}},
		Addresses: []Addresses{mustAddresses(t, "10.0.0.0/8"), mustAddresses(t, "10.1.0.0/16", "192.0.2.0/24")},
	}
	good := Use{Scopes: []string{"a:b"}, Audience: "billing", ClientIP: netip.MustParseAddr("10.1.2.3"), Host: "api.example.com"}
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
