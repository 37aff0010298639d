package leaks

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name  string
		value any
		want  []Report
	}{
		{"a token", "a", []Report{{Token: "a", Type: DefaultType}}},
		{"tokens of the command line", "a, b", []Report{{Token: "a", Type: DefaultType}, {Token: "b", Type: DefaultType}}},
		{"an array", []any{"a", "b"}, []Report{{Token: "a", Type: DefaultType}, {Token: "b", Type: DefaultType}}},
		{"as GitHub", []any{map[string]any{"token": "a", "type": "t", "url": "https://github.com/o/r/blob/1/f.txt", "source": "content"}},
			[]Report{{Token: "a", Type: "t", URL: "https://github.com/o/r/blob/1/f.txt", Source: "content"}}},
		{"both", []any{"a", map[string]any{"token": "b"}}, []Report{{Token: "a", Type: DefaultType}, {Token: "b", Type: DefaultType}}},
	} {
		got, err := Parse("tokens", c.value)
		if err != nil || len(got) != len(c.want) {
			t.Errorf("%s: %v, %v", c.name, got, err)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: %+v, want %+v", c.name, got[i], c.want[i])
			}
		}
	}
	if got, err := Parse("tokens", make100()); err != nil || len(got) != MaxReports {
		t.Error(len(got), err)
	}
}

func make100() []any {
	list := make([]any, MaxReports)
	for i := range list {
		list[i] = "a"
	}
	return list
}

