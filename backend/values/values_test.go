package values

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

type level string

type id [2]byte

func (i id) MarshalText() ([]byte, error) { return []byte("id"), nil }

type inner struct {
	Scopes []string          `json:"scopes,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
}

type entry struct {
	inner
	*json.Number               // embedded, and no struct
	ID           id            `json:"id"`
	Level        level         `json:"level"`
	TTL          time.Duration `json:"ttl,omitempty"`
	Since        time.Time     `json:"since,omitzero"`
	Until        time.Time     `json:"until,omitzero"`
	Version      uint32        `json:"version"`
	Levels       []level       `json:"levels"`
	Off          bool          `json:"off"`
	Hidden       string        `json:"-"`
	Untagged     string
}

func TestMembers(t *testing.T) {
	since := time.Date(2026, 1, 2, 4, 4, 5, 6, time.FixedZone("", 3600))
	got := Members(&entry{Level: "high", TTL: 90 * time.Second, Since: since, Version: 3, Hidden: "secret", Untagged: "secret"})
	want := map[string]any{
		"scopes": []string{}, "labels": map[string]string{}, "id": "id", "level": "high", "ttl": int64(90),
		"since": "2026-01-02T03:04:05Z", "until": "", "version": 3, "levels": []level{}, "off": false,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Members is %#v, want %#v", got, want)
	}
	if got := Members(inner{Scopes: []string{"a"}}); !reflect.DeepEqual(got["scopes"], []string{"a"}) {
		t.Errorf("scopes is %#v", got["scopes"])
	}
	got = Members(map[string]any{"ttl": 90 * time.Second, "data": map[string]any(nil), "list": []string(nil), "none": nil, "n": 1})
	want = map[string]any{"ttl": int64(90), "data": map[string]any{}, "list": []string{}, "none": nil, "n": 1}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Members of a map is %#v, want %#v", got, want)
	}
}

func TestIsEmpty(t *testing.T) {
	for _, empty := range []any{nil, "", 0, int64(0), false, []string{}, map[string]any{}} {
		if !IsEmpty(empty) {
			t.Errorf("%#v is not empty", empty)
		}
	}
	for _, full := range []any{"a", 1, true, []string{""}, map[string]any{"": nil}} {
		if IsEmpty(full) {
			t.Errorf("%#v is empty", full)
		}
	}
}

func TestFill(t *testing.T) {
	var change struct {
		Scopes *[]string          `json:"scopes"`
		TTL    *time.Duration     `json:"ttl"`
		Params *map[string]any    `json:"params"`
		Max    *int               `json:"max"`
		Other  *string            `json:"other"`
		Nested *map[string]string // no field of the request
		Name   string             `json:"name"` // no pointer
	}
	given := map[string]any{"scopes": []string{}, "ttl": 90, "params": map[string]any{"a": 1}, "max": 0, "name": "x", "Nested": "x"}
	Fill(&change, func(name string) (any, bool) { v, ok := given[name]; return v, ok })
	if change.Scopes == nil || len(*change.Scopes) != 0 || *change.TTL != 90*time.Second || (*change.Params)["a"] != 1 || *change.Max != 0 {
		t.Errorf("what is given was not filled in: %+v", change)
	}
	if change.Other != nil || change.Nested != nil || change.Name != "" {
		t.Errorf("what is not given was filled in: %+v", change)
	}
}

func TestObject(t *testing.T) {
	want := map[string]any{"a": "1", "b": "x=y"}
	if got := Object([]any{"a=1", "b=x=y"}); !reflect.DeepEqual(got, want) {
		t.Errorf("a list of pairs is %v", got)
	}
	if got := Object("b=x=y"); !reflect.DeepEqual(got, map[string]any{"b": "x=y"}) {
		t.Errorf("a pair is %v", got)
	}
	if got := Object(`{"a":1}`); !reflect.DeepEqual(got, map[string]any{"a": float64(1)}) {
		t.Errorf("JSON is %v", got)
	}
	for _, other := range []any{"a", "null", 5, []any{"a=1", 5}, []any{}, nil} {
		if got := Object(other); !reflect.DeepEqual(got, other) {
			t.Errorf("%v became %v", other, got)
		}
	}
}

// A refusal names the field and what is allowed, and never shows the value.
func TestChecks(t *testing.T) {
	for _, c := range []struct {
		check Check
		value any
		want  string // part of the refusal; empty: accepted
	}{
		{Null, "", ""},
		{Null, nil, "is null"},
		{Text, "", ""},
		{Text, nil, "is null"},
		{Text, json.Number("5"), "takes a string, not a number"},
		{Number, json.Number("5"), ""},
		{Number, "-5", ""},
		{Number, "0", ""},
		{Number, "010", "without leading zeros"},
		{Number, "", "is empty"},
		{Number, nil, "is null"},
		{Number, true, "not a boolean"},
		{Number, 7, ""},
		{Number, 2.0, ""},
		{Number, 0.5, "takes a whole number"},
		{Number, json.Number("0.5"), "takes a whole number"},
		{Number, []any{}, "not a list"},
		{Float, json.Number("1e3"), ""},
		{Float, 0.5, ""},
		{Float, "0.5", ""},
		{Float, 2, ""},
		{Float, "", "is empty"},
		{Float, nil, "is null"},
		{Float, true, "not a boolean"},
		{Float, "010", "without leading zeros"},
		{Float, "Inf", "takes a number"},
		{Float, json.Number("1e400"), "takes a number"},
		{Float, "hunter2", "takes a number"},
		{Map, map[string]any{}, ""},
		{Map, []any{}, "not a list"},
		{Map, "hunter2", "not a string"},
		{Map, nil, "is null"},
		{Duration, "15m", ""},
		{Duration, json.Number("5"), ""},
		{Duration, "0.5s", "takes whole seconds"},
		{Duration, "-1s", "must not be negative"},
		{Duration, "hunter2", "takes a duration"},
		{Duration, "", "is empty"},
		{Duration, nil, "is null"},
		{Time, "2026-01-02T15:04:05+01:00", ""},
		{Time, "1767366245", ""},
		{Time, json.Number("1767366245"), ""},
		{Time, json.Number("0.5"), "takes a time"},
		{Time, "2026-01-02", "takes a time such as 2026-01-02T15:04:05Z, or whole seconds since 1970"},
		{Time, true, "takes a time"},
		{Time, "", "is empty"},
		{Time, nil, "is null"},
		{Bool, true, ""},
		{Bool, "false", ""},
		{Bool, 1, "not a number"},
		{Bool, "hunter2", "takes true or false"},
		{Bool, "", "is empty"},
		{Bool, nil, "is null"},
		{Strings, "a", ""},
		{Strings, []any{"a"}, ""},
		{Strings, []string{"a"}, ""},
		{Strings, []any{"a", nil}, "element 2 of the list is null"},
		{Strings, false, "not a boolean"},
		{Strings, nil, "is null"},
		{Pairs, "a=b", ""},
		{Pairs, []any{"a=b"}, ""},
		{Pairs, "a=", ""},
		{Pairs, "hunter2", "takes name=value"},
		{Pairs, "", `is empty: to leave none, write {"name": {}} in JSON, as "vault write PATH -" reads`},
		{Pairs, "=hunter2", "takes name=value"},
		{Pairs, []any{"a=b", "hunter2"}, "takes name=value"},
		{Pairs, map[string]any{"a": json.Number("1"), "b": "c"}, ""},
		{Pairs, map[string]any{"a": true}, `"a" is a boolean`},
		{Pairs, []any{5}, "element 1 of the list is a number"},
		{Pairs, 5, "takes an object of strings, not a number"},
		{Pairs, nil, "is null"},
	} {
		err := c.check("name", c.value)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%v is refused: %s", c.value, err)
		case c.want == "":
		case err == nil:
			t.Errorf("%v is accepted", c.value)
		case !strings.HasPrefix(err.Error(), "name: ") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%v is refused by %q, want %q", c.value, err, c.want)
		}
	}
}
