package backend

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// What a retried refresh returns is another token with another id, whatever has changed meanwhile: no two texts
// are ever sealed under one id, which is the nonce.
func TestRetriesShareNoID(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", data{"scopes": "a", "refresh": true, "access_ttl": "5m"})
	first := e.creds("app", nil).data["refresh_token"].(string)
	texts := make(map[string]string)
	for i, prefix := range []string{"apt", "other", "other"} {
		e.write("config", data{"token_prefix": prefix})
		access, refresh := e.mustRefresh(first)
		for _, text := range []string{access, refresh} {
			id := e.write("introspect", data{"token": text})["jti"].(string)
			if old := texts[id]; old != "" && old != text {
				t.Errorf("try %d: %s and %s have the id %s", i, old, text, id)
			}
			texts[id] = text
		}
	}
}

// A grant of which the role leaves nothing gets no further token, and above all none with the role's defaults.
func TestNothingIsLeftOfAGrant(t *testing.T) {
	for name, c := range map[string]struct {
		narrowed, tightened data
	}{
		"scopes":            {data{"scopes": "b"}, data{"scopes": "a", "allowed_scopes": "a"}},
		"audience":          {data{"audience": "y"}, data{"audience": "x"}},
		"token_bound_cidrs": {data{"token_bound_cidrs": "127.0.0.1/32"}, data{"token_bound_cidrs": "10.0.0.0/8"}},
		"bound_regions":     {data{"bound_regions": "DE,FR"}, data{"bound_regions": "US"}},
	} {
		for _, tokenFormat := range []string{"opaque", "jwt"} {
			e := newIssuer(t)
			e.write("roles/app", data{
				"token_format": tokenFormat, "scopes": "a", "allowed_scopes": "a,b", "audience": "x,y",
				"exchange": true, "refresh": true, "access_ttl": "5m", "require_bound_checks": tokenFormat == "jwt",
			})
			issued := e.creds("app", c.narrowed)
			e.write("roles/app", c.tightened)
			if status, answer := e.exchange(issued.token, nil); status != http.StatusBadRequest || answer["error"] != "invalid_grant" {
				t.Errorf("%s: a %s token is exchanged: %d %v", name, tokenFormat, status, answer)
			}
			if status, answer := e.refresh(issued.data["refresh_token"].(string)); status != http.StatusBadRequest || answer["error"] != "invalid_grant" {
				t.Errorf("%s: a %s token is refreshed: %d %v", name, tokenFormat, status, answer)
			}
		}
	}
}

// A token that was made while the role allowed less does not get back what the role allows again later.
func TestNewTokensOfAnOldGrantStayNarrow(t *testing.T) {
	e := newEngine(t)
	wide := data{
		"scopes": "a,b", "allowed_scopes": "a,b", "audience": "x,y", "exchange": true, "refresh": true, "access_ttl": "5m",
		"token_bound_cidrs": "127.0.0.0/8", "bound_regions": "EU",
	}
	e.write("roles/app", wide)
	c := e.creds("app", nil)
	e.write("roles/app", data{"scopes": "a", "allowed_scopes": "a", "audience": "x", "token_bound_cidrs": "127.0.0.1/32", "bound_regions": "DE,FR"})
	_, answer := e.exchange(c.token, nil)
	exchanged := answer["access_token"].(string)
	refreshed, _ := e.mustRefresh(c.data["refresh_token"].(string))
	e.write("roles/app", wide)
	for _, text := range []string{exchanged, refreshed} {
		e.expect("active", text, data{"client_ip": "127.0.0.1", "region": "DE", "audience": "x", "required_scopes": "a"})
		e.expect("region_not_allowed", text, data{"client_ip": "127.0.0.1", "region": "IT"})
		e.expect("insufficient_scope", text, data{"client_ip": "127.0.0.1", "audience": "x", "required_scopes": "b"})
		e.expect("wrong_audience", text, data{"client_ip": "127.0.0.1", "audience": "y"})
		e.expect("address_not_allowed", text, data{"client_ip": "127.0.0.2"})
	}
}

