package backend

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestCreds(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{
		"scopes": "invoices:read", "allowed_scopes": "invoices:*", "audience": "billing,hr", "ttl": "1h", "max_ttl": "24h",
		"token_bound_cidrs": "10.0.0.0/8", "bound_hosts": "api.example.com", "metadata": data{"team": "{{identity.entity.metadata.team}}", "env": "prod"},
	})
	e.creds("reader", nil) // makes the first key
	writes := e.storage.writes.Load()
	c := e.creds("reader", nil)
	if n := e.storage.writes.Load() - writes; n != 0 {
		t.Errorf("issuing has written %d times", n)
	}
	if !strings.HasPrefix(c.token, "apt_") || c.data["token_type"] != "Bearer" || fmt.Sprint(c.data["scopes"]) != "[invoices:read]" || fmt.Sprint(c.data["token_bound_cidrs"]) != "[10.0.0.0/8]" {
		t.Errorf("issued %v", c.data)
	}
	if c.secret.TTL != time.Hour || c.secret.MaxTTL != 24*time.Hour {
		t.Errorf("a lease of %s, at most %s", c.secret.TTL, c.secret.MaxTTL)
	}
	if !c.secret.Renewable {
		t.Error("the lease is not renewable")
	}
	for _, value := range c.secret.InternalData {
		if text, ok := value.(string); !ok || strings.Contains(text, c.token) {
			t.Errorf("the lease remembers %v", value)
		}
	}

	answer := e.write("introspect", data{"token": c.token, "client_ip": "10.1.1.1", "host": "api.example.com"})
	if fmt.Sprint(answer["metadata"]) != "map[env:prod team:billing]" || answer["sub"] != entityAnn || answer["environment"] != "apitoken" {
		t.Errorf("introspection says %v", answer)
	}

	narrow := e.creds("reader", data{"scopes": "invoices:write", "ttl": "10m", "token_bound_cidrs": "10.9.0.0/16", "audience": "hr"})
	if narrow.secret.TTL != 10*time.Minute || fmt.Sprint(narrow.data["scopes"], narrow.data["token_bound_cidrs"], narrow.data["audience"]) != "[invoices:write] [10.9.0.0/16] [hr]" {
		t.Errorf("issued %v", narrow.data)
	}
	use := data{"client_ip": "10.9.1.1", "host": "api.example.com", "audience": "hr", "required_scopes": "invoices:write"}
	e.expect("active", narrow.token, use)
	use["audience"] = "billing"
	e.expect("wrong_audience", narrow.token, use)
	use["audience"], use["client_ip"] = "hr", "10.8.1.1"
	e.expect("address_not_allowed", narrow.token, use)
}

func TestCredsRefuses(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "invoices:read", "allowed_scopes": "invoices:read,lines:*", "audience": "billing", "max_ttl": "24h", "token_bound_cidrs": "10.0.0.0/8", "bound_regions": "DE,FR"})
	for _, c := range []struct {
		field string
		value any
		want  string
	}{
		{"scopes", "invoices:delete", `scopes: ["invoices:delete"] exceeds role "reader", which allows ["invoices:read" "lines:*"]`},
		{"scopes", "invoices:*", "exceeds"},
		{"scopes", "*", "exceeds"},
		{"scopes", "", "scopes: name at least one"},
		{"scopes", "invoices:read,invoices:read", "given twice"},
		{"scopes", "a b", "scopes: scope"},
		{"ttl", "25h", `ttl: 25h is more than max_ttl of role "reader", which is 24h`},
		{"ttl", "-1h", "ttl"},
		{"ttl", "x", "ttl"},
		{"token_bound_cidrs", "10.0.0.0/7", "token_bound_cidrs: "},
		{"token_bound_cidrs", "192.0.2.0/24", `token_bound_cidrs: [192.0.2.0/24] exceeds role "reader", which allows [10.0.0.0/8]`},
		{"token_bound_cidrs", "::/0", "exceeds"},
		{"bound_regions", "EU", `bound_regions: [AT BE BG CY CZ DK`},
		{"bound_regions", "DE,US", `bound_regions: [US] exceeds role "reader", which allows [DE FR]`},
		{"bound_regions", "", `bound_regions: name at least one, or leave it out for the role's ["DE" "FR"]`},
		{"bound_regions", "D", `bound_regions: "D" is not a region`},
		{"audience", "hr", `audience: ["hr"] exceeds role "reader", which allows ["billing"]`},
		{"audience", "billing,hr", "exceeds"},
		{"cidrs", "10.0.0.0/8", "cidrs: is not a field"},
	} {
		e.refused(logical.UpdateOperation, "creds/reader", data{c.field: c.value}, c.want)
	}
	e.refused(logical.ReadOperation, "creds/writer", nil, `role: there is no role "writer"`)
	if n := e.b.Loaded().Inventory.Len(); n != 0 {
		t.Errorf("%d tokens are in the inventory, none was issued", n)
	}
}

