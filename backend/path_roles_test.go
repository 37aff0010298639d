package backend

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestRole(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{
		"scopes": "invoices:read", "allowed_scopes": "invoices:*", "audience": "https://billing.example.com",
		"ttl": "1h", "max_ttl": "24h", "token_bound_cidrs": "10.0.0.0/8,::ffff:192.0.2.0/120", "request_bound_cidrs": "127.0.0.1",
		"bound_regions": "US,DE", "bound_hosts": "API.example.com", "metadata": data{"team": "billing", "who": "{{identity.entity.name}}"},
		"description": "reads invoices", "allow_privileged": true, "rate_limit": "100/60s burst 20", "owner": "billing", "review_by": "2127-01-31",
		"detection": data{"shared": "revoke", "surge": "on"},
	})
	want := fmt.Sprint(data{
		"version": 1, "token_format": "opaque", "scopes": []string{"invoices:read"}, "allowed_scopes": []string{"invoices:*"},
		"audience": []string{"https://billing.example.com"}, "ttl": 3600, "max_ttl": 86400, "max_tokens": 0,
		"token_bound_cidrs": []string{"10.0.0.0/8", "192.0.2.0/24"}, "request_bound_cidrs": []string{"127.0.0.1/32"},
		"bound_regions": []string{"DE", "US"}, "bound_hosts": []string{"api.example.com"}, "metadata": map[string]string{"team": "billing", "who": "{{identity.entity.name}}"},
		"description": "reads invoices", "allow_privileged": true, "generate_lease": true, "refresh": false, "access_ttl": 0,
		"require_bound_checks": false, "rate_limit": "100/1m burst 20", "exchange": false, "proof": "", "connection": "", "params": data{}, "reuse": 0,
		"owner": "billing", "review_by": "2127-01-31", "detection": map[string]string{"shared": "revoke", "surge": "on"},
	})
	for _, e := range []*engine{e, e.restart()} {
		if got := fmt.Sprint(e.read("roles/reader")); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	e.write("roles/reader", data{"description": "x", "ttl": "2h"})
	if r := e.read("roles/reader"); r["version"] != 1 || r["max_ttl"] != int64(86400) || r["ttl"] != int64(7200) {
		t.Errorf("a partial update of what is granted to nobody gives %v", r)
	}
	e.write("roles/reader", data{"audience": "", "metadata": data{}})
	if r := e.read("roles/reader"); r["version"] != 2 || len(r["audience"].([]string)) != 0 || fmt.Sprint(r["metadata"]) != "map[]" {
		t.Errorf("a field that is emptied gives %v", r)
	}

	if e.read("roles/writer") != nil {
		t.Error("a role is there that nobody wrote")
	}
	e.do(logical.DeleteOperation, "roles/writer", nil)
	e.do(logical.DeleteOperation, "roles/reader", nil)
	if e.read("roles/reader") != nil || len(e.list("roles/", nil)) != 0 {
		t.Error("a deleted role is still there")
	}
}

func TestRolesList(t *testing.T) {
	e := newEngine(t)
	for _, name := range []string{"d", "b", "a", "c"} {
		e.write("roles/"+name, data{"scopes": "x"})
	}
	for want, page := range map[string]data{
		"a b c d": nil,
		"a b":     {"limit": 2},
		"c d":     {"limit": 2, "after": "b"},
		"":        {"after": "d"},
	} {
		if got := strings.Join(e.list("roles/", page), " "); got != want {
			t.Errorf("%v lists %q, want %q", page, got, want)
		}
	}
	e.refused(logical.ListOperation, "roles/", data{"limit": 0}, "limit: must be at least 1")
	e.refused(logical.ListOperation, "roles/", data{"limit": -1}, "limit: must be at least 1")
}

