package rules

import (
	"strings"
	"testing"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/target"
)

func parse(t *testing.T, raw string) *target.Target {
	t.Helper()
	parsed, err := target.Parse(raw)
	if err != nil {
		t.Fatal(raw, err)
	}
	return parsed
}

func pattern(t *testing.T, s string) Pattern {
	t.Helper()
	p, err := ParsePattern(s)
	if err != nil {
		t.Fatal(s, err)
	}
	return p
}

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, yes, no string
	}{
		{"/", "/", "/a"},
		{"/orders", "/orders /%6Frders", "/ /Orders /orders/ /orders/7 /order"},
		{"/orders/", "/orders/", "/orders"},
		{"/orders/*", "/orders/7 /orders/a%20b /orders/*", "/orders /orders/ /orders/7/ /orders/7/lines"},
		{"/*/lines", "/7/lines", "/lines /7/8/lines"},
		{"/orders/**", "/orders /orders/ /orders/7 /orders/7/lines/", "/ /ordersx /orders2/7"},
		{"/**", "/ /a /a/b/", ""},
		{"/café menu", "/caf%C3%A9%20menu", "/cafe"},
	} {
		p := pattern(t, c.pattern)
		for raw := range strings.FieldsSeq(c.yes) {
			if !p.Match(parse(t, raw).Segments) {
				t.Errorf("%s does not match %s", c.pattern, raw)
			}
		}
		for raw := range strings.FieldsSeq(c.no) {
			if p.Match(parse(t, raw).Segments) {
				t.Errorf("%s matches %s", c.pattern, raw)
			}
		}
	}
}

func TestParsePatternRefuses(t *testing.T) {
	for s, want := range map[string]string{
		"":          `begin with "/"`,
		"orders":    `begin with "/"`,
		"/a%20b":    "percent-encoded",
		"/a?b":      "query",
		"/a/../b":   "dot segment",
		"//a":       "empty segment",
		"/a/**/b":   `"**" only as its last`,
		"/a*":       `"*" only as a whole`,
		"/a/***":    `"*" only as a whole`,
		"/a;b":      "semicolon",
		"/a#b":      `"#"`,
		"/a\\b":     "backslash",
		"/a\x00":    "percent-encoded",
		"/orders\t": "percent-encoded",
	} {
		if _, err := ParsePattern(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", s, err, want)
		}
	}
}

// The first matching rule counts, and a request that no rule matches has none.
func TestMatch(t *testing.T) {
	set := NewSet([]*Rule{
		{Name: "public", Hosts: access.Hosts{"api.example.com"}, Methods: []string{"GET"}, Paths: []Pattern{pattern(t, "/status")}, Public: true},
		{Name: "admin", Paths: []Pattern{pattern(t, "/admin/**")}, Scopes: []string{"admin"}},
		{Name: "files", Methods: []string{"GET"}, Paths: []Pattern{pattern(t, "/files/*")}, AllowEncodedSlash: true},
		{Name: "rest", Hosts: access.Hosts{"*.example.com"}, Methods: []string{"GET", "POST"}, Paths: []Pattern{pattern(t, "/*"), pattern(t, "/*/*")}},
	})
	for _, c := range []struct{ host, method, raw, want string }{
		{"api.example.com", "GET", "/status", "public"},
		{"api.example.com", "POST", "/status", "rest"},
		{"web.example.com", "GET", "/status", "rest"},
		{"api.example.com", "GET", "/%61dmin", "admin"},
		{"api.example.com", "GET", "/admin/users", "admin"},
		{"other.org", "DELETE", "/admin", "admin"},
		{"api.example.com", "GET", "/files/a%2Fb", "files"},
		{"api.example.com", "GET", "/other/a%2Fb", ""},
		{"api.example.com", "get", "/status", ""},
		{"example.com", "GET", "/orders", ""},
		{"", "GET", "/orders", ""},
		{"api.example.com", "GET", "/a/b/c", ""},
		{"api.example.com", "DELETE", "/orders", ""},
	} {
		got := ""
		if r := set.Match(c.host, c.method, parse(t, c.raw)); r != nil {
			got = r.Name
		}
		if got != c.want {
			t.Errorf("%s %s%s: rule %q, want %q", c.method, c.host, c.raw, got, c.want)
		}
	}
}

// An API may read an encoded slash as a slash: a rule that allows encoded slashes must not open what another rule guards.
func TestMatchEncodedSlash(t *testing.T) {
	set := NewSet([]*Rule{
		{Name: "users", Paths: []Pattern{pattern(t, "/admin/users")}},
		{Name: "one", Methods: []string{"GET"}, Paths: []Pattern{pattern(t, "/*"), pattern(t, "/projects/*/issues")}, AllowEncodedSlash: true, Public: true},
		{Name: "all", Methods: []string{"GET"}, Paths: []Pattern{pattern(t, "/secret/**")}},
		{Name: "both", Methods: []string{"GET"}, Paths: []Pattern{pattern(t, "/files/**")}, AllowEncodedSlash: true},
	})
	for raw, want := range map[string]string{
		"/admin%2fusers":         "", // an earlier rule
		"/%61dmin%2Fusers":       "",
		"/secret%2Fkey":          "", // a later rule
		"/secret%2fkey%2fprint":  "",
		"/other%2fusers":         "one",
		"/projects/a%2fb/issues": "one",
		"/files/a%2Fb":           "both",
		"/files%2Fa":             "", // "one" by one reading, "both" by the other
	} {
		got := ""
		if r := set.Match("api.example.com", "GET", parse(t, raw)); r != nil {
			got = r.Name
		}
		if got != want {
			t.Errorf("%s: rule %q, want %q", raw, got, want)
		}
	}
}

// Why no rule matches a path with an encoded slash: the operator learns of the setting that a rule lacks, or of the other rule.
func TestUnmatched(t *testing.T) {
	set := NewSet([]*Rule{
		{Name: "files", Methods: []string{"GET"}, Paths: []Pattern{pattern(t, "/files/*")}},
		{Name: "open", Methods: []string{"GET"}, Paths: []Pattern{pattern(t, "/open/*")}, AllowEncodedSlash: true},
		{Name: "deep", Methods: []string{"GET"}, Paths: []Pattern{pattern(t, "/open/*/*"), pattern(t, "/files/x/*")}},
	})
	const none = "no rule matches the host, method and path"
	for raw, want := range map[string]string{
		"/other":         none,
		"/other%2fa":     none,
		"/files/a%2fb":   `the path has "%2f": rule "files" matches such paths with allow_encoded_slash: true only`,
		"/files/x%2Fb":   `the path has "%2f": rule "files" matches the path, and rule "deep" the path with a slash instead`,
		"/open/a%2fb":    `the path has "%2f": rule "open" matches the path, and rule "deep" the path with a slash instead`,
		"/open/a/b%2fc":  `the path has "%2f": rule "deep" matches such paths with allow_encoded_slash: true only`,
		"/files/a/b%2fc": none,
	} {
		parsed := parse(t, raw)
		if r := set.Match("api.example.com", "GET", parsed); r != nil {
			t.Errorf("%s: rule %s matches", raw, r.Name)
		}
		if got := set.Unmatched("api.example.com", "GET", parsed); got != want {
			t.Errorf("%s: %s", raw, got)
		}
		if got := set.Unmatched("api.example.com", "DELETE", parsed); got != none {
			t.Errorf("DELETE %s: %s", raw, got)
		}
	}
}