// Whichever id of a grant is known, and whichever door is taken: the whole grant ends.
func TestEveryIDLeadsToTheGrant(t *testing.T) {
	for _, tokenFormat := range []string{"opaque", "jwt"} {
		for _, by := range []string{"creds token_id", "grant_id", "refreshed jti", "exchanged jti", "refresh token jti", "refresh token", "oauth/revoke"} {
			e := newIssuer(t)
			e.write("roles/app", data{"token_format": tokenFormat, "scopes": "a", "audience": "api", "exchange": true, "refresh": true, "access_ttl": "5m"})
			c := e.creds("app", nil)
			refreshed, refresh := e.mustRefresh(c.data["refresh_token"].(string))
			_, answer := e.exchange(refreshed, nil)
			exchanged := answer["access_token"].(string)
			jti := func(text string) data { return data{"token_id": e.write("introspect", data{"token": text})["jti"]} }
			var warnings []string
			switch by {
			case "oauth/revoke":
				e.form("oauth/revoke", data{"token": refresh})
			default:
				named := map[string]data{
					"creds token_id": {"token_id": c.id}, "grant_id": {"token_id": c.data["grant_id"]}, "refreshed jti": jti(refreshed),
					"exchanged jti": jti(exchanged), "refresh token jti": jti(refresh), "refresh token": {"token": refresh},
				}[by]
				if state := e.write("lookup", named)["state"]; state != "active" {
					t.Errorf("%s by %s: %v", tokenFormat, by, state)
				}
				if resp := e.do(logical.UpdateOperation, "revoke", named); resp != nil {
					warnings = resp.Warnings
				}
			}
			if len(warnings) > 0 {
				t.Errorf("%s by %s: %q", tokenFormat, by, warnings)
			}
			for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
				for _, text := range []string{c.token, refreshed, exchanged} {
					e.expect("revoked", text, nil)
					if tokenFormat == "jwt" && !e.listedAsRevoked(text) {
						t.Errorf("by %s: not in the status list", by)
					}
				}
				e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": refresh}, "invalid_grant")
			}
		}
	}
}

// An id that nothing is known of is not answered as one that was revoked.
func TestRevokeSaysWhatItDoesNotKnow(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	c := e.creds("reader", nil)
	for id, known := range map[string]bool{strings.Repeat("0", 24): false, c.id: true, c.id + "." + strings.Repeat("1", 24): true} {
		resp := e.do(logical.UpdateOperation, "revoke", data{"token_id": id})
		if warned := resp != nil && strings.Contains(fmt.Sprint(resp.Warnings), "is unknown. If this mount issued"); warned == known {
			t.Errorf("%s: %v", id, resp)
		}
	}
}

func TestOAuthRevokeEndsAnUpstreamToken(t *testing.T) {
	s := newShelf(t)
	e := onShelf(t, s)
	c := e.creds("reader", nil)
	if s.live() != 1 {
		t.Fatalf("%d tokens at the upstream", s.live())
	}
	if status, answer := e.form("oauth/revoke", data{"token": c.token}); status != http.StatusOK {
		t.Errorf("%d %v", status, answer)
	}
	e.settled()
	if s.live() != 0 {
		t.Error("oauth/revoke has answered, and the token lives on at the upstream")
	}
}

// A token of a static role that is revoked by oauth/revoke is replaced at once.
func TestOAuthRevokeWakesTheRotator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a"})
		e.write("static-roles/box", data{"role": "reader", "rotation_period": "24h"})
		first := e.read("static-creds/box")["token"].(string)
		time.Sleep(90 * time.Second)
		e.form("oauth/revoke", data{"token": first})
		time.Sleep(2 * time.Second)
		if second := e.read("static-creds/box")["token"].(string); second == first {
			t.Error("the revoked token is still given out")
		} else {
			e.expect("active", second, nil)
		}
	})
}

// What is said of one token of a grant is true of that token, not of the grant.
func TestLookupOfOneTokenOfAGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/app", data{"scopes": "a", "refresh": true, "access_ttl": "5m", "ttl": "1h", "max_ttl": "2h"})
		c := e.creds("app", nil)
		access, _ := e.mustRefresh(c.data["refresh_token"].(string))
		e.vaultRenews(c, 2*time.Hour)
		for _, text := range []string{c.token, access} {
			answer, known := e.write("introspect", data{"token": text}), e.write("lookup", data{"token": text})
			end := time.Unix(answer["exp"].(int64), 0)
			if time.Until(end) != 5*time.Minute || known["expires_at"] != end.UTC().Format(time.RFC3339) || known["token_id"] != answer["jti"] {
				t.Errorf("introspection says %v, lookup says %v", answer, known)
			}
		}
		time.Sleep(5 * time.Minute)
		if state := e.write("lookup", data{"token": access})["state"]; state != "expired" {
			t.Errorf("an expired token of a live grant is %v", state)
		}
		if state := e.write("lookup", data{"token_id": c.data["grant_id"]})["state"]; state != "active" {
			t.Errorf("the grant is %v", state)
		}
	})
}

