package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const issuer = "https://vault.example.com:8200/v1/apitoken"

func newIssuer(t testing.TB) *engine {
	e := newEngine(t)
	e.do(logical.UpdateOperation, "config", data{"issuer": issuer + "/"})
	return e
}

// raw makes a request that is answered with a raw body.
func (e *engine) raw(op logical.Operation, path string, d data) (status int, media, cache string, body []byte) {
	e.t.Helper()
	resp, err := e.request(&logical.Request{Operation: op, Path: path, Data: d})
	if err != nil || resp == nil || resp.IsError() {
		e.t.Fatalf("%s: %v, %v", path, resp, err)
	}
	return resp.Data[logical.HTTPStatusCode].(int), resp.Data[logical.HTTPContentType].(string),
		resp.Data[logical.HTTPCacheControlHeader].(string), resp.Data[logical.HTTPRawBody].([]byte)
}

// form posts to an endpoint of OAuth, whose answers must not be cached.
func (e *engine) form(path string, d data) (int, data) {
	e.t.Helper()
	status, media, cache, body := e.raw(logical.UpdateOperation, path, d)
	if media != "application/json" || cache != "no-store" {
		e.t.Errorf("%s: %s, Cache-Control: %s", path, media, cache)
	}
	var answer data
	if err := json.Unmarshal(body, &answer); err != nil {
		e.t.Fatal(err)
	}
	return status, answer
}

func (e *engine) refresh(refreshToken string) (int, data) {
	e.t.Helper()
	return e.form("oauth/token", data{"grant_type": "refresh_token", "refresh_token": refreshToken})
}

// mustRefresh gives the next pair.
func (e *engine) mustRefresh(refreshToken string) (access, next string) {
	e.t.Helper()
	status, answer := e.refresh(refreshToken)
	if status != http.StatusOK {
		e.t.Fatalf("%d %v", status, answer)
	}
	return answer["access_token"].(string), answer["refresh_token"].(string)
}

func (e *engine) refused4xx(path string, d data, code string) {
	e.t.Helper()
	status, answer := e.form(path, d)
	if status != http.StatusBadRequest || answer["error"] != code {
		e.t.Errorf("%s %.200v: %d %v, want %s", path, d, status, answer, code)
	}
}

func (e *engine) exchange(subject string, d data) (int, data) {
	e.t.Helper()
	all := data{"grant_type": native.GrantTypeExchange, "subject_token": subject, "subject_token_type": native.TypeAccessToken}
	for k, v := range d {
		all[k] = v
	}
	return e.form("oauth/token", all)
}

// keySet is what an API server knows of the keys.
func (e *engine) keySet() jose.JSONWebKeySet {
	e.t.Helper()
	status, media, cache, body := e.raw(logical.ReadOperation, "oauth/jwks", nil)
	if status != http.StatusOK || media != "application/jwk-set+json" || !strings.HasPrefix(cache, "public, max-age=") {
		e.t.Errorf("%d %s %s", status, media, cache)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(body, &set); err != nil {
		e.t.Fatal(err)
	}
	return set
}

// verify checks a JWT as an API server does, with the published keys only.
func (e *engine) verify(text, typ string) data {
	e.t.Helper()
	signed, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA, jose.RS256})
	if err != nil {
		e.t.Fatal(err)
	}
	if got := signed.Signatures[0].Protected.ExtraHeaders[jose.HeaderType]; got != typ {
		e.t.Errorf("typ %v, want %s", got, typ)
	}
	payload, err := signed.Verify(e.keySet())
	if err != nil {
		e.t.Fatalf("the published keys do not verify it: %v", err)
	}
	var claims data
	if err := json.Unmarshal(payload, &claims); err != nil {
		e.t.Fatal(err)
	}
	return claims
}

// listedAsRevoked tells whether the status list that a JWT points to says that it was revoked.
func (e *engine) listedAsRevoked(text string) bool {
	e.t.Helper()
	_, status := e.listed(text)
	return status == token.StatusInvalid
}

// listed gives how the status list that a JWT points to shows it, and how many bits the list has for each token.
func (e *engine) listed(text string) (bits float64, status byte) {
	e.t.Helper()
	claims := e.verify(text, "at+jwt")
	ref := claims["status"].(data)["status_list"].(data)
	uri := ref["uri"].(string)
	path, ours := strings.CutPrefix(uri, issuer+"/")
	if !ours {
		e.t.Fatalf("the list is at %s", uri)
	}
	code, media, _, body := e.raw(logical.ReadOperation, path, nil)
	if code != http.StatusOK || media != "application/statuslist+jwt" {
		e.t.Fatalf("%d %s", code, media)
	}
	list := e.verify(string(body), "statuslist+jwt")
	if list["sub"] != uri || list["exp"].(float64) <= float64(time.Now().Unix()) || list["ttl"].(float64) <= 0 {
		e.t.Errorf("the list says %v", list)
	}
	statusList := list["status_list"].(data)
	decoded, err := token.DecodeStatusList(statusList["lst"].(string))
	if bits = statusList["bits"].(float64); err != nil || bits != 1 && bits != 2 {
		e.t.Fatal(err, bits)
	}
	return bits, token.StatusAt(decoded, int(bits), uint32(ref["idx"].(float64)))
}

func TestJWTRoleNeedsAnIssuerAndAnAudience(t *testing.T) {
	e := newEngine(t)
	e.refused(logical.UpdateOperation, "roles/reader", data{"token_format": "jwt", "scopes": "a", "audience": "api"},
		"token_format: JWTs need an issuer: vault write apitoken/config issuer=<URL of this mount")
	e.write("config", data{"issuer": issuer})
	e.refused(logical.UpdateOperation, "roles/reader", data{"token_format": "jwt", "scopes": "a"}, "audience: a role of JWTs needs at least one")
	e.write("roles/reader", data{"token_format": "jwt", "scopes": "a", "audience": "api"})
	e.refused(logical.UpdateOperation, "config", data{"issuer": ""}, `issuer: cannot be emptied while role "reader" issues JWTs`)
	for field, values := range map[string][]string{
		"issuer":            {"http://vault.example.com/v1/apitoken", "vault.example.com/v1/apitoken", "https://", "https://a/v1/apitoken?b", "https://a/v1/apitoken?", "https://a/v1/apitoken#", "https://u@a/v1/apitoken", "ftp://a/v1/apitoken"},
		"signing_algorithm": {"HS256", "none", ""},
		"jwks_max_age":      {"0", "25h"},
		"status_list_ttl":   {"0", "25h"},
	} {
		for _, value := range values {
			if value == "" && field == "issuer" {
				continue
			}
			e.refused(logical.UpdateOperation, "config", data{field: value}, field+": ")
		}
	}
	e.write("config", data{"issuer": "http://127.0.0.1:8200/v1/apitoken"})
}