func TestParseRefuses(t *testing.T) {
	for want, value := range map[string]any{
		"tokens: takes an array of tokens, or of objects with token, type, url, source":   map[string]any{"token": "secret"},
		"tokens: is empty: give 1 to 100 tokens":                                          []any{},
		"tokens: has 101 tokens, at most 100 are allowed":                                 append(make100(), "a"),
		"tokens[1]: takes a token, or an object with token, type, url, source":            []any{"a", 5},
		"tokens[0].token: is missing or empty":                                            []any{map[string]any{"type": "t"}},
		`tokens[0]: "lines" is no member of a report, which has token, type, url, source`: []any{map[string]any{"token": "secret", "lines": 5}},
		"tokens[0].url: takes a string":                                                   []any{map[string]any{"token": "secret", "url": 5}},
		"tokens[0].type: is 129 bytes long, at most 128 are allowed":                      []any{map[string]any{"token": "a", "type": strings.Repeat("x", 129)}},
		"tokens[0].type: has characters that are not printable ASCII":                     []any{map[string]any{"token": "a", "type": "a\nb"}},
	} {
		_, err := Parse("tokens", value)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A place keeps what an operator needs to find the token, and nothing secret.
func TestPlaces(t *testing.T) {
	const jwt = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
	long := strings.Repeat("ä", maxURL)
	for given, want := range map[string]string{
		"":                                   "",
		"https://ann:pw@example.com/x?key=1": "https://example.com/x",
		"https://example.com/x#L5":           "https://example.com/x#L5",
		"https://example.com/x#L5-L7":        "https://example.com/x#L5-L7",
		"https://example.com/x#access=1":     "https://example.com/x",
		"https://example.com/found":          "https://example.com/[token]",
		"https://example.com/f%6fund":        "https://example.com/[token]",
		"https://example.com/" + jwt:         "https://example.com/[token]",
		"deploy.sh:12":                       "deploy.sh:12",
		"deploy.sh\n:12\x1b[31m\xff":         "deploy.sh:12[31m",
		"say found twice: found":             "say [token] twice: [token]",
		long:                                 strings.Repeat("ä", (maxURL-3)/2) + "...",
	} {
		reports, err := Parse("tokens", []any{map[string]any{"token": "found", "url": given, "source": given}})
		if err != nil || reports[0].URL != want {
			t.Errorf("%q: %q, %v, want %q", given, reports[0].URL, err, want)
		}
		if source := reports[0].Source; len(source) > maxSource || !utf8.ValidString(source) || strings.Contains(source, "found") {
			t.Errorf("%q: source %q", given, source)
		}
	}
	// What is no URL of the web keeps no user and no query either.
	for given, want := range map[string]string{
		"https://ann:pw@example.com/%zz?key=1":   "https://example.com/%zz",
		"postgres://ann:pw@db.example.com/x?k=1": "postgres://db.example.com/x",
		"//ann:p@w@example.com/x#access=1":       "//example.com/x",
	} {
		if reports, err := Parse("tokens", []any{map[string]any{"token": "found", "url": given}}); err != nil || reports[0].URL != want {
			t.Errorf("%q: %q, %v, want %q", given, reports[0].URL, err, want)
		}
	}
	// The token of another report, which may be one of a service, is as secret.
	reports, err := Parse("tokens", []any{"another-token", map[string]any{"token": "found", "url": "https://example.com/another-token/found", "source": "another-token"}})
	if err != nil || reports[1].URL != "https://example.com/[token]/[token]" || reports[1].Source != "[token]" {
		t.Errorf("%+v, %v", reports, err)
	}
	// A token at the place where the work ends, in a text that gets shorter.
	for begin := range 40 {
		for _, fill := range []string{"\u200b", "found/"} {
			url := strings.Repeat(fill, (examined*maxURL-begin)/len(fill)) + jwt
			reports, err := Parse("tokens", []any{map[string]any{"token": "found", "url": url}})
			if err != nil || strings.Contains(reports[0].URL, "eyJ") {
				t.Errorf("%d: %q, %v", begin, reports[0].URL, err)
			}
		}
	}
	// A token of a service, longer than what is kept.
	large := strings.Repeat("k/", 4*maxURL) + "end"
	reports, err = Parse("tokens", []any{map[string]any{"token": large, "url": "https://example.com/" + large, "source": large}})
	if err != nil || reports[0].URL != "https://example.com/[token]" || reports[0].Source != "[token]" {
		t.Errorf("%+v, %v", reports[0].URL, err)
	}
	// A token at the place where a long text is cut.
	for begin := range 40 {
		url := strings.Repeat("x", maxURL-begin) + " " + jwt
		if reports, err := Parse("tokens", []any{map[string]any{"token": "found", "url": url}}); err != nil || strings.Contains(reports[0].URL, "eyJ") {
			t.Errorf("%d: %q, %v", begin, reports[0].URL, err)
		}
	}
}

func TestAnswer(t *testing.T) {
	sum := sha256.Sum256([]byte("secret"))
	r := &Report{Token: "secret", Type: "t"}
	for ours, label := range map[bool]string{true: "true_positive", false: "false_positive"} {
		if got := r.Answer(ours); len(got) != 3 || got["token_hash"] != hex.EncodeToString(sum[:]) || got["token_type"] != "t" || got["label"] != label {
			t.Errorf("%v", got)
		}
	}
}

// Reports that are made to take long are parsed in a fraction of a second.
func TestParseIsBounded(t *testing.T) {
	items := make([]any, MaxReports)
	text := strings.Repeat("[token]", examined*maxURL/7)
	for i := range items {
		items[i] = map[string]any{"token": text[i%7:][:len(text)/2+i] + "x", "url": text, "source": text}
		if i < 10 {
			items[i] = map[string]any{"token": "[token]"[i%7:][:1], "url": text, "source": text}
		}
	}
	began := time.Now()
	reports, err := Parse("tokens", items)
	if took := time.Since(began); err != nil || took > 5*time.Second {
		t.Errorf("%s, %v", took, err)
	} else {
		t.Log(took)
	}
	for i := range reports {
		if len(reports[i].URL) > maxURL || len(reports[i].Source) > maxSource {
			t.Errorf("%d: %d, %d bytes", i, len(reports[i].URL), len(reports[i].Source))
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("https://example.com/x#L5", "content", "a")
	f.Add("\xff%41", "\x00", "b")
	f.Add("0", "ŏ", "\xc5") // a part of a character
	f.Fuzz(func(t *testing.T, url, source, text string) {
		reports, err := Parse("tokens", []any{map[string]any{"token": text, "url": url, "source": source}})
		if err != nil {
			return
		}
		for kept, most := range map[string]int{reports[0].URL: maxURL, reports[0].Source: maxSource} {
			if len(kept) > most || !utf8.ValidString(kept) {
				t.Errorf("kept %q", kept)
			}
		}
	})
}
