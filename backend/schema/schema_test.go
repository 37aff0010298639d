package schema

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	written := Fields{
		"name":   Str("Name.").Must(),
		"scopes": Commas("Scopes.").Titled("Scopes").Preset("a"),
		"force":  Flag("Force.").Query(),
	}
	read := Read(Fields{"version": Num("Version.").Must()}, written, "name", "force")
	if len(read) != 2 || read["version"] == nil {
		t.Fatalf("members %v", read)
	}
	if s := *read["scopes"]; s.Type != TypeStrings || !s.Required || s.Title != "" || s.Default != nil || s.Description != "Scopes." {
		t.Errorf("scopes: %+v", s)
	}
	if s := *written["scopes"]; s.Type != TypeCommas || s.Required {
		t.Errorf("the table of the write has changed: %+v", s)
	}
}

func TestOptional(t *testing.T) {
	all := Fields{"state": Str("State.").Must(), "role": Str("Role.").Must()}
	optional := Optional(all, "state")
	if !optional["state"].Required || optional["role"].Required || !all["role"].Required {
		t.Errorf("%+v %+v, from %+v", optional["state"], optional["role"], all["role"])
	}
}

func TestJoined(t *testing.T) {
	first, second := Fields{"a": Str("First.")}, Fields{"a": Num("Second."), "b": Str("B.")}
	all := Joined(first, second)
	if len(all) != 2 || all["a"].Type != TypeInt || first["a"].Type != TypeString {
		t.Errorf("%+v", all)
	}
}

func TestPages(t *testing.T) {
	names := []string{"a", "c", "e"}
	for _, c := range []struct {
		after string
		limit int // 0: none in the request
		want  string
	}{
		{"", 0, "a c e"}, {"", 1, "a"}, {"a", 0, "c e"}, {"b", 1, "c"}, {"e", 5, ""}, {"z", 0, ""}, {"", math.MaxInt, "a c e"},
	} {
		q := &PageRequest{After: &c.after}
		if c.limit != 0 {
			q.Limit = &c.limit
		}
		if page, err := q.Of(names); err != nil || strings.Join(page, " ") != c.want {
			t.Errorf("after %q limit %d: %v, %v, want %s", c.after, c.limit, page, err, c.want)
		}
	}
	if page, err := new(PageRequest).Of(names); err != nil || !slices.Equal(page, names) {
		t.Errorf("%v, %v", page, err)
	}
}

func TestLimits(t *testing.T) {
	for limit, want := range map[int]string{0: "limit: must be at least 1", -1: "limit: must be at least 1", 11: "limit: 11 is too large, at most 10 is allowed"} {
		if _, err := Limit(&limit, 10); fmt.Sprint(err) != want {
			t.Errorf("%d: %v", limit, err)
		}
	}
	limit := 10
	if n, err := Limit(&limit, 10); n != 10 || err != nil {
		t.Error(n, err)
	}
	if n, err := Limit(nil, 10); n != 10 || err != nil {
		t.Error(n, err)
	}
	if _, err := (&PageRequest{Limit: new(int)}).Of(nil); err == nil {
		t.Error("limit 0 is accepted")
	}
}

// Every type has a check: a nil check would panic. Every check rejects null.
func TestChecks(t *testing.T) {
	for kind := range TypeTime + 1 {
		if checks[kind] == nil {
			t.Fatalf("type %d has no check", kind)
		}
		if err := Check(Fields{"f": {Type: kind}}, map[string]any{"f": nil}); err == nil {
			t.Errorf("type %d accepts null", kind)
		}
	}
	f := Fields{"name": Str("Name."), "limit": Num("Limit."), "since": Date("Since.")}
	if err := Check(f, map[string]any{"limit": "many"}); err == nil || !strings.HasPrefix(err.Error(), "limit: takes a whole number") {
		t.Error(err)
	}
	if err := Check(f, map[string]any{"other": "many", "limit": "1"}); err != nil {
		t.Error(err)
	}
	if err := CheckNames(f, map[string]any{"limti": 1}, []string{"", "name"}); fmt.Sprint(err) != "limti: is not a field of this path, which has limit, since" {
		t.Error(err)
	}
	if err := CheckNames(Fields{"name": Str("Name.")}, map[string]any{"x": 1}, []string{"name"}); !strings.HasSuffix(fmt.Sprint(err), "which takes no fields") {
		t.Error(err)
	}
	many := make(Fields)
	for i := range maxNames + 1 {
		many[fmt.Sprint(i)] = Str("Field.")
	}
	if err := CheckNames(many, map[string]any{"x": 1}, nil); !strings.HasSuffix(fmt.Sprint(err), "has 31 fields: vault path-help lists them") {
		t.Error(err)
	}
}