// What a JWT is bound to holds only where the API server checks it, which the role has to say.
func TestBoundsOfJWTs(t *testing.T) {
	e := newIssuer(t)
	jwt := data{"token_format": "jwt", "scopes": "a", "audience": "x", "exchange": true, "refresh": true, "access_ttl": "5m", "ttl": "1h"}
	with := func(more data) data {
		d := maps.Clone(jwt)
		maps.Copy(d, more)
		return d
	}
	const why = "ordinary JWT libraries do not check what a JWT is bound to: set require_bound_checks=true"
	e.refused(logical.UpdateOperation, "roles/app", with(data{"token_bound_cidrs": "127.0.0.0/8"}), "token_bound_cidrs: "+why)
	e.refused(logical.UpdateOperation, "roles/app", with(data{"bound_hosts": "api.example.com"}), "bound_hosts: "+why)
	e.refused(logical.UpdateOperation, "roles/app", with(data{"bound_regions": "EU"}), "bound_regions: "+why)
	e.write("roles/app", jwt)
	e.refused(logical.UpdateOperation, "roles/app", data{"token_bound_cidrs": "127.0.0.0/8"}, "token_bound_cidrs: "+why)
	e.refused(logical.UpdateOperation, "creds/app", data{"token_bound_cidrs": "127.0.0.1"}, `token_bound_cidrs: role "app" issues JWTs, and `+why)
	e.refused(logical.UpdateOperation, "creds/app", data{"bound_regions": "DE"}, `bound_regions: role "app" issues JWTs, and `+why)
	status, answer := e.exchange(e.creds("app", nil).token, data{"token_bound_cidrs": "127.0.0.1"})
	if status != 400 || answer["error"] != "invalid_request" || !strings.Contains(fmt.Sprint(answer["error_description"]), why) {
		t.Errorf("an exchange for a bound JWT: %d %v", status, answer)
	}
	status, answer = e.exchange(e.creds("app", nil).token, data{"bound_regions": "DE"})
	if status != 400 || answer["error"] != "invalid_request" || !strings.Contains(fmt.Sprint(answer["error_description"]), "bound_regions: "+why) {
		t.Errorf("an exchange for a JWT that is bound to regions: %d %v", status, answer)
	}

	e.write("roles/app", data{"require_bound_checks": true, "token_bound_cidrs": "127.0.0.0/8", "bound_hosts": "api.example.com"})
	bound := e.creds("app", data{"token_bound_cidrs": "127.0.0.1"})
	if got := fmt.Sprint(bound.data["token_bound_cidrs"]); got != "[127.0.0.1/32]" {
		t.Errorf("bound to %s", got)
	}
	if status, answer := e.exchange(bound.token, data{"token_bound_cidrs": "127.0.0.1"}); status != 200 {
		t.Errorf("an exchange of a bound JWT: %d %v", status, answer)
	}
	e.refused(logical.UpdateOperation, "roles/app", data{"require_bound_checks": false}, "token_bound_cidrs: "+why)

	// A grant that was bound gets no JWT any more of a role that does not ask for the checks.
	e.write("roles/app", data{"require_bound_checks": false, "token_bound_cidrs": "", "bound_hosts": ""})
	if status, answer := e.refresh(bound.data["refresh_token"].(string)); status != 400 || answer["error"] != "invalid_grant" {
		t.Errorf("a refresh gets %d %v", status, answer)
	}
	// The engine itself checks the bounds of opaque tokens.
	e.write("roles/opaque", data{"scopes": "a", "token_bound_cidrs": "127.0.0.0/8"})
	e.refused(logical.UpdateOperation, "roles/opaque", data{"token_format": "jwt", "audience": "x"}, "token_bound_cidrs: "+why)
}

// A JWT says all that its role grants. A role whose tokens would be too long is refused when it is written, and what
// a request makes too long when it is asked for; both name what to shorten.
func TestJWTsThatWouldBeTooLong(t *testing.T) {
	e := newIssuer(t)
	long := func(n int, format string) []string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf(format, i, strings.Repeat("x", 50))
		}
		return list
	}
	ranges := make([]string, 200)
	for i := range ranges {
		ranges[i] = fmt.Sprintf("2001:db8:%x::/48", i)
	}
	jwt := data{"token_format": "jwt", "scopes": "a", "audience": "x", "require_bound_checks": true}
	for field, value := range map[string]any{
		"scopes": long(100, "s%d%s"), "audience": long(100, "a%d%s"), "bound_hosts": long(100, "h%d%s"), "token_bound_cidrs": ranges,
		"metadata": data{"a": strings.Repeat("x", 500), "b": strings.Repeat("x", 500), "c": strings.Repeat("x", 500), "d": strings.Repeat("x", 500), "e": strings.Repeat("x", 500), "f": strings.Repeat("x", 500)},
	} {
		d := maps.Clone(jwt)
		d[field] = value
		e.refused(logical.UpdateOperation, "roles/reader", d, field+": the token would be ")
		d["token_format"] = "opaque" // which does not carry them
		e.write("roles/opaque", d)
		if token := e.creds("opaque", nil).token; len(token) > 300 {
			t.Errorf("%s: a token of %d bytes", field, len(token))
		}
	}
	jwt["allowed_scopes"] = append(long(99, "s%d%s"), "a")
	e.write("roles/reader", jwt)
	e.creds("reader", nil)
	e.refused(logical.UpdateOperation, "creds/reader", data{"scopes": jwt["allowed_scopes"]}, "scopes: the token would be ")
}