func TestRoleRefuses(t *testing.T) {
	e := newEngine(t)
	for _, c := range []struct {
		field string
		value any
		want  string
	}{
		{"scopes", "", "scopes: a role needs at least one"},
		{"scopes", "a,a", `scopes: scope "a" is given twice`},
		{"scopes", []string{""}, `scopes: scope "" is empty`},
		{"scopes", "a b", "scopes: scope"},
		{"scopes", "b:c", `scopes: ["b:c"] exceeds allowed_scopes, which is ["a" "a:*"]`},
		{"scopes", []int{1}, "element 1 of the list is a number"},
		{"allowed_scopes", "z", `scopes: ["a"] exceeds allowed_scopes, which is ["z"]`},
		{"allowed_scopes", "*", `role "reader" holds ["*"], privileged by privileged_scopes ["*" "admin" "admin:*"]: set allow_privileged=true`},
		{"token_format", "jws", `token_format: "jws" is not one of: opaque, jwt`},
		{"audience", "a b", `audience: "a b" must be`},
		{"audience", strings.Repeat("x", 513), "audience: "},
		{"audience", "a,a", `audience: "a" is given twice`},
		{"ttl", "-1s", "ttl"},
		{"ttl", "soon", "ttl"},
		{"ttl", "25h", "ttl: 25h is more than max_ttl, which is 24h"},
		{"max_ttl", "-1s", "max_ttl"},
		{"token_bound_cidrs", "10.0.0.1/8", "token_bound_cidrs: "},
		{"token_bound_cidrs", "ten", `token_bound_cidrs: "ten" is not an address range`},
		{"request_bound_cidrs", "10.0.0.0/99", "request_bound_cidrs: "},
		{"bound_hosts", "https://example.com/", "bound_hosts: "},
		{"bound_regions", "DE,uk", `bound_regions: "uk" is not a region: want a code of ISO 3166-1 alpha-2 in upper case`},
		{"rate_limit", "fast", `rate_limit: "fast" is not a rate: want <count>/<window>, such as 100/1m or 10/1s burst 50`},
		{"rate_limit", "1/48h", "rate_limit: a window of 48h, at most 24h are allowed"},
		{"metadata", data{"a": "{{identity.entity.name"}, "metadata: a: "},
		{"metadata", data{"a": "{{foo}}"}, `metadata: a: "foo" is no directive`},
		{"metadata", data{strings.Repeat("k", 200): "v"}, "metadata: "},
		{"metadata", data{"k": strings.Repeat("v", 600)}, "metadata: "},
		{"description", strings.Repeat("x", 1025), "description: is 1025 bytes long, at most 1024"},
		{"allow_privileged", "perhaps", "allow_privileged"},
		{"connection", "gitlab", `connection: there is no connection "gitlab"`},
		{"params", data{"a": "b"}, "params: is for a role with a connection"},
	} {
		d := data{"scopes": "a", "allowed_scopes": "a,a:*", "max_ttl": "24h"}
		d[c.field] = c.value
		e.refused(logical.UpdateOperation, "roles/reader", d, c.want)
	}
	e.refused(logical.UpdateOperation, "roles/"+strings.Repeat("n", 129), data{"scopes": "a"}, "name: is 129 bytes long")
	if names := e.list("roles/", nil); len(names) > 0 {
		t.Errorf("a refused role was written: %q", names)
	}
}

func TestRoleWarnsOfTheMountsTTL(t *testing.T) {
	e := newEngine(t)
	resp := e.do(logical.UpdateOperation, "roles/reader", data{"scopes": "a", "max_ttl": "9000h"})
	if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "1536h") {
		t.Errorf("warned %q", resp.Warnings)
	}
}

func TestPrivilegedScopes(t *testing.T) {
	e := newEngine(t)
	e.refused(logical.UpdateOperation, "roles/root", data{"scopes": "admin:users"}, "set allow_privileged=true")
	e.write("roles/root", data{"scopes": "admin:users", "allow_privileged": true})
	e.creds("root", nil)
	e.write("roles/billing", data{"scopes": "billing:refund"})
	resp := e.do(logical.UpdateOperation, "config", data{"privileged_scopes": "billing:*"})
	if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], `role "billing" holds ["billing:refund"]`) {
		t.Errorf("warned %q", resp.Warnings)
	}
	e.refused(logical.ReadOperation, "creds/billing", nil, "set allow_privileged=true")
}

