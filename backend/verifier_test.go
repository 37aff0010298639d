package backend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
)

const testIssuer = "https://vault.test/v1/apitoken"

// overHTTP answers requests to Vault with an engine, as Vault would.
type overHTTP struct{ e *engine }

func (o overHTTP) RoundTrip(r *http.Request) (*http.Response, error) {
	path, _ := strings.CutPrefix(r.URL.Path, "/v1/apitoken/")
	req := &logical.Request{Operation: logical.ReadOperation, Path: path, Data: data{}}
	for name, values := range r.URL.Query() {
		req.Data[name] = values[0]
	}
	if r.Method != http.MethodGet {
		req.Operation = logical.UpdateOperation
		decoder := json.NewDecoder(r.Body)
		decoder.UseNumber()
		if err := decoder.Decode(&req.Data); err != nil {
			return nil, err
		}
	}
	resp, err := o.e.request(req)
	status, header := http.StatusOK, http.Header{}
	var body []byte
	switch {
	case err != nil || resp.IsError():
		status = http.StatusBadRequest
		body, _ = json.Marshal(data{"errors": []string{fmt.Sprint(resp, err)}})
	case resp.Data[logical.HTTPRawBody] != nil:
		status, _ = resp.Data[logical.HTTPStatusCode].(int)
		body, _ = resp.Data[logical.HTTPRawBody].([]byte)
		cache, _ := resp.Data[logical.HTTPCacheControlHeader].(string)
		header.Set("Cache-Control", cache)
	default:
		body, _ = json.Marshal(data{"data": resp.Data})
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(bytes.NewReader(body)), Request: r, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}, nil
}

func (e *engine) verifier(change func(*verify.Config)) *verify.Verifier {
	e.t.Helper()
	c := verify.Config{
		AnyAudience: true, HTTPClient: &http.Client{Transport: overHTTP{e}}, Logger: slog.New(slog.DiscardHandler), UnknownPerSecond: 1000,
		Vault: &verify.VaultConfig{Address: "https://vault.test", Token: "root"},
	}
	change(&c)
	v, err := verify.New(e.t.Context(), c)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = v.Close() })
	return v
}