func TestRoleFieldsThatDoNotGoTogether(t *testing.T) {
	e := newIssuer(t)
	for want, d := range map[string]data{
		"generate_lease: only a role with token_format=jwt, or with a connection,": {"generate_lease": false},
		"generate_lease: a role with refresh=true needs leases":                    {"token_format": "jwt", "generate_lease": false, "refresh": true, "access_ttl": "1m"},
		"generate_lease: without a lease ttl and max_ttl may be at most 15m":       {"token_format": "jwt", "generate_lease": false, "ttl": "16m"},
		"access_ttl: is needed with refresh=true":                                  {"refresh": true},
		"access_ttl: is for a role with refresh=true":                              {"access_ttl": "1m"},
		"access_ttl: 2h is more than max_ttl, which is 1h":                         {"refresh": true, "access_ttl": "2h", "max_ttl": "1h"},
		`proof: "x" is not one of: dpop, mtls`:                                     {"proof": "x"},
		`token_format: "jws" is not one of: opaque, jwt`:                           {"token_format": "jws"},
	} {
		d["scopes"], d["audience"] = "a", "api"
		e.refused(logical.UpdateOperation, "roles/reader", d, want)
	}
}

func TestJWTCreds(t *testing.T) {
	for _, algorithm := range token.Algorithms {
		e := newIssuer(t)
		e.write("config", data{"signing_algorithm": algorithm, "environment": "production"})
		e.write("roles/reader", data{"token_format": "jwt", "scopes": "a,b", "audience": "api", "ttl": "1h", "max_ttl": "2h",
			"token_bound_cidrs": "10.0.0.0/8", "bound_hosts": "api.example.com", "require_bound_checks": true, "metadata": data{"team": "billing", "who": "{{identity.entity.name}}"}})
		c := e.creds("reader", data{"scopes": "a"})
		if c.secret.Renewable {
			t.Error("the lease of a JWT says that it can be renewed")
		}
		claims := e.verify(c.token, "at+jwt")
		for name, want := range map[string]any{
			"iss": issuer, "sub": entityAnn, "client_id": "reader", "scope": "a", "jti": c.id, "env": "production",
			"exp": claims["iat"].(float64) + 3600, "nbf": claims["iat"],
		} {
			if claims[name] != want {
				t.Errorf("%s: %v, want %v", name, claims[name], want)
			}
		}
		if got := fmt.Sprint(claims[token.EngineClaim].(data)["metadata"], claims["aud"]); got != "map[team:billing who:ann] [api]" {
			t.Error(got)
		}
		use := data{"client_ip": "10.1.1.1", "host": "api.example.com", "required_scopes": "a", "audience": "api"}
		for _, e := range []*engine{e, e.restart()} {
			e.expect("active", c.token, use)
			e.expect("insufficient_scope", c.token, data{"client_ip": "10.1.1.1", "host": "api.example.com", "required_scopes": "b"})
			e.expect("address_not_allowed", c.token, data{"client_ip": "192.0.2.1"})
			if e.listedAsRevoked(c.token) {
				t.Error("the status list says that it was revoked")
			}
		}
		e = e.restart()
		if row := e.read("tokens/" + c.id); row["role"] != "reader" {
			t.Errorf("the inventory has %v", row)
		}
		e.revokeLease(c)
		for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
			e.expect("revoked", c.token, use)
			if !e.listedAsRevoked(c.token) {
				t.Error("the status list does not say that it was revoked")
			}
		}
	}
}

// However a JWT is ended, its status list tells.
func TestStatusListTellsOfEveryEnd(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/reader", data{"token_format": "jwt", "scopes": "a", "audience": "api"})
	e.write("roles/other", data{"token_format": "jwt", "scopes": "a", "audience": "api"})
	ends := map[string]func(*creds){
		"lease":        e.revokeLease,
		"token":        func(c *creds) { e.write("revoke", data{"token": c.token}) },
		"id":           func(c *creds) { e.write("revoke", data{"token_id": c.id}) },
		"oauth/revoke": func(c *creds) { e.form("oauth/revoke", data{"token": c.token}) },
		"role deleted": func(*creds) { e.do(logical.DeleteOperation, "roles/reader", nil) },
	}
	issued := make(map[string]*creds)
	for name := range ends {
		issued[name] = e.creds("reader", nil)
	}
	live := e.creds("other", nil)
	for _, name := range []string{"lease", "token", "id", "oauth/revoke", "role deleted"} {
		if e.listedAsRevoked(issued[name].token) {
			t.Errorf("%s: listed before", name)
		}
		ends[name](issued[name])
		if !e.listedAsRevoked(issued[name].token) {
			t.Errorf("%s: not listed", name)
		}
	}
	if e.listedAsRevoked(live.token) {
		t.Error("a token is listed that was not ended")
	}
}

// Deleting a role costs one write however many tokens it has, and their places show it; nobody else's do.
func TestDeletingARoleOfManyJWTs(t *testing.T) {
	e := newIssuer(t)
	jwts := data{"token_format": "jwt", "scopes": "a", "audience": "api"}
	e.write("roles/reader", jwts)
	e.write("roles/other", jwts)
	var tokens []string
	for range 50 {
		tokens = append(tokens, e.creds("reader", nil).token)
	}
	live := e.creds("other", nil)
	if e.listedAsRevoked(tokens[0]) {
		t.Fatal("listed before")
	}

	// Cut short between the two writes, it has done nothing.
	e.storage.Underlying().FailDelete(true)
	if _, err := e.request(&logical.Request{Operation: logical.DeleteOperation, Path: "roles/reader"}); err == nil {
		t.Fatal("the role is deleted, says the engine")
	}
	e.storage.Underlying().FailDelete(false)
	for name, e := range map[string]*engine{"in memory": e, "after a restart": mountOn(t, e.storage, e.system)} {
		if e.expect("active", tokens[0], nil); e.listedAsRevoked(tokens[0]) {
			t.Errorf("%s: the list shows the tokens of a role that is there", name)
		}
	}

	writes := e.storage.writes.Load()
	e.do(logical.DeleteOperation, "roles/reader", nil)
	if n := e.storage.writes.Load() - writes; n > 1 {
		t.Errorf("%d writes", n)
	}
	e.write("roles/reader", jwts)
	again := e.creds("reader", nil)
	for _, e := range []*engine{e, e.restart()} {
		for _, token := range tokens {
			if !e.listedAsRevoked(token) {
				t.Fatal("not listed")
			}
		}
		if e.listedAsRevoked(live.token) || e.listedAsRevoked(again.token) {
			t.Error("a token is listed that was not ended")
		}
	}
}

func TestStatusListIsCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		e.write("roles/reader", data{"token_format": "jwt", "scopes": "a", "audience": "api"})
		c := e.creds("reader", nil)
		list := strconv.FormatUint(uint64(e.b.Loaded().StatusIndexes.Lists()[0]), 10)
		fetch := func() string {
			_, _, cache, body := e.raw(logical.ReadOperation, "oauth/status/"+list, nil)
			if cache != "public, max-age=60" {
				t.Error(cache)
			}
			return string(body)
		}
		first := fetch()
		if fetch() != first {
			t.Error("made anew with nothing changed")
		}
		e.creds("reader", nil)
		if fetch() != first {
			t.Error("made anew for a new token")
		}
		e.revokeLease(c)
		second := fetch()
		if second == first {
			t.Error("not made anew after a revocation")
		}
		time.Sleep(time.Minute)
		if fetch() == second {
			t.Error("not made anew when it was old")
		}
		_, _, _, body := e.raw(logical.ReadOperation, "oauth/status", nil)
		if string(body) != `{"status_lists":["`+issuer+`/oauth/status/`+list+`"]}` {
			t.Errorf("%s", body)
		}
		for _, number := range []string{"0", "2", "0" + list, "x", "99999999999"} {
			if status, _, _, _ := e.raw(logical.ReadOperation, "oauth/status/"+number, nil); status != http.StatusNotFound {
				t.Errorf("list %s: %d", number, status)
			}
		}
	})
}

func TestLeaseless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		e.write("roles/reader", data{"token_format": "jwt", "scopes": "a", "audience": "api", "generate_lease": false})
		issue := func(d data) *logical.Response {
			t.Helper()
			resp := e.do(logical.UpdateOperation, "creds/reader", d)
			if resp.Secret != nil || len(resp.Warnings) > 0 {
				t.Errorf("lease %v, warnings %q", resp.Secret, resp.Warnings)
			}
			return resp
		}
		issue(nil)
		writes := e.storage.writes.Load()
		text := issue(nil).Data["token"].(string)
		if n := e.storage.writes.Load() - writes; n != 0 {
			t.Errorf("%d writes", n)
		}
		e.b.Flush(context.Background())
		if n := e.b.Loaded().Inventory.Len(); n != 0 {
			t.Errorf("%d rows in the inventory", n)
		}
		claims := e.verify(text, "at+jwt")
		if claims["exp"].(float64)-claims["iat"].(float64) != 900 || claims["status"] != nil {
			t.Errorf("%v", claims)
		}
		e.refused(logical.UpdateOperation, "creds/reader", data{"ttl": "16m"}, "ttl: 16m is more than max_ttl")
		e.expect("active", text, nil)
		e.write("revoke", data{"token": text})
		e.expect("revoked", text, nil)
		time.Sleep(15 * time.Minute)
		e.expect("expired", text, nil)
	})
}

func TestSigningKeyRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		if n := len(e.keySet().Keys); n != 0 {
			t.Errorf("%d keys before there is a role of JWTs", n)
		}
		e.write("roles/reader", data{"token_format": "jwt", "scopes": "a", "audience": "api", "ttl": "1h", "max_ttl": "1h"})
		published := e.keySet()
		first := e.creds("reader", nil)
		if resp := e.do(logical.UpdateOperation, "keys/rotate", nil); len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "Rotate again after "+time.Now().Add(5*time.Minute).UTC().Format(time.RFC3339)) {
			t.Errorf("%q", resp.Warnings)
		}
		time.Sleep(5 * time.Minute)
		e.write("keys/rotate", nil)
		second := e.creds("reader", nil)

		// An API server that has cached the keys of before knows the new one.
		signed, err := jose.ParseSignedCompact(second.token, []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signed.Verify(published); err != nil {
			t.Error("a key signs that was not published before")
		}
		for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
			e.verify(first.token, "at+jwt")
			e.expect("active", first.token, nil)
			e.expect("active", second.token, nil)
			if n := len(e.keySet().Keys); n != 3 {
				t.Errorf("%d keys are published", n)
			}
		}

		time.Sleep(time.Hour + 10*time.Minute)
		e.minute()
		for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
			if n := len(e.keySet().Keys); n != 2 {
				t.Errorf("%d keys are published", n)
			}
			e.expect("expired", first.token, nil)
		}

		// Another algorithm: published first, signing once everybody knows it.
		e.write("config", data{"signing_algorithm": "EdDSA"})
		e.minute()
		if alg := jwtHeader(t, e.creds("reader", nil).token)["alg"]; alg != "ES256" {
			t.Errorf("signs with %s at once", alg)
		}
		time.Sleep(5 * time.Minute)
		e.minute()
		c := e.creds("reader", nil)
		if alg := jwtHeader(t, c.token)["alg"]; alg != "EdDSA" {
			t.Errorf("signs with %s", alg)
		}
		e.verify(c.token, "at+jwt")

		time.Sleep(31 * 24 * time.Hour)
		e.minute()
		if kid := jwtHeader(t, e.creds("reader", nil).token)["kid"]; kid == jwtHeader(t, c.token)["kid"] {
			t.Error("not rotated after the period")
		}
	})
}

func jwtHeader(t *testing.T, text string) data {
	t.Helper()
	signed, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA, jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	header := signed.Signatures[0].Protected
	return data{"alg": header.Algorithm, "kid": header.KeyID}
}

func TestMetadataDocument(t *testing.T) {
	e := newEngine(t)
	if status, _, _, _ := e.raw(logical.ReadOperation, ".well-known/openid-configuration", nil); status != http.StatusNotFound {
		t.Errorf("%d without an issuer", status)
	}
	e.write("config", data{"issuer": issuer})
	for _, path := range []string{".well-known/openid-configuration", ".well-known/oauth-authorization-server"} {
		status, _, _, body := e.raw(logical.ReadOperation, path, nil)
		var document data
		if err := json.Unmarshal(body, &document); err != nil || status != http.StatusOK {
			t.Fatal(status, err)
		}
		if document["issuer"] != issuer {
			t.Errorf("%v", document)
		}
		for name, value := range document {
			if url, ok := value.(string); ok && strings.HasSuffix(name, "_endpoint") || name == "jwks_uri" {
				if e.b.Route(strings.TrimPrefix(url, issuer+"/")) == nil {
					t.Errorf("%s: there is nothing at %s", name, url)
				}
			}
		}
	}
}