// Narrowing is an update: a policy of read alone allows nothing but the role's own grant.
func TestReadingTakesNoFields(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/reader", data{"scopes": "a", "allowed_scopes": "a,b"})
	e.write("roles/bound", data{"scopes": "a", "proof": "dpop"})
	for field, value := range map[string]string{"scopes": "b", "ttl": "1h", "token_bound_cidrs": "10.0.0.0/8", "bound_regions": "DE", "audience": "x", "dpop_jkt": "x", "x5t_s256": "x"} {
		e.refused(logical.ReadOperation, "creds/reader", data{field: value},
			field+": reading takes no fields: a request that narrows is an update, vault write apitoken/creds/reader "+field+"=...")
	}
	e.refused(logical.ReadOperation, "creds/reader", data{"scope": "b"}, "scope: is not a field of this path")
	if n := e.b.Loaded().Inventory.Len(); n != 0 {
		t.Errorf("%d tokens were issued", n)
	}
	if got := fmt.Sprint(e.read("creds/reader")["scopes"]); got != "[a]" {
		t.Errorf("reading grants %s", got)
	}
	if got := fmt.Sprint(e.creds("reader", data{"scopes": "b"}).data["scopes"]); got != "[b]" {
		t.Errorf("writing grants %s", got)
	}
}

// Whatever a request asks for, the token is never good for what the role is not.
func TestNarrowingOnlyNarrows(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a:x", "allowed_scopes": "a:*"})
	c := e.creds("reader", data{"scopes": "a:*"})
	e.expect("active", c.token, data{"required_scopes": "a:y"})
	e.expect("insufficient_scope", c.token, data{"required_scopes": "b"})
	e.write("roles/reader", data{"allowed_scopes": "a:x,a:y"})
	e.expect("active", c.token, data{"required_scopes": "a:y"})
	e.expect("insufficient_scope", c.token, data{"required_scopes": "a:z"})
}

func TestRequestBoundCIDRs(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a", "request_bound_cidrs": "10.0.0.0/8,2001:db8::/32"})
	for addr, allowed := range map[string]bool{
		"10.1.2.3": true, "10.1.2.3:1234": true, "::ffff:10.1.2.3": true, "2001:db8::1": true, "[2001:db8::1]:80": true,
		"192.0.2.1": false, "::1": false, "": false, "nonsense": false,
	} {
		resp, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: "creds/reader", Connection: &logical.Connection{RemoteAddr: addr}})
		if (err == nil && !resp.IsError()) != allowed {
			t.Errorf("from %q: %v, %v", addr, resp, err)
		}
		if !allowed {
			if coded := logical.HTTPCodedError(nil); !errors.As(err, &coded) || coded.Code() != 403 {
				t.Errorf("from %q: %v is not a 403", addr, err)
			}
		}
	}
}

func TestTTL(t *testing.T) {
	for _, c := range []struct {
		name     string
		role     data
		ask      data
		ttl, max time.Duration
		warns    bool
	}{
		{"the mount's defaults", data{}, nil, mountDefaultTTL, mountMaxTTL, false},
		{"the role's", data{"ttl": "1h", "max_ttl": "2h"}, nil, time.Hour, 2 * time.Hour, false},
		{"only a maximum", data{"max_ttl": "2h"}, nil, 2 * time.Hour, 2 * time.Hour, true},
		{"the request's", data{"ttl": "1h", "max_ttl": "2h"}, data{"ttl": "90m"}, 90 * time.Minute, 2 * time.Hour, false},
		{"more than the mount", data{"ttl": "9000h"}, nil, mountMaxTTL, mountMaxTTL, true},
		{"a request for more than the mount", data{}, data{"ttl": "9000h"}, mountMaxTTL, mountMaxTTL, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEngine(t)
			c.role["scopes"] = "a"
			e.write("roles/reader", c.role)
			got := e.creds("reader", c.ask)
			if got.secret.TTL != c.ttl || got.secret.MaxTTL != c.max || (len(got.warnings) > 0) != c.warns {
				t.Errorf("ttl %s, max %s, warnings %q", got.secret.TTL, got.secret.MaxTTL, got.warnings)
			}
			answer := e.write("introspect", data{"token": got.token})
			if life := answer["exp"].(int64) - answer["iat"].(int64); life != int64(c.ttl.Seconds()) {
				t.Errorf("the token lives %d s", life)
			}
		})
	}
}

func TestTemplatedMetadata(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a", "metadata": data{"who": "{{identity.entity.name}}"}})
	resp, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: "creds/reader"})
	e.saysNo(resp, err, `role "reader": metadata holds identity templates, and the caller has no entity`)
	e.write("roles/reader", data{"metadata": data{"x": "{{identity.entity.metadata.nope}}"}})
	resp, err = e.request(&logical.Request{Operation: logical.ReadOperation, Path: "creds/reader", EntityID: entityAnn})
	e.saysNo(resp, err, `metadata "x"`)
}

func BenchmarkCreds(b *testing.B) {
	e := newEngine(b)
	e.do(logical.UpdateOperation, "roles/reader", data{"scopes": "a:b"})
	b.ReportAllocs()
	for b.Loop() {
		e.do(logical.ReadOperation, "creds/reader", nil)
	}
}