// Tightening a role acts at once on live tokens, widening does not, deleting ends them for good.
func TestRoleVersions(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after data
		use           data
		was, is, anew string // what introspection says of a token from before: before, after; and of a new one
	}{
		{"scopes tightened", data{"scopes": "a,b"}, data{"scopes": "a"}, data{"required_scopes": "b"}, "active", "insufficient_scope", "insufficient_scope"},
		{"scopes widened", data{"scopes": "a"}, data{"scopes": "a,b"}, data{"required_scopes": "b"}, "insufficient_scope", "insufficient_scope", "active"},
		{"wildcard tightened", data{"scopes": "a:*"}, data{"scopes": "a:read"}, data{"required_scopes": "a:write"}, "active", "insufficient_scope", "insufficient_scope"},
		{"addresses tightened", data{"scopes": "a"}, data{"token_bound_cidrs": "10.0.0.0/8"}, data{"client_ip": "192.0.2.1"}, "active", "address_not_allowed", "address_not_allowed"},
		{"addresses widened", data{"scopes": "a", "token_bound_cidrs": "10.0.0.0/8"}, data{"token_bound_cidrs": ""}, data{"client_ip": "192.0.2.1"}, "address_not_allowed", "address_not_allowed", "active"},
		{"audience tightened", data{"scopes": "a"}, data{"audience": "x"}, data{"audience": "y"}, "active", "wrong_audience", "wrong_audience"},
		{"audience widened", data{"scopes": "a", "audience": "x"}, data{"audience": "x,y"}, data{"audience": "y"}, "wrong_audience", "wrong_audience", "active"},
		{"audience moved", data{"scopes": "a", "audience": "x"}, data{"audience": "y"}, data{}, "active", "wrong_audience", "active"},
		{"regions tightened", data{"scopes": "a"}, data{"bound_regions": "EU"}, data{"region": "US"}, "active", "region_not_allowed", "region_not_allowed"},
		{"regions tightened, not told", data{"scopes": "a"}, data{"bound_regions": "EU"}, data{}, "active", "region_not_allowed", "region_not_allowed"},
		{"regions widened", data{"scopes": "a", "bound_regions": "EU"}, data{"bound_regions": "EEA"}, data{"region": "NO"}, "region_not_allowed", "region_not_allowed", "active"},
		{"hosts tightened", data{"scopes": "a"}, data{"bound_hosts": "api.example.com"}, data{"host": "www.example.com"}, "active", "host_not_allowed", "host_not_allowed"},
		{"hosts widened", data{"scopes": "a", "bound_hosts": "x.com"}, data{"bound_hosts": "x.com,y.com"}, data{"host": "y.com"}, "host_not_allowed", "host_not_allowed", "active"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEngine(t)
			e.write("roles/reader", c.before)
			token := e.creds("reader", nil).token
			e.expect(c.was, token, c.use)
			e.write("roles/reader", c.after)
			for _, e := range []*engine{e, e.restart()} {
				e.expect(c.is, token, c.use)
				e.expect(c.anew, e.creds("reader", nil).token, c.use)
			}
		})
	}

	t.Run("tightened and widened again", func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a,b"})
		token := e.creds("reader", nil).token
		narrowed := e.creds("reader", data{"scopes": "b"}).token
		e.write("roles/reader", data{"scopes": "a"})
		e.expect("insufficient_scope", narrowed, data{"required_scopes": "b"})
		e.write("roles/reader", data{"scopes": "a,b,c"})
		e.expect("active", token, data{"required_scopes": "a,b"})
		e.expect("insufficient_scope", token, data{"required_scopes": "c"})
		e.expect("active", narrowed, data{"required_scopes": "b"})
	})

	t.Run("deleted and created again", func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a"})
		c := e.creds("reader", nil)
		e.do(logical.DeleteOperation, "roles/reader", nil)
		e.expect("role_deleted", c.token, nil)
		e.write("roles/reader", data{"scopes": "a"})
		for _, e := range []*engine{e, e.restart()} {
			e.expect("role_deleted", c.token, nil)
		}
		resp, err := e.renew(c, 0)
		e.saysNo(resp, err, "was deleted after the token was issued")
		e.revokeLease(c)
	})

	t.Run("past versions are forgotten when their tokens have ended", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := newEngine(t)
			e.write("roles/reader", data{"scopes": "v", "ttl": "1h", "max_ttl": "1h"})
			e.creds("reader", nil)
			for i := range 50 {
				e.write("roles/reader", data{"scopes": fmt.Sprintf("v,v%d", i)})
				time.Sleep(10 * time.Minute)
			}
			if n := len(e.b.Loaded().Roles.Get("reader").Past); n > 7 {
				t.Errorf("%d past versions are remembered", n)
			}
		})
	})
}

func TestConcurrentRoleUpdates(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			e.write("roles/reader", data{"audience": fmt.Sprintf("aud-%d", i)})
			e.write("roles/reader", data{"description": fmt.Sprint(i)})
			e.creds("reader", nil)
		})
	}
	wg.Wait()
	r := e.read("roles/reader")
	if r["version"] != 21 || len(r["audience"].([]string)) != 1 {
		t.Errorf("an update was lost: %v", r)
	}
	if after := e.restart().read("roles/reader"); fmt.Sprint(after) != fmt.Sprint(r) {
		t.Errorf("stored is %v", after)
	}
}