func TestOAuthIntrospectAndRevoke(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/reader", data{"scopes": "a,b", "audience": "api"})
	c := e.creds("reader", nil)
	status, answer := e.form("oauth/introspect", data{"token": c.token, "token_type_hint": "access_token", "unknown": "x"})
	want := data{
		"active": true, "scope": "a b", "client_id": "reader", "token_type": "Bearer", "sub": entityAnn, "aud": []any{"api"},
		"iss": issuer, "jti": c.id, "exp": answer["exp"], "iat": answer["iat"],
	}
	if status != http.StatusOK || fmt.Sprint(answer) != fmt.Sprint(want) {
		t.Errorf("%d %v\nwant %v", status, answer, want)
	}
	for name, d := range map[string]data{
		"noise": {"token": "noise"}, "long": {"token": strings.Repeat("x", 1<<20)}, "binary": {"token": "\x00"},
		"scope": {"token": c.token, "scope": "c"}, "audience": {"token": c.token, "audience": "x"},
	} {
		if status, answer := e.form("oauth/introspect", d); status != http.StatusOK || fmt.Sprint(answer) != "map[active:false]" {
			t.Errorf("%s: %d %v", name, status, answer)
		}
	}
	e.refused4xx("oauth/introspect", data{}, "invalid_request")
	e.refused4xx("oauth/introspect", data{"token": []string{c.token, c.token}}, "invalid_request")
	e.refused4xx("oauth/introspect", data{"token": c.token, "client_ip": "x"}, "invalid_request")
	e.refused4xx("oauth/introspect", data{"token": c.token, "host": "a b"}, "invalid_request")
	e.refused4xx("oauth/introspect", data{"token": c.token, "region": "DEU"}, "invalid_request")
	e.refused4xx("oauth/introspect", data{"token": c.token, "scope": "a \""}, "invalid_request")

	e.refused4xx("oauth/revoke", data{}, "invalid_request")
	for _, text := range []string{"noise", c.token, c.token} {
		if status, _ := e.form("oauth/revoke", data{"token": text}); status != http.StatusOK {
			t.Errorf("%d", status)
		}
	}
	if _, answer := e.form("oauth/introspect", data{"token": c.token}); fmt.Sprint(answer) != "map[active:false]" {
		t.Errorf("%v", answer)
	}
}

func TestSignedIntrospection(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/reader", data{"scopes": "a"})
	c := e.creds("reader", nil)
	resp, err := e.request(&logical.Request{
		Operation: logical.UpdateOperation, Path: "oauth/introspect", Data: data{"token": c.token}, EntityID: "the-api",
		Headers: map[string][]string{"Accept": {"application/token-introspection+jwt"}},
	})
	if err != nil || resp.Data[logical.HTTPContentType] != "application/token-introspection+jwt" {
		t.Fatal(resp, err)
	}
	claims := e.verify(string(resp.Data[logical.HTTPRawBody].([]byte)), "token-introspection+jwt")
	if claims["iss"] != issuer || claims["aud"] != "the-api" || claims["token_introspection"].(data)["active"] != true {
		t.Errorf("%v", claims)
	}
}

func TestRefresh(t *testing.T) {
	for _, tokenFormat := range []string{"opaque", "jwt"} {
		t.Run(tokenFormat, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newIssuer(t)
				e.write("roles/app", data{"token_format": tokenFormat, "scopes": "a,b", "audience": "api", "refresh": true, "access_ttl": "5m", "ttl": "1h", "max_ttl": "3h"})
				c := e.creds("app", data{"scopes": "a"})
				if !c.secret.Renewable || c.secret.TTL != time.Hour {
					t.Errorf("lease %+v", c.secret)
				}
				first := c.data["refresh_token"].(string)
				e.expect("wrong_audience", first, nil) // no API may take it for an access token
				e.expect("active", c.token, data{"required_scopes": "a"})
				if answer := e.write("introspect", data{"token": c.token}); answer["exp"].(int64)-answer["iat"].(int64) != 300 || answer["grant_id"] != c.data["grant_id"] {
					t.Errorf("%v", answer)
				}

				time.Sleep(5 * time.Minute)
				e.expect("expired", c.token, nil)
				access1, second := e.mustRefresh(first)
				e.expect("active", access1, data{"required_scopes": "a"})
				e.expect("insufficient_scope", access1, data{"required_scopes": "b"})

				// A retry gets a pair of the same generation, also after a restart.
				time.Sleep(9 * time.Second)
				e = mountOn(t, e.storage, e.system)
				again, secondAgain := e.mustRefresh(first)
				e.expect("active", again, data{"required_scopes": "a"})
				if e.generation(second) != 2 || e.generation(secondAgain) != 2 {
					t.Error("a retry has begun a second chain")
				}

				access2, third := e.mustRefresh(second)
				// The lease ends the grant with everything in it.
				e.revokeLease(c)
				for _, text := range []string{access1, access2} {
					e.expect("revoked", text, nil)
					if tokenFormat == "jwt" && !e.listedAsRevoked(text) {
						t.Error("not in the status list")
					}
				}
				if status, answer := e.refresh(third); status != 400 || fmt.Sprint(answer) != "map[error:invalid_grant]" {
					t.Errorf("%d %v", status, answer)
				}
			})
		})
	}
}

func (e *engine) generation(refreshToken string) uint32 {
	e.t.Helper()
	claims, err := e.b.Loaded().Open(context.Background(), e.storage, refreshToken)
	if err != nil {
		e.t.Fatal(err)
	}
	return claims.Generation
}

func TestRefreshTokenReuseEndsTheGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, wait := range map[string]time.Duration{"too late for a retry": 10*time.Second + time.Second, "the successor was used": 0} {
			e := newIssuer(t)
			e.write("roles/app", data{"scopes": "a", "refresh": true, "access_ttl": "5m", "ttl": "1h"})
			c := e.creds("app", nil)
			first := c.data["refresh_token"].(string)
			access, second := e.mustRefresh(first)
			if wait == 0 {
				access, second = e.mustRefresh(second)
			}
			time.Sleep(wait)
			if status, answer := e.refresh(first); status != 400 || fmt.Sprint(answer) != "map[error:invalid_grant]" {
				t.Errorf("%s: %d %v", name, status, answer)
			}
			for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
				e.expect("revoked", access, nil)
				e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": second}, "invalid_grant")
			}
			resp, err := e.renew(c, 0)
			e.saysNo(resp, err, "revoked")
		}
	})
}

