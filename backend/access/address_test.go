package access

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestParseAddresses(t *testing.T) {
	for _, c := range []struct{ list, want string }{
		{"192.0.2.0/24", "192.0.2.0/24"},
		{"192.0.2.7", "192.0.2.7/32"},
		{"2001:db8::/32 10.0.0.0/8", "2001:db8::/32 10.0.0.0/8"},
		{"2001:DB8::1", "2001:db8::1/128"},
		{"::ffff:192.0.2.0/120", "192.0.2.0/24"},
		{"::ffff:192.0.2.1", "192.0.2.1/32"},
		{"0.0.0.0/0", "0.0.0.0/0"},
		{"::ffff:0.0.0.0/96", "0.0.0.0/0"},
		{"", ""},
		{"192.0.2.1/24", "!did you mean 192.0.2.0/24"},
		{"::ffff:0.0.0.0/64", "!at least 96 bits"},
		{"192.0.2.0/33", "!CIDR range such as"},
		{"192.0.2.0/-1", "!CIDR range such as"},
		{"192.0.2.0/024", "!CIDR range such as"},
		{"192.0.02.0/24", "!CIDR range such as"},
		{"300.0.0.1", "!CIDR range such as"},
		{"fe80::1%eth0", "!CIDR range such as"},
		{"fe80::%eth0/64", "!CIDR range such as"},
		{"example.com", "!CIDR range such as"},
		{strings.Repeat("1", 5000), "!1111..."},
		{strings.Repeat("10.0.0.0/8 ", maxAddresses+1), "!at most 1000"},
	} {
		got, err := ParseAddresses(strings.Fields(c.list))
		if want, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%.40q: got %v, want %q", c.list, err, want)
			}
			continue
		}
		if err != nil || strings.Join(got.Strings(), " ") != c.want {
			t.Errorf("%q: %q, %v", c.list, got.Strings(), err)
		}
	}
}

func TestAddressesContain(t *testing.T) {
	few := mustAddresses(t, "192.0.2.0/24", "2001:db8::/32")
	list := []string{"192.0.2.0/24", "2001:db8::/32"}
	for i := range 2 * manyRanges {
		list = append(list, fmt.Sprintf("198.18.%d.0/24", i))
	}
	many := mustAddresses(t, list...)
	for addr, want := range map[string]bool{
		"192.0.2.200":        true,
		"192.0.3.1":          false,
		"::ffff:192.0.2.200": true,
		"2001:db8::1":        true,
		"2001:db8::1%eth0":   true,
		"2001:db9::1":        false,
		"::1":                false,
	} {
		for name, set := range map[string]Addresses{"few": few, "many": many} {
			if got := set.Contains(netip.MustParseAddr(addr)); got != want {
				t.Errorf("%s contains %s: %v", name, addr, got)
			}
		}
	}
	var any Addresses
	if few.Contains(netip.Addr{}) || many.Contains(netip.Addr{}) || !any.Contains(netip.Addr{}) {
		t.Error("an address that is not told is only in what is not restricted")
	}
}

func TestExceeding(t *testing.T) {
	role := mustAddresses(t, "10.0.0.0/8", "2001:db8::/32")
	asked := mustAddresses(t, "10.1.0.0/16", "0.0.0.0/0", "2001:db8:1::/48", "::/0", "192.0.2.1")
	if got := fmt.Sprint(role.Exceeding(asked)); got != "[0.0.0.0/0 ::/0 192.0.2.1/32]" {
		t.Error(got)
	}
	if got := (Addresses{}).Exceeding(asked); got != nil {
		t.Errorf("%v exceed what is not restricted", got)
	}
}

