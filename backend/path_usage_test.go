package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
)

// usageOf is the usage that tokens/:id shows. lookup shows the same.
func (e *engine) usageOf(id string) data {
	e.t.Helper()
	shown := e.read("tokens/" + id)["usage"].(data)
	if looked := e.write("lookup", data{"token_id": id})["usage"]; fmt.Sprint(looked) != fmt.Sprint(shown) {
		e.t.Errorf("lookup shows %v, and tokens shows %v", looked, shown)
	}
	return shown
}

func (e *engine) report(reporter string, sequence int, tokens ...any) data {
	e.t.Helper()
	return e.write("usage", data{"reporter": reporter, "sequence": sequence, "tokens": tokens})
}

func TestUsageReport(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": []string{"a:*"}})
	c := e.creds("r", nil)
	if got := e.usageOf(c.id); len(got) != 1 || got["uses"] != uint64(0) {
		t.Errorf("of a token that was never used: %v", got)
	}
	row := data{
		"token_id": c.id, "uses": json.Number("5"), "last_used_at": "2026-01-02T15:04:05+01:00", "last_ip": "192.0.2.1:1234", "last_region": "DE",
		"last_network": "AS64496", "refusals": data{"rate_limited": 2, "revoked": json.Number("1")}, "scopes": []any{"b", "a:read"},
	}
	answer := e.report("api-1", 1, row, data{"token_id": strings.Repeat("0", 23) + "1", "uses": 1})
	if want := (data{"accepted": 1, "ignored": 1, "duplicate": false, "reporters": 1}); fmt.Sprint(answer) != fmt.Sprint(want) {
		t.Errorf("answered %v, want %v", answer, want)
	}
	want := data{
		"uses": uint64(5), "first_used_at": "2026-01-02T14:04:05Z", "last_used_at": "2026-01-02T14:04:05Z", "last_ip": "192.0.2.1", "last_region": "DE",
		"last_network": "AS64496", "refusals": data{"rate_limited": uint32(2), "revoked": uint32(1)}, "scopes": []string{"a:read", "b"},
	}
	if got := e.usageOf(c.id); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("shown %v, want %v", got, want)
	}
	listed := e.do(logical.ListOperation, "tokens/", nil).Data["key_info"].(data)[c.id].(data)
	if got := []any{listed["uses"], listed["refused"], listed["last_used_at"], listed["last_ip"], listed["usage"]}; !reflect.DeepEqual(got,
		[]any{uint64(5), uint64(3), "2026-01-02T14:04:05Z", "192.0.2.1", nil}) {
		t.Errorf("listed as %v", listed)
	}
	if answer := e.report("api-1", 1, row); answer["duplicate"] != true || answer["accepted"] != 0 || e.usageOf(c.id)["uses"] != uint64(5) {
		t.Errorf("a retry: %v, then %v", answer, e.usageOf(c.id))
	}
	if answer := e.report("api-2", 1, row); answer["reporters"] != 2 || e.usageOf(c.id)["uses"] != uint64(10) {
		t.Errorf("another reporter: %v, then %v", answer, e.usageOf(c.id))
	}
	if got := e.read("tokens/" + c.id); strings.Contains(fmt.Sprint(got), c.token) {
		t.Error("the token is shown")
	}
}

func TestUsageErrors(t *testing.T) {
	e := newEngine(t)
	good := data{"token_id": strings.Repeat("0", 23) + "1", "uses": 1}
	bad := data{"token_id": strings.Repeat("0", 23) + "1", "last_ip": "apt_secret"}
	for want, d := range map[string]data{
		"reporter: takes 1 to 64 letters":               {"sequence": 1, "tokens": []any{good}},
		"sequence: must be at least 1":                  {"reporter": "a", "tokens": []any{good}},
		"sequence: takes a whole number":                {"reporter": "a", "sequence": "x"},
		"tokens: is null":                               {"reporter": "a", "sequence": 1, "tokens": nil},
		"tokens[0]: takes an object":                    {"reporter": "a", "sequence": 1, "tokens": "x"},
		"tokens[1].last_ip: takes an IP address":        {"reporter": "a", "sequence": 1, "tokens": []any{good, bad}},
		"unknown[0].ip: takes an IP address":            {"reporter": "a", "sequence": 1, "unknown": []any{data{"ip": "", "refusals": 1}}},
		"token: is not a field of this path, which has": {"reporter": "a", "sequence": 1, "token": "x"},
	} {
		e.refused(logical.UpdateOperation, "usage", d, want)
	}
	if answer := e.report("a", 1, good); answer["duplicate"] != false {
		t.Error("a refused batch has used its sequence")
	}
}