// Refreshing never moves the end of the grant; renewing its lease does, up to max_ttl.
func TestRefreshNeverOutlivesTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		e.write("roles/app", data{"scopes": "a", "refresh": true, "access_ttl": "10m", "ttl": "25m", "max_ttl": "60m"})
		c := e.creds("app", nil)
		start := time.Now()
		var access string
		refresh := c.data["refresh_token"].(string)
		for _, end := range []time.Duration{20 * time.Minute, 25 * time.Minute} {
			time.Sleep(10 * time.Minute)
			access, refresh = e.mustRefresh(refresh)
			if exp := e.exp(&creds{token: access}).Sub(start); exp != end {
				t.Errorf("the token ends after %s, want %s", exp, end)
			}
		}
		e.vaultRenews(c, 0) // to 45m
		time.Sleep(4 * time.Minute)
		access, refresh = e.mustRefresh(refresh)
		if exp := e.exp(&creds{token: access}).Sub(start); exp != 34*time.Minute {
			t.Errorf("the token ends after %s", exp)
		}
		time.Sleep(21*time.Minute - time.Second)
		_, refresh = e.mustRefresh(refresh)
		time.Sleep(time.Second)
		e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": refresh}, "invalid_grant")
		e.expect("expired", access, nil)
	})
}

func TestRefreshRefuses(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/app", data{"scopes": "a,b", "refresh": true, "access_ttl": "5m"})
	c := e.creds("app", nil)
	refresh := c.data["refresh_token"]
	for _, d := range []struct {
		form data
		code string
	}{
		{data{}, "invalid_request"},
		{data{"grant_type": "password"}, "unsupported_grant_type"},
		{data{"grant_type": "client_credentials"}, "unsupported_grant_type"},
		{data{"grant_type": []any{"refresh_token", "refresh_token"}}, "invalid_request"},
		{data{"grant_type": "refresh_token"}, "invalid_request"},
		{data{"grant_type": "refresh_token", "refresh_token": "noise"}, "invalid_grant"},
		{data{"grant_type": "refresh_token", "refresh_token": c.token}, "invalid_grant"},
		{data{"grant_type": "refresh_token", "refresh_token": strings.Repeat("x", 1<<20)}, "invalid_grant"},
		{data{"grant_type": "refresh_token", "refresh_token": refresh, "scope": "a c"}, "invalid_scope"},
		{data{"grant_type": "refresh_token", "refresh_token": refresh, "scope": "a"}, "invalid_scope"},
		{data{"grant_type": "refresh_token", "refresh_token": data{"a": "b"}}, "invalid_request"},
	} {
		e.refused4xx("oauth/token", d.form, d.code)
	}
	// None of them has used it up.
	if status, answer := e.form("oauth/token", data{"grant_type": "refresh_token", "refresh_token": refresh, "scope": "b a", "client_id": "x"}); status != 200 || answer["scope"] != "a b" {
		t.Errorf("%d %v", status, answer)
	}

	e.write("roles/bound", data{"scopes": "a", "refresh": true, "access_ttl": "5m", "request_bound_cidrs": "127.0.0.1"})
	bound := e.creds("bound", nil)
	e.write("roles/bound", data{"request_bound_cidrs": "10.0.0.0/8"})
	e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": bound.data["refresh_token"]}, "invalid_grant")
	e.do(logical.DeleteOperation, "roles/bound", nil)
	e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": bound.data["refresh_token"]}, "invalid_grant")
}

// 64 clients refresh one grant at once: one chain, never two, and no two tokens of one id.
func TestConcurrentRefresh(t *testing.T) {
	for _, tokenFormat := range []string{"opaque", "jwt"} {
		e := newIssuer(t)
		e.write("roles/app", data{"token_format": tokenFormat, "scopes": "a", "audience": "api", "refresh": true, "access_ttl": "5m"})
		refresh := e.creds("app", nil).data["refresh_token"].(string)
		for round := range uint32(3) {
			var wg sync.WaitGroup
			var mu sync.Mutex
			chains := make(map[string]bool)
			ids := make(map[string]bool)
			for range 64 {
				wg.Go(func() {
					access, next := e.mustRefresh(refresh)
					id := e.write("introspect", data{"token": access})["jti"].(string)
					mu.Lock()
					defer mu.Unlock()
					chains[next], ids[id] = true, true
				})
			}
			wg.Wait()
			if len(ids) != 64 {
				t.Fatalf("%d ids of 64 tokens", len(ids))
			}
			for next := range chains {
				if refresh = next; e.generation(next) != round+2 {
					t.Fatalf("generation %d after round %d", e.generation(next), round)
				}
			}
		}
	}
}

// A crash between two writes loses no revocation and revives no refresh token: storage fails after n
// writes, and the engine starts again on what was written.
func TestRefreshSurvivesACrash(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/app", data{"scopes": "a", "refresh": true, "access_ttl": "5m"})
	c := e.creds("app", nil)
	first := c.data["refresh_token"].(string)
	e.storage.Underlying().FailPut(true)
	if resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "oauth/token",
		Data: data{"grant_type": "refresh_token", "refresh_token": first}}); err == nil {
		t.Fatalf("refreshed, and nothing stored: %v", resp)
	}
	e.storage.Underlying().FailPut(false)
	e = e.restart()
	_, second := e.mustRefresh(first)
	_, third := e.mustRefresh(second)
	e.storage.Underlying().FailPut(true)
	if _, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "oauth/token",
		Data: data{"grant_type": "refresh_token", "refresh_token": first}}); err == nil {
		t.Error("the reuse is answered, and the end of the grant not stored")
	}
	e.storage.Underlying().FailPut(false)
	e = e.restart()
	e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": first}, "invalid_grant")
	e = e.restart()
	e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": third}, "invalid_grant")
}

