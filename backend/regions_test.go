package backend

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/geoip/geoiptest"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// A token is good only from its regions, however it was made, and each answer about the token lists them.
func TestBoundRegions(t *testing.T) {
	for _, tokenFormat := range []string{"opaque", "jwt"} {
		e := newIssuer(t)
		e.write("roles/app", data{
			"token_format": tokenFormat, "scopes": "a", "audience": "x", "bound_regions": "EEA,CH", "require_bound_checks": true,
			"refresh": true, "access_ttl": "5m", "exchange": true,
		})
		c := e.creds("app", data{"bound_regions": "CH,FR,DE"})
		if got := fmt.Sprint(c.data["bound_regions"]); got != "[CH DE FR]" {
			t.Errorf("bound to %s", got)
		}
		refreshed, _ := e.mustRefresh(c.data["refresh_token"].(string))
		status, answer := e.exchange(refreshed, data{"bound_regions": "DE CH"})
		if status != http.StatusOK {
			t.Fatalf("%d %v", status, answer)
		}
		exchanged := answer["access_token"].(string)
		for want, texts := range map[string][]string{"[CH DE FR]": {c.token, refreshed}, "[CH DE]": {exchanged}} {
			for _, text := range texts {
				e.expect("active", text, data{"region": "DE"})
				e.expect("region_not_allowed", text, data{"region": "IS"})
				e.expect("region_not_allowed", text, data{"client_ip": "127.0.0.1"})
				for _, path := range []string{"introspect", "lookup"} {
					if got := fmt.Sprint(e.write(path, data{"token": text})["bound_regions"]); got != want {
						t.Errorf("%s lists %s, want %s", path, got, want)
					}
				}
				if tokenFormat == "jwt" {
					if got := fmt.Sprint(e.verify(text, "at+jwt")[token.EngineClaim].(data)["bound_regions"]); got != want {
						t.Errorf("the JWT lists %s, want %s", got, want)
					}
				}
				for region, active := range map[string]bool{"DE": true, "US": false, "": false} {
					if _, answer := e.form("oauth/introspect", data{"token": text, "region": region}); answer["active"] != active {
						t.Errorf("region %q: %v", region, answer)
					}
				}
			}
		}
		e.expect("region_not_allowed", exchanged, data{"region": "FR"})
		if _, told := e.write("lookup", data{"token_id": c.id})["bound_regions"]; told {
			t.Error("a row does not know what a request narrowed")
		}
		detail := e.write("introspect", data{"token": exchanged, "region": "US"})["detail"]
		if want := "not from US"; !strings.Contains(fmt.Sprint(detail), want) {
			t.Errorf("detail %q, want %q", detail, want)
		}

		e.write("roles/app", data{"bound_regions": "DE"})
		for _, text := range []string{c.token, refreshed, exchanged} {
			e.expect("region_not_allowed", text, data{"region": "CH"})
			e.expect("active", text, data{"region": "DE"})
		}
	}
}

// A token that is not bound does not list regions, and a region that the API states does not matter.
func TestUnboundRegions(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", data{"scopes": "a"})
	c := e.creds("app", nil)
	e.expect("active", c.token, data{"region": "XX"})
	for _, answer := range []data{c.data, e.write("introspect", data{"token": c.token}), e.write("lookup", data{"token": c.token})} {
		if regions, told := answer["bound_regions"]; told {
			t.Errorf("bound to %v", regions)
		}
	}
}

// Introspection finds the region of an address in the file that the config names.
func TestRegionOfAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "country.mmdb")
		geoiptest.Write(t, path, map[string]string{"192.0.2.0/24": "DE", "198.51.100.0/24": "US"})
		e := newEngine(t)
		e.write("roles/app", data{"scopes": "a", "bound_regions": "EU"})
		c := e.creds("app", nil)
		e.expect("region_not_allowed", c.token, data{"client_ip": "192.0.2.1"})
		e.write("config", data{"geoip_database": path})
		if got := e.read("config")["geoip_database"]; got != path {
			t.Errorf("config says %v", got)
		}
		e.expect("active", c.token, data{"client_ip": "192.0.2.1"})
		e.expect("region_not_allowed", c.token, data{"client_ip": "198.51.100.1"})
		e.expect("region_not_allowed", c.token, data{"client_ip": "203.0.113.1"}) // not in the database
		e.expect("region_not_allowed", c.token, nil)
		detail := e.write("introspect", data{"token": c.token, "client_ip": "198.51.100.1"})["detail"]
		if !strings.HasSuffix(fmt.Sprint(detail), "not from US") {
			t.Errorf("detail %q", detail)
		}
		// What the API states counts more than the database.
		e.expect("active", c.token, data{"client_ip": "198.51.100.1", "region": "DE"})
		e.expect("region_not_allowed", c.token, data{"client_ip": "192.0.2.1", "region": "US"})
		for ip, active := range map[string]bool{"192.0.2.1": true, "198.51.100.1": false} {
			if _, answer := e.form("oauth/introspect", data{"token": c.token, "client_ip": ip}); answer["active"] != active {
				t.Errorf("%s: %v", ip, answer)
			}
		}

		geoiptest.Write(t, path, map[string]string{"192.0.2.0/24": "US"})
		time.Sleep(5 * time.Second)
		e.expect("region_not_allowed", c.token, data{"client_ip": "192.0.2.1"})
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		e.expect("region_not_allowed", c.token, data{"client_ip": "192.0.2.1"})
		e.write("roles/us", data{"scopes": "a", "bound_regions": "US"})
		us := e.creds("us", nil)
		e.expect("active", us.token, data{"client_ip": "192.0.2.1"}) // by the last good content
		restarted := e.restart()
		restarted.expect("region_not_allowed", us.token, data{"client_ip": "192.0.2.1"}) // there is none
		restarted.expect("active", us.token, data{"region": "US"})

		// Other fields can be changed while the file is gone. The field itself cannot.
		e.write("config", data{"environment": "production"})
		e.refused(logical.UpdateOperation, "config", data{"geoip_database": path}, "geoip_database: stat "+path+": no such file or directory; the file must be on each node of Vault")
		e.refused(logical.UpdateOperation, "config", data{"geoip_database": "country.mmdb"}, "geoip_database: must be an absolute path")
		e.write("config", data{"geoip_database": ""})
		e.expect("region_not_allowed", us.token, data{"client_ip": "192.0.2.1"})
	})
}

