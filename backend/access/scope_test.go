package access

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParseScopes(t *testing.T) {
	many := make([]string, maxScopes+1)
	numbered := make([]string, maxScopes+1)
	for i := range numbered {
		numbered[i] = fmt.Sprint(i)
	}
	for _, c := range []struct {
		list []string
		want string // part of the error; empty: it is good
	}{
		{[]string{"invoices:read", "invoices:*", "*", "a", "https://example.com/scope"}, ""},
		{nil, ""},
		{[]string{"!", "~", strings.Repeat("a", maxScopeLen)}, ""},
		{numbered[1:], ""},
		{[]string{"a\x7f"}, "printable ASCII"},
		{[]string{""}, "is empty"},
		{[]string{"a", "a"}, `"a" is given twice`},
		{[]string{"a b"}, "contains a space: separate scopes by commas"},
		{[]string{`a"b`}, `contains '"': printable ASCII`},
		{[]string{`a\b`}, "contains "},
		{[]string{"ä"}, "contains 'ä'"},
		{[]string{"a\x00"}, `contains '\x00'`},
		{[]string{"a::b"}, "empty segment"},
		{[]string{":a"}, "empty segment"},
		{[]string{"a:"}, "empty segment"},
		{[]string{"a:*:b"}, "last segment"},
		{[]string{"a*"}, "last segment"},
		{[]string{"a:b*"}, "last segment"},
		{[]string{"**"}, "last segment"},
		{[]string{strings.Repeat("a", maxScopeLen+1)}, "at most 128"},
		{many, "at most 100"},
	} {
		_, err := ParseScopes(c.list)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%q: %v", c.list, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%.80q: got %v, want %q", c.list, err, c.want)
		}
		if err != nil && len(err.Error()) > 250 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	}
}

func TestScopesCover(t *testing.T) {
	for _, c := range []struct {
		set   string
		scope string
		want  bool
	}{
		{"invoices:read", "invoices:read", true},
		{"invoices:read", "invoices:write", false},
		{"invoices:read", "invoices:read:all", false},
		{"invoices:read", "invoices:*", false},
		{"invoices:*", "invoices:read", true},
		{"invoices:*", "invoices:lines:read", true},
		{"invoices:*", "invoices:lines:*", true},
		{"invoices:*", "invoices:*", true},
		{"invoices:*", "invoices", false},
		{"invoices:*", "invoices:", false},
		{"invoices:*", "invoicesx:read", false},
		{"invoices:*", "*", false},
		{"*", "anything:at:all", true},
		{"*", "*", true},
		{"a b:*", "b:c", true},
		{"", "a", false},
	} {
		if got := Scopes(strings.Fields(c.set)).Covers(c.scope); got != c.want {
			t.Errorf("%q covers %q: %v", c.set, c.scope, got)
		}
	}
}

func TestIntersect(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"a b", "b c", "b"},
		{"a:*", "a:read b", "a:read"},
		{"a:read", "a:*", "a:read"},
		{"*", "a:* b", "a:* b"},
		{"a:* a:read", "a:read", "a:read"},
		{"a", "b", ""},
		{"", "a", ""},
	} {
		if got := Scopes(strings.Fields(c.a)).Intersect(strings.Fields(c.b)).Parameter(); got != c.want {
			t.Errorf("%q and %q: %q, want %q", c.a, c.b, got, c.want)
		}
	}
}

func TestMatching(t *testing.T) {
	patterns := []string{"*", "admin", "admin:*"}
	for scopes, want := range map[string]string{
		"read":               "",
		"admin":              "admin",
		"admin:users":        "admin:users",
		"admin:*":            "admin:*",
		"*":                  "*",
		"read admin:x write": "admin:x",
		"administrator":      "",
	} {
		if got := strings.Join(Scopes(strings.Fields(scopes)).Matching(patterns), " "); got != want {
			t.Errorf("%q: %q, want %q", scopes, got, want)
		}
	}
	if got := (Scopes{"billing:*"}).Matching([]string{"billing:refund"}); len(got) != 1 {
		t.Errorf("a wildcard that takes in a privileged scope is not found: %q", got)
	}
}

func TestClip(t *testing.T) {
	for n, want := range map[int]string{0: "", 64: strings.Repeat("a", 64), 65: strings.Repeat("a", 64) + "..."} {
		if got := clip(strings.Repeat("a", n)); got != want {
			t.Errorf("%d bytes are clipped to %q", n, got)
		}
	}
}

// FuzzScopes holds the matcher to its meaning: covering is reflexive and transitive, and nothing is in an
// intersection that is not in both.
func FuzzScopes(f *testing.F) {
	f.Add("a:*", "a:b:*", "a:b:c")
	f.Add("*", "a", "a:b")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		for _, s := range []string{a, b, c} {
			if checkScope(s) != nil {
				return
			}
			if !covers(s, s) {
				t.Errorf("%q does not cover itself", s)
			}
		}
		if covers(a, b) && covers(b, c) && !covers(a, c) {
			t.Errorf("%q covers %q, which covers %q", a, b, c)
		}
		if covers(a, b) && covers(b, a) && a != b {
			t.Errorf("%q and %q cover one another", a, b)
		}
		left, right := Scopes{a, b}, Scopes{c}
		both := left.Intersect(right)
		for _, s := range both {
			if !left.Covers(s) || !right.Covers(s) {
				t.Errorf("%q is in %q and %q", s, left, right)
			}
		}
		if left.Covers(c) != slices.Contains(both, c) {
			t.Errorf("%q and %q have %q in common", left, right, both)
		}
	})
}
