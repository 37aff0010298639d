package target

import (
	"net/url"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for raw, want := range map[string]Target{
		"/":                   {Path: "/", Segments: []string{""}},
		"/orders":             {Path: "/orders", Segments: []string{"orders"}},
		"/orders/":            {Path: "/orders/", Segments: []string{"orders", ""}},
		"/orders/7?a=b?c":     {Path: "/orders/7", Query: "a=b?c", Segments: []string{"orders", "7"}},
		"/%6frders/a%20b":     {Path: "/%6frders/a%20b", Segments: []string{"orders", "a b"}},
		"/a/b/c/d/e/f/g":      {Path: "/a/b/c/d/e/f/g", Segments: []string{"a", "b", "c", "d", "e", "f", "g"}},
		"/caf%C3%A9":          {Path: "/caf%C3%A9", Segments: []string{"café"}},
		"/a%2Fb":              {Path: "/a%2Fb", Segments: []string{"a/b"}, EncodedSlash: true},
		"/100%25":             {Path: "/100%25", Segments: []string{"100%"}},
		"/.well-known/x..y":   {Path: "/.well-known/x..y", Segments: []string{".well-known", "x..y"}},
		"/a?next=//b/../%00;": {Path: "/a", Query: "next=//b/../%00;", Segments: []string{"a"}},
	} {
		got, err := Parse(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if is := (Target{Path: got.Path, Query: got.Query, Segments: got.Segments, EncodedSlash: got.EncodedSlash}); !reflect.DeepEqual(is, want) {
			t.Errorf("%s: %+v, want %+v", raw, is, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for raw, want := range map[string]string{
		"":                                "missing",
		"orders":                          "begin with a slash",
		"*":                               "begin with a slash",
		"http://api.example.com/a":        "begin with a slash",
		"//admin":                         "empty segment",
		"/a//b":                           "empty segment",
		"/%2fadmin":                       "empty segment",
		"/a%2F%2fb":                       "empty segment",
		"/a%2f/b":                         "empty segment",
		"/public/../admin":                "dot segment",
		"/public/..":                      "dot segment",
		"/./admin":                        "dot segment",
		"/public/%2e%2E/admin":            "dot segment",
		"/public/.%2e/admin":              "dot segment",
		"/public/..%2fadmin":              "dot segment",
		"/public/..%5cadmin":              "backslash",
		"/...":                            "dot at its end",
		"/admin.":                         "dot at its end",
		"/admin%2E/users":                 "dot at its end",
		"/admin%20.":                      "dot at its end",
		"/a.%2fb":                         "dot at its end",
		"/admin%20":                       "space at its edge",
		"/%20admin/users":                 "space at its edge",
		"/admin.%20":                      "space at its edge",
		"/admin%e2%80%83":                 "space at its edge",
		`/public\admin`:                   "backslash",
		"/a%5Cb":                          "backslash",
		"/admin;x=1":                      "semicolon",
		"/admin%3bx":                      "semicolon",
		"/a%00":                           "control character",
		"/a%0d%0aX:1":                     "control character",
		"/a%7f":                           "control character",
		"/a\x00":                          "percent-encoded",
		"/a b":                            "percent-encoded",
		"/a\r\nX: 1":                      "percent-encoded",
		"/caf\xc3\xa9":                    "percent-encoded",
		"/a\xff":                          "percent-encoded",
		"/a?b=\xff":                       "percent-encoded",
		"/a#b":                            `"#"`,
		"/a?b#c":                          `"#"`,
		"/a%23b":                          "encoded",
		"/public%3f/../admin":             "encoded",
		"/%252e%252e/admin":               "twice",
		"/a%252fb":                        "twice",
		"/%c0%ae%c0%ae/admin":             "UTF-8",
		"/a%c0%afb":                       "UTF-8",
		"/a%2":                            "two hexadecimal",
		"/a%zz":                           "two hexadecimal",
		"/a%u002e":                        "two hexadecimal",
		"/" + strings.Repeat("a", maxLen): "longer",
	} {
		if _, err := Parse(raw); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", raw, err, want)
		}
	}
}

// Whatever Parse accepts, net/url reads in the same way, and path cleaning changes nothing.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"/", "/a/b?c=d", "/%61", "/a%2fb", "/a;b", "//a", "/../a", "/a%25b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := Parse(raw)
		if err != nil {
			return
		}
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		if u.Host != "" || u.Path != "/"+strings.Join(got.Segments, "/") || u.RawQuery != got.Query {
			t.Errorf("%q: %+v, and %+v in net/url", raw, got, u)
		}
		if clean := u.JoinPath().Path; clean != u.Path {
			t.Errorf("%q: net/url cleans %q to %q", raw, u.Path, clean)
		}
	})
}