// A token that would be too long is refused with the field to shorten, and does not use up the refresh token.
func TestTooLongIsTheCallersMistake(t *testing.T) {
	long := make([]string, 90)
	for i := range long {
		long[i] = fmt.Sprintf("%02d-%040d", i, 0)
	}
	e := newIssuer(t)
	for _, tokenFormat := range []string{"opaque", "jwt"} {
		e.write("roles/app", data{
			"token_format": tokenFormat, "scopes": "a", "allowed_scopes": append(long, "a"), "audience": "x", "refresh": true, "access_ttl": "5m", "exchange": true,
		})
		e.refused(logical.UpdateOperation, "creds/app", data{"scopes": long}, "scopes: the token would be")
		e.do(logical.DeleteOperation, "roles/app", nil)
	}

	// The role alone fits, and so does what was granted; together they do not.
	e.write("roles/jwt", data{"token_format": "jwt", "scopes": "a", "allowed_scopes": append(long, "a"), "audience": "x", "refresh": true, "access_ttl": "5m", "exchange": true, "require_bound_checks": true})
	c := e.creds("jwt", data{"scopes": long[:35]})
	hosts := make([]string, 30)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("%s.%d.example.com", strings.Repeat("h", 50), i)
	}
	e.write("roles/jwt", data{"bound_hosts": hosts})
	e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": c.data["refresh_token"]}, "invalid_request")
	if _, answer := e.exchange(c.token, nil); answer["error"] != "invalid_request" || !strings.Contains(fmt.Sprint(answer), "bound_hosts") {
		t.Errorf("%v", answer)
	}
	e.write("roles/jwt", data{"bound_hosts": ""})
	for range 2 {
		if resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "oauth/token",
			Data: data{"grant_type": "refresh_token", "refresh_token": c.data["refresh_token"]}}); err != nil || resp.Data[logical.HTTPStatusCode] != http.StatusOK {
			t.Errorf("%v, %v", resp, err)
		}
	}
}

// A JWT that was issued in the last second before a crash is not in the inventory. Its id is enough for its place in a
// status list, also where it is the id of a token that was exchanged or refreshed.
func TestAnIDLeadsToTheStatusList(t *testing.T) {
	for _, refresh := range []bool{false, true} {
		e := newIssuer(t)
		role := data{"token_format": "jwt", "scopes": "a", "audience": "x", "exchange": true}
		if refresh {
			role["refresh"], role["access_ttl"] = true, "1h"
		}
		e.write("roles/app", role)
		direct, parent := e.creds("app", nil), e.creds("app", nil)
		_, answer := e.exchange(parent.token, nil)
		exchanged := answer["access_token"].(string)
		crashed := mountOn(t, e.storage, e.system)
		for id, texts := range map[string][]string{
			direct.id: {direct.token},
			crashed.write("introspect", data{"token": exchanged})["jti"].(string): {parent.token, exchanged},
		} {
			if resp := crashed.do(logical.UpdateOperation, "revoke", data{"token_id": id}); resp != nil {
				t.Errorf("%q", resp.Warnings)
			}
			for _, text := range texts {
				crashed.expect("revoked", text, nil)
				if !crashed.listedAsRevoked(text) {
					t.Error("not in the status list")
				}
			}
		}
	}
}

// What comes of a grant by refreshing or exchanging gets nothing back that the role did not allow when it was made.
func TestWhatTheRoleTookAwayStaysAway(t *testing.T) {
	for name, c := range map[string]struct {
		wide, tight, use data
	}{
		"scopes":            {data{"scopes": "a,b"}, data{"scopes": "a"}, data{"required_scopes": "b"}},
		"audience":          {data{"audience": "x,y"}, data{"audience": "x"}, data{"audience": "y"}},
		"token_bound_cidrs": {data{"token_bound_cidrs": "10.0.0.0/8,127.0.0.0/8"}, data{"token_bound_cidrs": "127.0.0.0/8"}, data{"client_ip": "10.0.0.1"}},
		"bound_regions":     {data{"bound_regions": "EU"}, data{"bound_regions": "DE,FR"}, data{"region": "IT"}},
		"bound_hosts":       {data{"bound_hosts": "*.example.com"}, data{"bound_hosts": "api.example.com"}, data{"host": "other.example.com"}},
	} {
		for _, tokenFormat := range []string{"opaque", "jwt"} {
			e := newIssuer(t)
			e.write("roles/app", data{
				"token_format": tokenFormat, "scopes": "a", "audience": "x", "require_bound_checks": true,
				"refresh": true, "access_ttl": "5m", "exchange": true,
			})
			e.write("roles/app", c.wide)
			first := e.creds("app", nil)
			e.write("roles/app", c.tight)
			refreshed, _ := e.mustRefresh(first.data["refresh_token"].(string))
			_, answer := e.exchange(first.token, nil)
			_, again := e.exchange(answer["access_token"].(string), nil)
			e.write("roles/app", c.wide)
			for from, text := range map[string]any{"refresh": refreshed, "exchange": answer["access_token"], "second exchange": again["access_token"]} {
				if reason := e.reason(text.(string), c.use); reason == "active" {
					t.Errorf("%s, %s: what came of the %s is good for %v", name, tokenFormat, from, c.use)
				}
			}
			e.expect("active", first.token, c.use)
		}
	}
}