// An exchange is a use of the token: with a database the region of its address is checked.
func TestExchangeFromARegion(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", data{"scopes": "a", "bound_regions": "EU", "exchange": true})
	c := e.creds("app", nil)
	path := filepath.Join(t.TempDir(), "country.mmdb")
	for _, step := range []struct {
		region string // of the address that the request comes from
		want   int
	}{{"", http.StatusOK}, {"DE", http.StatusOK}, {"US", http.StatusBadRequest}} {
		if step.region != "" {
			path += step.region
			geoiptest.Write(t, path, map[string]string{"127.0.0.0/8": step.region})
			e.write("config", data{"geoip_database": path})
		}
		status, answer := e.exchange(c.token, nil)
		if status != step.want || status != http.StatusOK && answer["error"] != "invalid_grant" {
			t.Errorf("from %q: %d %v", step.region, status, answer)
		}
	}
}

// Introspection tells the rate of the role as it is now, a JWT the rate of its issue, and the feed tells of the change.
func TestRateLimit(t *testing.T) {
	for _, tokenFormat := range []string{"opaque", "jwt"} {
		e := newIssuer(t)
		e.write("roles/app", data{"token_format": tokenFormat, "scopes": "a", "audience": "x", "rate_limit": "100/60s burst 20", "refresh": true, "access_ttl": "5m"})
		c := e.creds("app", nil)
		rate := func(text string) any { return e.write("introspect", data{"token": text})["rate_limit"] }
		inJWT := func(text string) any {
			if tokenFormat != "jwt" {
				return nil
			}
			return e.verify(text, "at+jwt")[token.EngineClaim].(data)["rate_limit"]
		}
		if got := rate(c.token); got != "100/1m burst 20" {
			t.Errorf("the rate is %v", got)
		}
		if got := inJWT(c.token); tokenFormat == "jwt" && got != "100/1m burst 20" {
			t.Errorf("the JWT has the rate %v", got)
		}
		before := e.write("introspect", data{"token": c.token})
		e.write("roles/app", data{"rate_limit": "5/1s"})
		refreshed, _ := e.mustRefresh(c.data["refresh_token"].(string))
		for _, text := range []string{c.token, refreshed} {
			if got := rate(text); got != "5/1s" {
				t.Errorf("after a change the rate is %v", got)
			}
		}
		if got := inJWT(refreshed); tokenFormat == "jwt" && got != "5/1s" {
			t.Errorf("the refreshed JWT has the rate %v", got)
		}
		answer := e.do(logical.ReadOperation, "feed", data{"epoch": before["epoch"], "cursor": before["cursor"]}).Data
		if got := fmt.Sprint(answer["events"]); !strings.Contains(got, "role") || !strings.Contains(got, "app") {
			t.Errorf("the feed has %s", got)
		}
		if v := e.read("roles/app")["version"]; v != 1 {
			t.Errorf("a rate grants nothing, and the version is %v", v)
		}
		e.write("roles/app", data{"rate_limit": ""})
		if got := rate(c.token); got != nil {
			t.Errorf("without a limit the rate is %v", got)
		}
	}
}

// Where the bounds of a role and of a token exclude each other, no answer says that the token is not bound.
func TestNothingIsLeftOfTheBounds(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", data{"scopes": "a", "token_bound_cidrs": "10.0.0.0/8", "bound_regions": "EU"})
	c := e.creds("app", data{"token_bound_cidrs": "10.1.0.0/16"})
	e.write("roles/app", data{"token_bound_cidrs": "10.2.0.0/16"})
	answer := e.write("lookup", data{"token": c.token})
	if ranges, told := answer["token_bound_cidrs"].([]string); !told || len(ranges) != 0 {
		t.Errorf("lookup says %v", answer)
	}
}