// A Verifier decides as introspection does, for every kind of token and every use, also after changes.
func TestVerifierDecidesAsIntrospection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config", data{"issuer": testIssuer, "environment": "production"})
		for role, fields := range map[string]data{
			"opaque":  {"scopes": "orders:*,users:read", "audience": "api,other", "metadata": "team=billing"},
			"jwt":     {"scopes": "orders:*,users:read", "audience": "api,other", "token_format": "jwt", "metadata": "team=billing"},
			"bound":   {"scopes": "orders:read", "token_bound_cidrs": "10.0.0.0/8,2001:db8::/32", "bound_regions": "EU", "bound_hosts": "*.example.com"},
			"boundJ":  {"scopes": "orders:read", "audience": "api", "token_bound_cidrs": "10.0.0.0/8", "bound_regions": "DE", "bound_hosts": "api.example.com", "token_format": "jwt", "require_bound_checks": true},
			"leaseJ":  {"scopes": "orders:read", "audience": "api", "token_format": "jwt", "generate_lease": false, "ttl": "5m"},
			"refresh": {"scopes": "orders:read", "refresh": true, "access_ttl": "5m", "exchange": true},
			"doomed":  {"scopes": "orders:read"}, "doomedJ": {"scopes": "orders:read", "audience": "api", "token_format": "jwt"},
		} {
			e.write("roles/"+role, fields)
		}
		tokens := map[string]string{"noise": "apt_noise"}
		for role := range map[string]bool{"opaque": true, "jwt": true, "bound": true, "boundJ": true, "refresh": true, "doomed": true, "doomedJ": true} {
			c := e.creds(role, nil)
			tokens[role] = c.token
			if refresh, ok := c.data["refresh_token"].(string); ok {
				tokens["refresh token"] = refresh
			}
		}
		tokens["leaseJ"] = e.write("creds/leaseJ", nil)["token"].(string)
		tokens["narrow"] = e.creds("opaque", data{"scopes": "orders:read", "token_bound_cidrs": "10.1.0.0/16", "audience": "other"}).token
		revoked, revokedJ := e.creds("opaque", nil), e.creds("jwt", nil)
		tokens["revoked"], tokens["revokedJ"] = revoked.token, revokedJ.token
		v := e.verifier(func(c *verify.Config) { c.Environment = "production" })

		compare := func(when string) {
			t.Helper()
			for name, text := range tokens {
				for _, u := range []data{
					{}, {"required_scopes": "orders:read"}, {"required_scopes": "orders:write,users:read"}, {"audience": "api"}, {"audience": "nobody"},
					{"client_ip": "10.1.2.3"}, {"client_ip": "10.2.2.3", "region": "DE", "host": "api.example.com"},
					{"client_ip": "2001:db8::1", "region": "FR", "host": "x.example.com"}, {"client_ip": "10.1.2.3", "region": "US", "host": "api.example.com"},
					{"client_ip": "192.0.2.1", "region": "DE", "host": "api.example.com"}, {"client_ip": "10.1.2.3", "region": "DE", "host": "evil.test"},
				} {
					use := &verify.Use{}
					use.Audience, _ = u["audience"].(string)
					use.Region, _ = u["region"].(string)
					use.Host, _ = u["host"].(string)
					if s, ok := u["required_scopes"].(string); ok {
						use.Scopes = strings.Split(s, ",")
					}
					if s, ok := u["client_ip"].(string); ok {
						use.Client = netip.MustParseAddr(s)
					}
					want := access.Reason(e.reason(text, u))
					if want == "active" {
						want = access.Good
					}
					d, err := v.Check(t.Context(), text, use)
					gone := []access.Reason{access.Revoked, access.RoleDeleted} // a status list tells no reason
					if err != nil || d.Reason != want && !(slices.Contains(gone, d.Reason) && slices.Contains(gone, want)) {
						t.Errorf("%s, %s, %v: %q (%s), %v, introspection says %q", when, name, u, d.Reason, d.Detail, err, want)
					}
					if d.Allowed && d.Environment != "production" {
						t.Errorf("%s, %s: environment %q", when, name, d.Environment)
					}
				}
			}
		}
		compare("at first")
		compare("kept")
		e.write("revoke", data{"token_id": revoked.id})
		e.revokeLease(revokedJ)
		e.write("roles/opaque", data{"scopes": "orders:read", "allowed_scopes": "orders:read"})
		e.write("roles/bound", data{"bound_hosts": "other.example.com"})
		e.do(logical.DeleteOperation, "roles/doomed", nil)
		e.do(logical.DeleteOperation, "roles/doomedJ", nil)
		time.Sleep(1100 * time.Millisecond)
		compare("after changes")
		e.write("keys/rotate", nil)
		tokens["after rotation"] = e.creds("jwt", nil).token
		tokens["after rotation, opaque"] = e.creds("opaque", nil).token
		compare("after a rotation")
		time.Sleep(6 * time.Minute)
		e.minute()
		compare("after some minutes")
		if s := v.State(); !s.Ready {
			t.Errorf("%+v", s)
		}
	})
}

// The engine counts what a Verifier reports.
func TestVerifierReportsUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a,b", "rate_limit": "5/1m"})
		c := e.creds("reader", nil)
		v := e.verifier(func(*verify.Config) {})
		use := &verify.Use{Scopes: []string{"a"}, Client: netip.MustParseAddr("192.0.2.7"), Region: "DE"}
		for n := range 7 {
			d, err := v.Check(t.Context(), c.token, use)
			if err != nil || d.Allowed != (n < 5) || d.Limit == nil || d.Limit.Limit != 5 {
				t.Fatalf("use %d: %+v, %v", n, d, err)
			}
		}
		if d, _ := v.Check(t.Context(), c.token, &verify.Use{Scopes: []string{"c"}}); d.Reason != access.InsufficientScope {
			t.Errorf("%+v", d)
		}
		time.Sleep(31 * time.Second)
		usage, _ := e.write("lookup", data{"token_id": c.id})["usage"].(data)
		refusals, _ := usage["refusals"].(data)
		if fmt.Sprint(usage["uses"]) != "5" || usage["last_ip"] != "192.0.2.7" || usage["last_region"] != "DE" || fmt.Sprint(usage["scopes"]) != "[a]" ||
			fmt.Sprint(refusals) != "map[insufficient_scope:1 rate_limited:2]" {
			t.Errorf("%v", usage)
		}
	})
}