// A refresh repeats nothing in the token that the role still allows: a change of the role that takes nothing away
// cannot make the token too long.
func TestARefreshRepeatsOnlyWhatChanged(t *testing.T) {
	e := newEngine(t)
	scopes := make([]string, 90)
	for i := range scopes {
		scopes[i] = fmt.Sprintf("%02d-%040d", i, 0)
	}
	e.write("roles/app", data{"scopes": scopes, "audience": "x,y", "token_bound_cidrs": "127.0.0.1,10.0.0.0/8", "bound_regions": "EU", "bound_hosts": "b.example.com,a.example.com", "refresh": true, "access_ttl": "5m"})
	c := e.creds("app", nil)
	e.write("roles/app", data{"metadata": "team=billing"})
	access, _ := e.mustRefresh(c.data["refresh_token"].(string))
	if more := len(access) - len(c.token); more > 20 { // for the id of the grant
		t.Errorf("the token is %d bytes longer than the first", more)
	}
}

// A grant that began before its role issued JWTs has no place in a status list, and there comes no JWT of it.
func TestNoJWTWithoutAPlace(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/app", data{"scopes": "a", "audience": "x", "refresh": true, "access_ttl": "5m", "exchange": true})
	c := e.creds("app", nil)
	for _, change := range []data{
		{"token_format": "jwt"},
		{"refresh": false, "access_ttl": 0, "generate_lease": false},
	} {
		e.write("roles/app", change)
		e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": c.data["refresh_token"]}, "invalid_grant")
	}
	e.write("roles/app", data{"token_format": "opaque", "generate_lease": true, "refresh": true, "access_ttl": "1h"})
	long := e.creds("app", nil)
	e.write("roles/app", data{"token_format": "jwt", "refresh": false, "access_ttl": 0, "generate_lease": false})
	if _, answer := e.exchange(long.token, nil); answer["error"] != "invalid_grant" {
		t.Errorf("a JWT of an hour without a place: %v", answer)
	}
	if _, answer := e.exchange(long.token, data{"ttl": "15m"}); answer["access_token"] == nil {
		t.Errorf("as short as those that the role issues: %v", answer)
	}
}

// A refresh token that is used again ends the grant also where it would be refused for another reason.
func TestReuseIsSeenFirst(t *testing.T) {
	e := newEngine(t)
	wide := data{"scopes": "a", "allowed_scopes": "a", "refresh": true, "access_ttl": "5m"}
	e.write("roles/app", wide)
	c := e.creds("app", nil)
	first := c.data["refresh_token"].(string)
	_, second := e.mustRefresh(first)
	access, third := e.mustRefresh(second)
	e.write("roles/app", data{"scopes": "b", "allowed_scopes": "b"}) // nothing is left of the grant
	e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": first}, "invalid_grant")
	e.write("roles/app", wide)
	e.expect("revoked", access, nil)
	e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": third}, "invalid_grant")
}

// The refresh token of a grant expires when the lease does, however long the making of the tokens takes: a lease that
// ends in time stores nothing.
func TestARefreshTokenExpiresWithItsLease(t *testing.T) {
	t.Parallel()
	var ticks atomic.Int64
	e := mountPrepared(t, new(storage), newSystem(), func(b *backend) {
		began := b.Now()
		b.Now = func() time.Time { return began.Add(time.Duration(ticks.Add(1)) * 10 * time.Second) }
	})
	e.write("roles/app", data{"scopes": "a", "refresh": true, "access_ttl": "5m", "ttl": "24h"})
	c := e.creds("app", nil)
	ends, err := time.Parse(time.RFC3339, c.secret.InternalData["expires_at"].(string))
	if err != nil {
		t.Fatal(err)
	}
	if got := e.write("introspect", data{"token": c.data["refresh_token"]})["exp"]; got != ends.Unix() {
		t.Errorf("the refresh token expires at %v, its lease at %d", got, ends.Unix())
	}
}