// Introspection counts on the active node, and writes nothing by itself.
func TestIntrospectionCounts(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": []string{"a:read"}, "bound_hosts": []string{"api.example.com"}})
	c := e.creds("r", nil)
	at := data{"host": "api.example.com", "client_ip": "192.0.2.1", "region": "DE", "required_scopes": "a:read"}
	writes := e.storage.writes.Load()
	e.expect("active", c.token, at)
	if got := e.usageOf(c.id); got["last_region"] != "DE" || got["last_ip"] != "192.0.2.1" {
		t.Errorf("shown %v", got)
	}
	e.expect("host_not_allowed", c.token, data{"host": "other.example.com"})
	e.expect("insufficient_scope", c.token, data{"host": "api.example.com", "required_scopes": "a:write"})
	form := data{"token": c.token, "host": "api.example.com", "client_ip": "192.0.2.2"}
	if resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "oauth/introspect", Data: form}); err != nil || resp.IsError() {
		t.Fatal(resp, err)
	}
	e.expect("host_not_allowed", c.token, data{"min_cursor": 0}) // a look-up of a verifier
	e.expect("active", c.token, data{"min_cursor": 0, "host": "api.example.com"})
	e.expect("malformed", "noise", data{"client_ip": "198.51.100.9"})
	e.expect("malformed", "noise", nil)
	if n := e.storage.writes.Load() - writes; n != 0 {
		t.Errorf("introspection writes %d times", n)
	}
	got := e.usageOf(c.id)
	if got["last_region"] != nil { // of the last use, which did not state a region
		t.Errorf("the last region is %v", got["last_region"])
	}
	if got["uses"] != uint64(3) || fmt.Sprint(got["refusals"]) != "map[host_not_allowed:1 insufficient_scope:1]" || fmt.Sprint(got["scopes"]) != "[a:read]" {
		t.Errorf("shown %v", got)
	}
	if top := e.b.Usage.Unknown(9); len(top) != 1 || top[0].Address.String() != "198.51.100.9" || top[0].Refusals != 1 {
		t.Errorf("unknown tokens came from %v", top)
	}
	e.system.state.Store(uint32(consts.ReplicationPerformanceStandby))
	time.Sleep(1100 * time.Millisecond) // the engine keeps Vault's answer for a second
	e.expect("active", c.token, at)
	if got := e.usageOf(c.id); got["uses"] != uint64(3) {
		t.Errorf("a standby counts: %v", got)
	}
}

// The tokens of a grant count together.
func TestUsageOfGrant(t *testing.T) {
	e := newEngine(t)
	e.write("config", data{"issuer": "https://vault.example.com/v1/apitoken"})
	e.write("roles/r", data{"scopes": []string{"a:read"}, "refresh": true, "access_ttl": "5m"})
	c := e.creds("r", nil)
	e.expect("active", c.token, nil)
	id := e.write("introspect", data{"token": c.token})["token_id"].(string)
	grant, _, member := strings.Cut(id, ".")
	e.report("api-1", 1, data{"token_id": id, "uses": 3}, data{"token_id": grant, "uses": 4})
	if got := e.usageOf(grant); got["uses"] != uint64(9) {
		t.Errorf("%v (the token has an id of its own: %t)", got, member)
	}
	if got := e.write("lookup", data{"token": c.token})["usage"].(data); got["uses"] != uint64(9) {
		t.Errorf("lookup by token shows %v", got)
	}
}

func TestUsageFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		defer e.b.Cleanup(context.Background())
		e.write("roles/r", data{"scopes": []string{"a:read"}})
		old, used, late := e.creds("r", nil), e.creds("r", nil), e.creds("r", nil)
		time.Sleep(24 * time.Hour)
		e.expect("active", used.token, nil)
		noon := time.Now()
		time.Sleep(24 * time.Hour)
		fresh := e.creds("r", nil)
		e.expect("active", late.token, nil)
		time.Sleep(time.Second)
		for _, c := range []struct {
			filter data
			want   []*creds
		}{
			{data{"unused_for": "0s"}, []*creds{old, used, late, fresh}},
			{data{"unused_for": "12h"}, []*creds{old, used}},
			{data{"unused_for": "25h"}, []*creds{old}},
			{data{"unused_for": "3d"}, nil},
			{data{"used_since": noon.Add(-time.Minute).Format(time.RFC3339)}, []*creds{used, late}},
			{data{"used_since": noon.Unix()}, []*creds{used, late}},
			{data{"used_since": noon.Unix() + 1}, []*creds{late}},
			{data{"used_since": noon.Unix() + 1, "role": "other"}, nil},
			{data{"unused_for": "12h", "limit": 1}, []*creds{old, used}},
		} {
			var want []string
			for _, c := range c.want {
				want = append(want, c.id)
			}
			slices.Sort(want)
			if _, limited := c.filter["limit"]; limited {
				want = want[:1]
			}
			if got := e.list("tokens/", c.filter); !slices.Equal(got, want) {
				t.Errorf("%v lists %q, want %q", c.filter, got, want)
			}
		}
		e.refused(logical.ListOperation, "tokens/", data{"unused_for": "1h", "used_since": 1}, "either unused_for or used_since")
		e.refused(logical.ListOperation, "tokens/", data{"unused_for": "x"}, "unused_for: takes a duration")
		e.refused(logical.ListOperation, "tokens/", data{"used_since": "yesterday"}, "used_since: takes a time such as")
	})
}

// What is counted is stored within a minute, read by the next process, and dropped when the token has ended.
func TestUsageIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/r", data{"scopes": []string{"a:read"}, "ttl": "1h", "max_ttl": "2h"})
		c := e.creds("r", nil)
		e.report("api-1", 7, data{"token_id": c.id, "uses": 5})
		e.expect("active", c.token, nil)
		time.Sleep(time.Minute)
		segments := func() []string {
			names, err := e.storage.InmemStorage.List(context.Background(), insight.Prefix)
			if err != nil {
				t.Fatal(err)
			}
			return names
		}
		if names := segments(); len(names) != 1 {
			t.Fatalf("segments %q", names)
		}
		e = e.restart()
		if got := e.usageOf(c.id); got["uses"] != uint64(6) {
			t.Errorf("after a restart: %v", got)
		}
		if answer := e.report("api-1", 7, data{"token_id": c.id, "uses": 5}); answer["duplicate"] != true {
			t.Errorf("a retry after the restart: %v", answer)
		}
		minutes := func(n int) {
			for range n {
				time.Sleep(time.Minute)
				e.minute()
			}
		}
		minutes(50)
		if _, err := e.renew(c, time.Hour); err != nil {
			t.Fatal(err)
		}
		minutes(20)
		if got := e.usageOf(c.id); got["uses"] != uint64(6) {
			t.Errorf("after its first end, and renewed: %v", got)
		}
		minutes(45)
		if names := segments(); e.b.Usage.Len() != 0 || len(names) > 1 {
			t.Errorf("%d tokens are left, and %q", e.b.Usage.Len(), names)
		}
		e.b.Cleanup(context.Background())
	})
}

// A damaged segment is listed, and can be deleted.
func TestDamagedUsage(t *testing.T) {
	e := newEngine(t)
	key := insight.Prefix + "0123456789abcdef-0"
	if err := e.storage.InmemStorage.Put(context.Background(), &logical.StorageEntry{Key: key, Value: []byte("noise")}); err != nil {
		t.Fatal(err)
	}
	e = e.restart()
	e.write("roles/r", data{"scopes": []string{"a:read"}})
	e.expect("active", e.creds("r", nil).token, nil)
	if got := e.list("broken/", nil); !slices.Equal(got, []string{key}) {
		t.Errorf("listed as broken: %q", got)
	}
	e.do(logical.DeleteOperation, "broken/"+key, nil)
	if got := e.list("broken/", nil); len(got) != 0 {
		t.Errorf("listed as broken: %q", got)
	}
}

func BenchmarkUsageReport(b *testing.B) {
	e := newEngine(b)
	e.write("roles/r", data{"scopes": []string{"a:read"}})
	rows := make([]any, insight.MaxRows)
	for i := range rows {
		rows[i] = data{
			"token_id": e.creds("r", nil).id, "uses": json.Number("5"), "last_used_at": "2026-01-02T15:04:05Z", "last_ip": "192.0.2.1", "last_region": "DE",
			"refusals": data{"rate_limited": json.Number("2")}, "scopes": []any{"a:read"},
		}
	}
	sequence := 0
	for b.Loop() {
		sequence++
		if answer := e.report("api-1", sequence, rows...); answer["accepted"] != insight.MaxRows {
			b.Fatal(answer)
		}
	}
}