func TestIntersectAddresses(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"", "", ""},
		{"10.0.0.0/8", "", "10.0.0.0/8"},
		{"", "10.0.0.0/8", "10.0.0.0/8"},
		{"10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/16"},
		{"10.1.0.0/16", "10.0.0.0/8", "10.1.0.0/16"},
		{"10.0.0.0/8", "10.0.0.0/8", "10.0.0.0/8"},
		{"10.2.0.0/16 10.0.0.0/8", "10.1.0.0/16 192.0.2.1 10.2.3.0/24", "10.1.0.0/16 10.2.3.0/24"},
		{"0.0.0.0/0", "::/0", "nothing"},
		{"192.0.2.1", "192.0.2.2", "nothing"},
	} {
		got, ok := mustAddresses(t, strings.Fields(c.a)...).Intersect(mustAddresses(t, strings.Fields(c.b)...))
		if ok != (c.want != "nothing") || ok && strings.Join(got.Strings(), " ") != c.want {
			t.Errorf("%q and %q: %q, %v; want %q", c.a, c.b, got.Strings(), ok, c.want)
		}
	}
}

// As many ranges as the limit allows are accepted, and are looked up in a table.
func TestMaxAddresses(t *testing.T) {
	list := make([]string, maxAddresses)
	for i := range list {
		list[i] = fmt.Sprintf("10.%d.%d.0/24", i/250, i%250)
	}
	if a := mustAddresses(t, list...); a.table == nil || !a.Contains(netip.MustParseAddr("10.3.249.9")) || a.Contains(netip.MustParseAddr("10.4.0.1")) {
		t.Errorf("%d ranges contain the wrong addresses", len(list))
	}
}

func TestParseClientIP(t *testing.T) {
	for s, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "192.0.2.1:80": "192.0.2.1", "[2001:db8::1]:443": "2001:db8::1", "2001:db8::1": "2001:db8::1",
		"": "", "example.com": "", "192.0.2.0/24": "", "192.0.2.1, 10.0.0.1": "",
	} {
		got, err := ParseClientIP(s)
		if (err == nil) != (want != "") || (err == nil && got.String() != want) {
			t.Errorf("%q: %s, %v", s, got, err)
		}
	}
}

func mustAddresses(t testing.TB, list ...string) Addresses {
	t.Helper()
	a, err := ParseAddresses(list)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// FuzzAddresses holds the matcher to its meaning: an address is in the range that it is the first of,
// a range does not exceed itself, and the table of many ranges answers as the list of few does.
func FuzzAddresses(f *testing.F) {
	f.Add("192.0.2.0/24", "192.0.2.77")
	f.Add("::ffff:10.0.0.0/104", "::ffff:10.1.1.1")
	f.Add("2001:db8::/32", "2001:db9::")
	f.Fuzz(func(t *testing.T, r, addr string) {
		few, err := ParseAddresses([]string{r})
		if err != nil {
			return
		}
		if !few.Contains(few.Ranges()[0].Addr()) || len(few.Exceeding(few)) > 0 {
			t.Errorf("%s does not contain itself", r)
		}
		again, err := ParseAddresses(few.Strings())
		if err != nil || again.Strings()[0] != few.Strings()[0] {
			t.Errorf("%q is shown as %q, which reads as %q (%v)", r, few.Strings(), again.Strings(), err)
		}
		client, err := ParseClientIP(addr)
		if err != nil {
			return
		}
		list := []string{r}
		for i := range manyRanges {
			list = append(list, fmt.Sprintf("198.18.%d.0/24", i))
		}
		in := few.Contains(client)
		if client.Unmap().Is4() && netip.MustParsePrefix("198.18.0.0/20").Contains(client.Unmap()) {
			return
		}
		if mustAddresses(t, list...).Contains(client) != in {
			t.Errorf("%s in %s: the list says %v, the table does not", addr, r, in)
		}
	})
}

func TestClientRange(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.7":           "192.0.2.7/32",
		"::ffff:192.0.2.7":    "192.0.2.7/32",
		"2001:db8:1:2:3::4":   "2001:db8:1:2::/64",
		"fe80::1:2%eth0":      "fe80::/64",
		"2001:db8:1:2:ffff::": "2001:db8:1:2::/64",
	} {
		if got := ClientRange(netip.MustParseAddr(addr)); got.String() != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
	if got := ClientRange(netip.Addr{}); got != (netip.Prefix{}) {
		t.Errorf("without an address: %s", got)
	}
}