func TestExchange(t *testing.T) {
	for _, tokenFormat := range []string{"opaque", "jwt"} {
		e := newIssuer(t)
		e.write("roles/app", data{"token_format": tokenFormat, "scopes": "a:*,b", "audience": "x,y", "exchange": true, "ttl": "1h", "token_bound_cidrs": "127.0.0.0/8", "require_bound_checks": true})
		c := e.creds("app", nil)
		status, answer := e.exchange(c.token, data{"scope": "a:read", "audience": "y", "ttl": "5m", "token_bound_cidrs": "127.0.0.1"})
		if status != http.StatusOK || answer["scope"] != "a:read" || answer["issued_token_type"] != native.TypeAccessToken || answer["token_type"] != "Bearer" || answer["expires_in"].(float64) > 300 {
			t.Fatalf("%d %v", status, answer)
		}
		child := answer["access_token"].(string)
		use := data{"client_ip": "127.0.0.1", "required_scopes": "a:read", "audience": "y"}
		e.expect("active", child, use)
		e.expect("wrong_audience", child, data{"client_ip": "127.0.0.1", "audience": "x"})
		e.expect("insufficient_scope", child, data{"client_ip": "127.0.0.1", "required_scopes": "a:write"})
		e.expect("address_not_allowed", child, data{"client_ip": "127.0.0.2"})

		// A child can be exchanged again, and everything dies with the lease.
		status, answer = e.exchange(child, nil)
		if status != http.StatusOK || answer["scope"] != "a:read" {
			t.Fatalf("%d %v", status, answer)
		}
		grandchild := answer["access_token"].(string)
		e.expect("active", grandchild, use)
		e.revokeLease(c)
		for _, text := range []string{c.token, child, grandchild} {
			e.expect("revoked", text, use)
			if tokenFormat == "jwt" && !e.listedAsRevoked(text) {
				t.Error("not in the status list")
			}
		}
		if status, answer := e.exchange(child, nil); status != 400 || fmt.Sprint(answer) != "map[error:invalid_grant]" {
			t.Errorf("%d %v", status, answer)
		}
	}
}

func TestExchangeRefuses(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/app", data{"scopes": "a", "audience": "x", "exchange": true, "ttl": "1h", "bound_regions": "EU"})
	e.write("roles/closed", data{"scopes": "a"})
	e.write("roles/bound", data{"scopes": "a", "exchange": true, "token_bound_cidrs": "10.0.0.0/8"})
	e.write("roles/refreshed", data{"scopes": "a", "exchange": true, "refresh": true, "access_ttl": "5m"})
	c := e.creds("app", nil)
	good := data{"grant_type": native.GrantTypeExchange, "subject_token": c.token, "subject_token_type": native.TypeAccessToken}
	for _, change := range []struct {
		field, value, code string
	}{
		{"subject_token", "", "invalid_request"},
		{"subject_token", "noise", "invalid_grant"},
		{"subject_token", e.creds("closed", nil).token, "invalid_grant"},
		{"subject_token", e.creds("bound", nil).token, "invalid_grant"}, // the request comes from 127.0.0.1
		{"subject_token", e.creds("refreshed", nil).data["refresh_token"].(string), "invalid_grant"},
		{"subject_token_type", "", "invalid_request"},
		{"subject_token_type", "urn:ietf:params:oauth:token-type:id_token", "invalid_request"},
		{"subject_token_type", native.TypeJWT, "invalid_request"},
		{"requested_token_type", native.TypeJWT, "invalid_request"},
		{"requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token", "invalid_request"},
		{"actor_token", "x", "invalid_request"},
		{"scope", "b", "invalid_scope"},
		{"scope", "a *", "invalid_scope"},
		{"scope", `a "`, "invalid_scope"},
		{"audience", "z", "invalid_target"},
		{"resource", "z", "invalid_target"},
		{"ttl", "2h", "invalid_request"},
		{"ttl", "-1s", "invalid_request"},
		{"ttl", "0", "invalid_request"},
		{"ttl", "x", "invalid_request"},
		{"token_bound_cidrs", "x", "invalid_request"},
		{"bound_regions", "x", "invalid_request"},
		{"bound_regions", "US", "invalid_request"},
	} {
		d := data{}
		for k, v := range good {
			d[k] = v
		}
		d[change.field] = change.value
		e.refused4xx("oauth/token", d, change.code)
	}
}

// Whatever an exchange asks for, in whatever order: no use is allowed to the child that is not allowed to
// the parent.
func TestExchangeNeverWidens(t *testing.T) {
	e := newIssuer(t)
	scopes := []string{"a", "a:*", "a:x", "a:x:y", "b", "*"}
	audiences := []string{"x", "y", "z"}
	ranges := []string{"127.0.0.0/8", "127.0.0.1/32", "127.0.0.0/16", "0.0.0.0/0", "10.0.0.0/8"}
	regions := []string{"DE", "IS", "US"}
	random := rand.New(rand.NewPCG(1, 2))
	some := func(from []string) []string {
		list := slices.Clone(from)
		random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		return list[:random.IntN(len(list))]
	}
	uses := []data{}
	for _, scope := range scopes {
		for _, audience := range audiences {
			for i, ip := range []string{"127.0.0.1", "127.0.0.9", "127.9.9.9", "10.1.1.1", "192.0.2.1"} {
				uses = append(uses, data{"required_scopes": scope, "audience": audience, "client_ip": ip, "region": regions[i%3]})
			}
		}
	}
	exchanged := 0
	for i := range 150 {
		role := fmt.Sprintf("roles/r%d", i)
		e.write(role, data{
			"scopes": append(some(scopes), "c"), "audience": some(audiences), "exchange": true, "allow_privileged": true,
			"token_bound_cidrs": append(some(ranges), "127.0.0.1/32")[:1], "ttl": "1h", "token_format": "opaque",
			"bound_regions": append(some(regions), "EU", "EEA")[:1],
		})
		parent := e.creds(strings.TrimPrefix(role, "roles/"), nil).token
		for range 4 {
			status, answer := e.exchange(parent, data{
				"scope": strings.Join(some(scopes), " "), "audience": append(some(audiences), "")[0],
				"token_bound_cidrs": strings.Join(some(ranges), " "), "bound_regions": strings.Join(some(append(some(regions), "EU")), " "),
			})
			if status != http.StatusOK {
				continue
			}
			exchanged++
			child := answer["access_token"].(string)
			for _, use := range uses {
				if e.reason(child, use) == "active" && e.reason(parent, use) != "active" {
					t.Fatalf("the child is good for %v and the parent is not", use)
				}
			}
			a, b := e.write("introspect", data{"token": parent})["exp"].(int64), e.write("introspect", data{"token": child})["exp"].(int64)
			if b > a {
				t.Fatal("the child lives longer")
			}
			if random.IntN(2) == 0 {
				parent = child
			}
		}
	}
	if exchanged < 50 {
		t.Errorf("only %d exchanges have succeeded", exchanged)
	}
}

