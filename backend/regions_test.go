package backend

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

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
