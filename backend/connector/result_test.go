package connector

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// What an answer says is taken exactly, or refused; the token that it is about is looked for then.
func TestStrictAnswers(t *testing.T) {
	long := strings.Repeat("x", maxToken+1)
	for _, c := range []struct{ body, id, want string }{
		{`{"id": 1, "token": "t", "expires": 1800000001}`, "1", ""},
		{`{"id": 1, "token": "t", "expires": 1800000001.0}`, "1", ""},
		{`{"id": 1.0, "token": "t", "expires": null}`, "1", ""},
		{`{"id": 9223372036854775807, "token": "t", "expires": 0}`, "9223372036854775807", ""},
		{`{"id": 18446744073709551615, "token": "t", "expires": ""}`, "18446744073709551615", ""},
		{`{"id": 123456789012345678901234567890, "token": "t", "expires": null}`, "123456789012345678901234567890", ""},
		{`{"id": 1e21, "token": "t", "expires": null}`, "1e21", ""},
		{`{"id": "a/b?c", "token": "t", "expires": "9999-12-31"}`, "a/b?c", ""},
		{`{"id": 1, "token": "t", "expires": 1799999999}`, "", "expires_at: 2027-01-15T07:59:59Z is in the past"},
		{`{"id": 1, "token": "t", "expires": "2020-01-01"}`, "", "is in the past"},
		{`{"id": 1, "token": "t", "expires": -1}`, "", "is in the past"},
		{`{"id": 1, "token": "t", "expires": 1800000001000}`, "", "the year 59009 is not one of 1 to 9999"},
		{`{"id": 1, "token": "t", "expires": 9223372036854775807}`, "", "is not one of 1 to 9999"},
		{`{"id": 1, "token": "t", "expires": 1e300}`, "", "is not a time"},
		{`{"id": 1, "token": "t", "expires": 1800000001.5}`, "", "is not a number of seconds"},
		{`{"id": 1, "token": "t", "expires": true}`, "", "a bool is not a time"},
		{`{"id": "` + long[:maxID+1] + `", "token": "t", "expires": null}`, "", "id: is 1025 bytes long"},
		{`{"id": 1, "token": "` + long + `", "expires": null}`, "", "token: is 32769 bytes long"},
		{`{"id": 1, "token": "t", "expires": null} {"id": 2}`, "", "more than one JSON value"},
		{`{"id": 1, "token": "t", "expires": null, "x": [0` + strings.Repeat(",0", maxValues) + `]}`, "", "more than 300000 values"},
	} {
		u := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, c.body) })
		made, err := u.create(t.Context())
		if c.want == "" {
			if err != nil || made.ID != c.id {
				t.Errorf("%.80s: %+v, %v", c.body, made, err)
			}
			continue
		}
		var e *Error
		if !errors.As(err, &e) || !e.Unsure || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s: %v, want %s", c.body, err, c.want)
		}
	}
}

// What is shown and remembered fits into an entry of storage.
func TestShownIsBounded(t *testing.T) {
	for _, member := range []string{"data", "granted", "record"} {
		text := strings.Replace(small, "expires_at: response.body.expires", member+`: '{"level": string(response.body.big)}'`, 1)
		p, err := Compile([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		u := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(map[string]string{"id": "1", "token": "t", "big": strings.Repeat("x", maxShown)})
		})
		u.Provider = p
		if _, err := u.create(t.Context()); err == nil || !strings.Contains(err.Error(), member+": is 65") {
			t.Errorf("%s: %v", member, err)
		}
	}
}

// A lifetime of OAuth that is none is refused.
func TestExpiresIn(t *testing.T) {
	providers, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for in, ok := range map[string]bool{"60": true, `"60"`: true, "60.0": true, "0": false, "-1": false, "1e18": false, "9223372036854775807": false, "null": false, `"x"`: false} {
		u := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"access_token": "t", "token_type": "Bearer", "expires_in": %s}`, in)
		})
		u.Provider = providers["oauth2"]
		u.Credential, u.Settings = map[string]any{"client_id": "c", "client_secret": "s"}, map[string]any{"token_path": "/token"}
		now := time.Now()
		c, err := u.Create(t.Context(), "name", "role", nil, now, now.Add(time.Hour))
		if (err == nil) != ok || ok && c.ExpiresAt.Sub(now) != time.Minute {
			t.Errorf("%s: %+v, %v", in, c, err)
		}
	}
}

// FuzzAnswer wants an error or a body of any text that a service answers with, and what is read from it to
// have a form in JSON.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{`{"id": 1e999, "expires": "2026-01-01"}`, `[1.5, 18446744073709551615, "x"]`, "\xff", `{"a": {"a": [[]]}}`, `"2026-01-01 00:00:00 UTC"`, "-62135596801"} {
		f.Add([]byte(text), "application/json")
	}
	f.Fuzz(func(t *testing.T, text []byte, mediaType string) {
		body, err := decodeBody(text, mediaType)
		if err != nil {
			return
		}
		if _, err := json.Marshal(body); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		_ = messageOf(body)
		if end, err := toTime(body); err == nil {
			if _, err := end.MarshalJSON(); err != nil {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}

// A listing that cannot be read is not one without the token.
func TestStrictListings(t *testing.T) {
	for body, want := range map[string]string{
		`[{"id": 1, "name": "a"}, {"id": 2, "name": null}]`: "",
		`[]`:                              "",
		`null`:                            "items is not a list",
		`{"message": "later"}`:            "items is not a list",
		``:                                "items is not a list",
		`["a"]`:                           "an item has no name",
		`[{"id": 1, "label": "a"}]`:       "an item has no name",
		`[{"id": 1, "name": ["a"]}]`:      "an item has no name",
		`[{"id": null, "name": "a"}]`:     "an item has no id",
		`[{"id": {"x": 1}, "name": "a"}]`: "an item has no id",
		`[{"id": 1, "name": "a"}` + strings.Repeat(`,{"id": 1, "name": "a"}`, 1000) + `]`: "more than 1000 tokens of these names",
	} {
		p, err := Compile([]byte(strings.Replace(small, `    next: 'size(response.body) < 2 ? "" : "more"'`, "    next: dyn(null)", 1)))
		if err != nil {
			t.Fatal(err)
		}
		u := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
		u.Provider = p
		found, err := u.Find(t.Context(), []string{"a"}, nil)
		if want == "" && (err != nil || len(found) > 1) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.60s: %v, %v, want %s", body, found, err, want)
		}
	}
}