func TestProof(t *testing.T) {
	const thumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
	e := newIssuer(t)
	for proof, c := range map[string]struct{ field, member, tokenType string }{
		"dpop": {"dpop_jkt", "jkt", "DPoP"},
		"mtls": {"x5t_s256", "x5t#S256", "Bearer"},
	} {
		for _, tokenFormat := range []string{"opaque", "jwt"} {
			e.write("roles/app", data{"token_format": tokenFormat, "scopes": "a", "audience": "api", "proof": proof, "exchange": true, "refresh": true, "access_ttl": "5m"})
			e.refused(logical.ReadOperation, "creds/app", nil, c.field+": is needed")
			e.refused(logical.UpdateOperation, "creds/app", data{c.field: "short"}, c.field+": must be a SHA-256 thumbprint")
			got := e.creds("app", data{c.field: thumbprint})
			refreshed, _ := e.mustRefresh(got.data["refresh_token"].(string))
			_, exchanged := e.exchange(got.token, nil)
			for _, text := range []string{got.token, refreshed, exchanged["access_token"].(string)} {
				_, answer := e.form("oauth/introspect", data{"token": text})
				if answer["token_type"] != c.tokenType || fmt.Sprint(answer["cnf"]) != fmt.Sprint(data{c.member: thumbprint}) {
					t.Errorf("%s %s: %v", proof, tokenFormat, answer)
				}
				if tokenFormat == "jwt" && fmt.Sprint(e.verify(text, "at+jwt")["cnf"]) != fmt.Sprint(data{c.member: thumbprint}) {
					t.Error("not in the JWT")
				}
			}
		}
	}
	e.write("roles/app", data{"proof": ""})
	e.refused(logical.UpdateOperation, "creds/app", data{"dpop_jkt": thumbprint}, "dpop_jkt: is for a role with proof=dpop")
}

// A role that is tightened acts on opaque tokens at once, on JWTs where the engine is asked, and on what a
// refresh or an exchange gives.
func TestRefreshUnderATighterRole(t *testing.T) {
	for _, tokenFormat := range []string{"opaque", "jwt"} {
		e := newIssuer(t)
		e.write("roles/app", data{"token_format": tokenFormat, "scopes": "a,b", "audience": "x,y", "refresh": true, "access_ttl": "5m"})
		c := e.creds("app", nil)
		e.write("roles/app", data{"scopes": "a", "allowed_scopes": "a", "audience": "x", "require_bound_checks": true, "token_bound_cidrs": "10.0.0.0/8"})
		access, refresh := e.mustRefresh(c.data["refresh_token"].(string))
		for _, text := range []string{c.token, access} {
			e.expect("insufficient_scope", text, data{"required_scopes": "b"})
			e.expect("wrong_audience", text, data{"audience": "y"})
			e.expect("active", text, data{"required_scopes": "a", "audience": "x", "client_ip": "10.1.1.1"})
			e.expect("address_not_allowed", text, data{"client_ip": "192.0.2.1"})
		}
		e.write("roles/app", data{"audience": "z"})
		if tokenFormat == "jwt" {
			e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": refresh}, "invalid_grant")
		}
	}
}

// FuzzOAuthForm looks for a panic, and for an answer that is no OAuth.
func FuzzOAuthForm(f *testing.F) {
	e := newIssuer(f)
	e.do(logical.UpdateOperation, "roles/app", data{"scopes": "a,b", "audience": "x", "exchange": true, "refresh": true, "access_ttl": "5m"})
	c := e.creds("app", nil)
	f.Add("refresh_token", c.data["refresh_token"].(string), "a", "", "")
	f.Add(native.GrantTypeExchange, c.token, "a", "x", "5m")
	f.Add(native.GrantTypeExchange, c.token, "*", "\x00", "-1")
	parent, err := e.b.Loaded().Open(context.Background(), e.storage, c.token)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, grantType, credential, scope, audience, ttl string) {
		e := *e
		e.t = t
		status, answer := e.form("oauth/token", data{
			"grant_type": grantType, "refresh_token": credential, "subject_token": credential,
			"subject_token_type": native.TypeAccessToken, "scope": scope, "audience": audience, "ttl": ttl,
		})
		if (status == http.StatusOK) == (answer["error"] != nil) {
			t.Errorf("%d %v", status, answer)
		}
		if status != http.StatusOK {
			return
		}
		child, err := e.b.Loaded().Open(context.Background(), e.storage, answer["access_token"].(string))
		if err != nil || child.ExpiresAt.After(parent.ExpiresAt.Add(time.Hour)) || len(access.Scopes{"a", "b"}.Missing(child.Scopes)) > 0 {
			t.Errorf("%+v, %v", child, err)
		}
	})
}

// BenchmarkStatusList builds a full list anew of which 1 % is revoked, and serves it as long as nothing changes.
func BenchmarkStatusList(b *testing.B) {
	e := newIssuer(b)
	e.write("roles/orders", data{"token_format": "jwt", "scopes": "orders:read", "audience": "api"})
	e.read("creds/orders")
	st, err := e.b.Load(b.Context(), e.storage)
	if err != nil {
		b.Fatal(err)
	}
	number := st.StatusIndexes.Lists()[0]
	list := "oauth/status/" + strconv.FormatUint(uint64(number), 10)
	random := rand.New(rand.NewPCG(1, 2))
	revoke := func() {
		id := token.ID{byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32())}
		status := token.StatusRef{List: number, Index: random.Uint32N(ledger.ListSize)}
		now := time.Now()
		if err := st.Deviations.Revoke(b.Context(), e.storage, id, status, now.Add(time.Hour), now); err != nil {
			b.Fatal(err)
		}
	}
	for range ledger.ListSize / 100 {
		revoke()
	}
	b.Run("rebuilt", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			revoke()
			b.StartTimer()
			e.raw(logical.ReadOperation, list, nil)
		}
		_, _, _, body := e.raw(logical.ReadOperation, list, nil)
		b.ReportMetric(float64(len(body)), "B/list")
	})
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e.raw(logical.ReadOperation, list, nil)
		}
	})
}
