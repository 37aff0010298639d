package console

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// everyPage are the pages of a session.
var everyPage = []string{
	"/", "/tokens", "/tokens?q=x", "/tokens?sort=uses", "/tokens/" + id(1), "/tokens/" + id(1) + "/revoke", "/tokens/" + id(1) + "/suspend",
	"/tokens/" + id(1) + "/resume", "/roles", "/roles/billing", "/connections", "/connections/gitea", "/findings", "/findings/" + id(7),
	"/reports", "/reports/stale", "/reports/broad", "/reports/right-size", "/reports/orphans", "/reports/unowned", "/nowhere",
}

// hostile is a text that must not become markup.
const hostile = `"'><script>alert(1)</script><img src=x onerror=alert(1)>`

// furnish fills the stub with one entry of each kind, whose texts are hostile.
func (v *vaultStub) furnish() {
	row := map[string]any{
		"token_id": id(1), "role": "billing", "role_version": 3, "scopes": []string{hostile}, "entity_id": hostile, "state": "suspended",
		"detail": hostile, "display_name": hostile, "issued_at": "2026-03-01T00:00:00Z", "expires_at": "2026-04-01T00:00:00Z",
		"last_ip": hostile, "usage": map[string]any{"uses": 2, "last_used_at": "2026-03-02T00:00:00Z", "last_ip": hostile,
			"scopes": []string{hostile}, "refusals": map[string]any{hostile: 3}},
	}
	finding := map[string]any{
		"id": id(7), "rule": hostile, "severity": hostile, "state": "open", "count": 3, "first_seen_at": "2026-03-02T00:00:00Z",
		"last_seen_at": "2026-03-03T00:00:00Z", "token_id": id(1), "role": "billing", "address": hostile, "summary": hostile,
		"numbers": map[string]any{hostile: 4}, "evidence": []any{map[string]any{"at": "2026-03-02T00:00:00Z", "address": hostile}},
		"commands": []string{hostile}, "note": hostile, "acknowledged_by": hostile, "acknowledged_at": "2026-03-03T00:00:00Z",
		"response": hostile,
	}
	item := map[string]any{"kind": "role", "name": hostile, "reasons": []string{hostile}, "detail": hostile, "command": hostile, "owner": hostile}
	v.set("apitoken/tokens", map[string]any{"keys": []string{id(1)}, "key_info": map[string]any{id(1): row}})
	v.set("apitoken/tokens/"+id(1), row)
	v.set("apitoken/findings", map[string]any{"keys": []string{id(7)}, "key_info": map[string]any{id(7): finding}})
	v.set("apitoken/findings/"+id(7), finding)
	v.set("apitoken/roles", map[string]any{"keys": []string{"billing"}})
	v.set("apitoken/roles/billing", map[string]any{"description": hostile, "scopes": []string{hostile}, "owner": hostile,
		"metadata": map[string]any{hostile: hostile}})
	v.set("apitoken/connections", map[string]any{"keys": []string{"gitea"}})
	v.set("apitoken/connections/gitea", map[string]any{"provider": hostile, "url": hostile, "description": hostile, "tokens": 3,
		"queue": map[string]any{"count": 2, "last_error": hostile}})
	v.set("apitoken/connections/gitea/reconcile", map[string]any{"state": hostile, "compared_at": "2026-03-03T00:00:00Z", "listed": 9, "error": hostile})
	v.set("apitoken/report/summary", map[string]any{"as_of": "2026-03-04T12:00:00Z", "live_tokens": 1234567,
		"top_roles": []any{map[string]any{"role": hostile, "live_tokens": 3}}})
	for _, k := range reportKinds {
		v.set("apitoken/report/"+k.Name, map[string]any{"items": []any{item}, "caveats": []string{hostile}})
	}
	v.set("apitoken/report/orphans", map[string]any{"items": []any{item, map[string]any{
		"kind": "upstream_token", "name": hostile, "reasons": []string{hostile}, "detail": hostile, "command": hostile, "owner": hostile,
		"scopes": []string{hostile}, "connection": "gitea", "upstream_id": hostile,
	}}})
}

// quoted are the values of attributes: the quotes in texts are escaped.
var quoted = regexp.MustCompile(`"[^"]*"`)

// Every answer has the headers, and no page has what the policy forbids. Texts from Vault do not become markup.
func TestMarkup(t *testing.T) {
	w := newWorld(t)
	w.vault.furnish()
	b := w.browser().signIn("good")
	outside := w.browser()
	check := func(a *answered) {
		t.Helper()
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
			"Cache-Control":           "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q", a.Request.URL, name, got)
			}
		}
		if m := regexp.MustCompile(`(?i)<script|<style|<img|\sstyle=|<[^>]*\son\w+=|javascript:`).FindString(quoted.ReplaceAllString(a.text, "")); m != "" {
			t.Errorf("%s has %q", a.Request.URL, m)
		}
	}
	for _, path := range everyPage {
		a := b.get(path)
		check(a)
		if want := map[bool]int{false: 200, true: 404}[path == "/nowhere"]; a.StatusCode != want {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.text)
		}
	}
	for _, path := range []string{"/sign-in", "/static/console.css", "/", "/oidc/callback?state=" + url.QueryEscape(hostile)} {
		check(outside.get(path))
	}
	for _, path := range []string{"/tokens", "/tokens/" + id(1), "/findings/" + id(7), "/roles/billing", "/connections", "/connections/gitea", "/reports/stale",
		"/reports/orphans", "/"} {
		b.get(path).has(t, "&lt;script&gt;")
	}
	b.get("/").has(t, "1,234,567")
	// An error of Vault, and a text of the user.
	w.vault.handle("apitoken/suspend", func(*http.Request) (int, any) { return 400, map[string]any{"errors": []string{hostile}} })
	a := b.post("/tokens/"+id(1)+"/suspend", url.Values{"csrf": {b.csrf}})
	check(a)
	a.has(t, "&lt;script&gt;")
	check(b.get("/tokens?q=" + url.QueryEscape(hostile)))
	check(b.get("/tokens?role=" + url.QueryEscape(hostile)))
}

func TestHost(t *testing.T) {
	w := newWorld(t)
	status := func(h http.Handler, host string) int {
		r := httptest.NewRequest(http.MethodGet, "/sign-in", nil)
		r.Host = host
		a := httptest.NewRecorder()
		h.ServeHTTP(a, r)
		return a.Code
	}
	for host, want := range map[string]int{
		"localhost:8250": 200, "127.0.0.1:8250": 200, "[::1]:8250": 200, "LOCALHOST": 200,
		"evil.example": 421, "evil.example:8250": 421, "127.0.0.1.evil.example": 421, "localhost.evil.example:8250": 421, "192.0.2.1:8250": 421,
		"": 421, "0.0.0.0:8250": 421,
	} {
		if got := status(w.Server, host); got != want {
			t.Errorf("%q: %d", host, got)
		}
	}
	tls := newWorld(t, func(c *Config) {
		c.TLS, c.Certificate = true, &x509.Certificate{DNSNames: []string{"console.example.com"}}
	})
	for host, want := range map[string]int{"console.example.com": 200, "console.example.com:8250": 200, "localhost": 200, "evil.example": 421} {
		if got := status(tls.Server, host); got != want {
			t.Errorf("with a certificate %q: %d", host, got)
		}
	}
}

// A cookie that somebody has planted does not become a session, and each sign-in has an ID of its own.
func TestFixation(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	at, _ := url.Parse(w.web.URL)
	b.Jar.SetCookies(at, []*http.Cookie{{Name: "apitoken_session_8250", Value: "planted", Path: "/"}})
	a := b.try(url.Values{"method": {"token"}, "token": {"good"}})
	var set *http.Cookie
	for _, c := range a.Cookies() {
		if c.Name == "apitoken_session_8250" {
			set = c
		}
	}
	if set == nil || set.Value == "planted" || len(set.Value) < 32 || !set.HttpOnly || set.SameSite != http.SameSiteStrictMode || set.Path != "/" ||
		set.Domain != "" || set.Secure {
		t.Fatalf("%+v", set)
	}
	first := b.cookie("apitoken_session_8250")
	// Signing in again, from another tab, ends the session of before.
	b.post("/sign-in", url.Values{"method": {"token"}, "token": {"good"}, "key": {"x"}}, func(r *http.Request) {
		r.Header.Set("Cookie", "apitoken_session_8250="+first+"; apitoken_key_8250=x")
	})
	if w.sessions.get(first) != nil {
		t.Error("the session of before is alive")
	}
	if other := w.browser(); other.get("/").StatusCode != http.StatusSeeOther {
		t.Error("a browser without a session sees a page")
	}
	secure := newWorld(t, func(c *Config) { c.TLS = true })
	a = secure.browser().get("/sign-in")
	if c := a.Cookies()[0]; c.Name != "__Host-apitoken_key_8250" || !c.Secure || c.Domain != "" || c.Path != "/" {
		t.Errorf("%+v", c)
	}
	if a.Header.Get("Strict-Transport-Security") == "" {
		t.Error("no HSTS")
	}
}

// A form of another site changes nothing, whatever it knows.
func TestForgery(t *testing.T) {
	w := newWorld(t)
	w.vault.set("apitoken/revoke", nil)
	b, other := w.browser().signIn("good"), w.browser().signIn("good")
	path := "/tokens/" + id(1) + "/revoke"
	crossSite := func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }
	origin := func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }
	for name, a := range map[string]*answered{
		"no csrf":                b.post(path, nil),
		"empty csrf":             b.post(path, url.Values{"csrf": {""}}),
		"csrf of another":        b.post(path, url.Values{"csrf": {other.csrf}}),
		"csrf in the query":      b.post(path+"?csrf="+b.csrf, nil),
		"cross-site":             b.post(path, url.Values{"csrf": {b.csrf}}, crossSite),
		"other origin":           b.post(path, url.Values{"csrf": {b.csrf}}, origin),
		"sign-out without csrf":  b.post("/sign-out", nil),
		"compare without":        b.post("/connections/gitea/reconcile", nil),
		"acknowledge without":    b.post("/findings/"+id(7), url.Values{"note": {"x"}}),
		"sign-in without key":    w.browser().post("/sign-in", url.Values{"method": {"token"}, "token": {"good"}}),
		"sign-in with empty key": w.browser().post("/sign-in", url.Values{"method": {"token"}, "token": {"good"}, "key": {""}}),
		"OIDC without key":       w.browser().post("/sign-in/oidc", nil),
	} {
		if a.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d", name, a.StatusCode)
		}
	}
	if n := len(w.vault.to("apitoken/revoke")) + len(w.vault.to("apitoken/connections/gitea/reconcile")); n != 0 {
		t.Errorf("%d requests reached Vault", n)
	}
	if a := b.get(path); a.StatusCode != 200 || len(w.vault.to("apitoken/revoke")) != 0 {
		t.Error("a GET revokes")
	}
	if a := b.post(path, url.Values{"csrf": {b.csrf}}); a.StatusCode != http.StatusSeeOther {
		t.Errorf("%d %s", a.StatusCode, a.text)
	}
	if sent := w.vault.to("apitoken/revoke"); len(sent) != 1 || sent[0].body != `{"token_id":"`+id(1)+`"}` || sent[0].token != "good" {
		t.Errorf("%+v", sent)
	}
	b.get("/reports").has(t, "Token "+id(1)+" was revoked.")
	if strings.Contains(b.get("/reports").text, "was revoked") {
		t.Error("the text is shown twice")
	}
}

// A session ends by idleness, by age, with its Vault token, and at sign-out. The console revokes only tokens of its own logins.
func TestExpiry(t *testing.T) {
	gone := func(b *browser) {
		t.Helper()
		if a := b.get("/"); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/sign-in" {
			t.Errorf("%d %s", a.StatusCode, a.Header.Get("Location"))
		}
	}
	revoked := func(w *world, want int) {
		t.Helper()
		w.revoking.Wait()
		if n := len(w.vault.to("auth/token/revoke-self")); n != want {
			t.Errorf("%d tokens revoked, want %d", n, want)
		}
	}
	sweep := func(w *world) {
		for _, one := range w.sessions.expired(false) {
			w.over(one, "test")
		}
	}
	t.Run("idle", func(t *testing.T) {
		w := newWorld(t)
		b := w.browser().signIn("good")
		w.clock.advance(15*time.Minute - time.Second)
		if b.get("/reports").StatusCode != 200 {
			t.Error("ended too early")
		}
		w.clock.advance(15 * time.Minute)
		gone(b)
	})
	t.Run("age", func(t *testing.T) {
		w := newWorld(t)
		b := w.browser().signIn("good")
		for range 8 * 6 {
			b.get("/reports")
			w.clock.advance(10 * time.Minute)
		}
		gone(b)
	})
	t.Run("token", func(t *testing.T) {
		w := newWorld(t)
		w.vault.ttl = 5 * time.Minute
		b := w.browser().signInByName()
		w.clock.advance(5 * time.Minute)
		gone(b)
		sweep(w)
		revoked(w, 1)
	})
	t.Run("pasted", func(t *testing.T) {
		w := newWorld(t)
		b := w.browser().signIn("good")
		if a := b.post("/sign-out", url.Values{"csrf": {b.csrf}}); a.StatusCode != http.StatusSeeOther {
			t.Error(a.StatusCode)
		}
		gone(b)
		revoked(w, 0)
	})
	t.Run("own", func(t *testing.T) {
		w := newWorld(t)
		b := w.browser().signInByName()
		old := b.cookie("apitoken_session_8250")
		b.post("/sign-out", url.Values{"csrf": {b.csrf}})
		revoked(w, 1)
		if w.sessions.get(old) != nil {
			t.Error("the cookie works after the sign-out")
		}
	})
	t.Run("in Vault", func(t *testing.T) {
		w := newWorld(t)
		b := w.browser().signIn("good")
		w.vault.mu.Lock()
		delete(w.vault.tokens, "good")
		w.vault.mu.Unlock()
		if a := b.get("/"); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/sign-in?ended=1" {
			t.Errorf("%d %s", a.StatusCode, a.text)
		}
		gone(b)
	})
	t.Run("stop", func(t *testing.T) {
		w := newWorld(t)
		w.browser().signInByName()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w.Sweep(ctx)
		revoked(w, 1)
	})
}

// No request to Vault has the token of the environment.
func TestEnvironment(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "of-the-environment")
	w := newWorld(t)
	w.vault.furnish()
	b := w.browser()
	b.get("/")
	b.try(url.Values{"method": {"password"}, "username": {"ann"}, "password": {"wrong"}})
	b.signIn("good")
	for _, path := range everyPage {
		b.get(path)
	}
	w.vault.mu.Lock()
	defer w.vault.mu.Unlock()
	for _, r := range w.vault.requests {
		if r.token != "good" && !strings.HasPrefix(r.path, "auth/userpass/login/") || r.token == "of-the-environment" {
			t.Errorf("%+v", r)
		}
	}
}

func TestVaultClient(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "of-the-environment")
	t.Setenv("VAULT_NAMESPACE", "team")
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	client, err := vaultClient()
	if err != nil {
		t.Fatal(err)
	}
	c, err := newCaller(client, "apitoken", "good")
	if err != nil {
		t.Fatal(err)
	}
	if client.Token() != "" || c.client.Token() != "good" || c.client.Headers().Get("X-Vault-Namespace") != "team" {
		t.Errorf("%q %q %v", client.Token(), c.client.Token(), c.client.Headers())
	}
}

func TestAttempts(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	wrong := func() *answered {
		return b.try(url.Values{"method": {"password"}, "username": {"ann"}, "password": {"wrong"}})
	}
	for range attemptsBurst {
		if a := wrong(); a.StatusCode != http.StatusUnauthorized {
			t.Fatal(a.StatusCode)
		}
	}
	if a := wrong(); a.StatusCode != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" {
		t.Error(a.StatusCode)
	}
	if n := len(w.vault.to("auth/userpass/login/ann")); n != attemptsBurst {
		t.Errorf("Vault was asked %d times", n)
	}
	w.clock.advance(attemptsInterval)
	if a := wrong(); a.StatusCode != http.StatusUnauthorized {
		t.Error(a.StatusCode)
	}

	c := &clock{at: time.Unix(1e9, 0)}
	a := newAttempts(c.now)
	for i := range 2 * attemptsAddresses {
		a.allow(fmt.Sprintf("[2001:db8:%x::1]:1", i))
	}
	if len(a.byAddress) > attemptsAddresses {
		t.Errorf("%d addresses", len(a.byAddress))
	}
	if a.allow("192.0.2.1:1") {
		t.Error("an address beyond the bound tries")
	}
	c.advance(time.Hour)
	if !a.allow("192.0.2.1:1") {
		t.Error("addresses are never forgotten")
	}
	for range attemptsBurst {
		a.allow("[2001:db8::1]:1")
	}
	if a.allow("[2001:db8::2]:1") {
		t.Error("addresses of a /64 count apart")
	}
}

// What is not a name does not reach Vault: no name leads to another path.
func TestNames(t *testing.T) {
	w := newWorld(t)
	b := w.browser().signIn("good")
	before := len(w.vault.requests)
	for _, path := range []string{
		"/roles/..%2fconfig", "/roles/..", "/roles/a%2fb", "/roles/%00", "/tokens/..%2f..%2fsys", "/tokens/zz", "/tokens/" + id(1) + "/destroy",
		"/findings/" + id(1) + "0", "/findings/..%2fx", "/reports/..%2fconfig", "/reports/summary", "/reports/none/csv", "/roles?after=..%2fx",
		"/tokens?role=..%2fx", "/tokens?for=1y", "/tokens?sort=x", "/tokens?from=-1", "/tokens?from=9999999999999999999", "/tokens?use=x",
		"/findings?state=x", "/findings?rule=a%20b", "/reports/stale?kind=x", "/reports/stale?unused_for=x", "/roles?watched_for=-1d",
		"/connections/..%2fconfig", "/connections/%3cscript%3e", "/connections/gitea?after=x", "/connections/gitea?after=upstream_token/vault/x",
		"/tokens?q=" + strings.Repeat("x", 201),
	} {
		if a := b.get(path); a.StatusCode == 200 && !strings.HasPrefix(path, "/roles?after") || a.StatusCode >= 500 {
			t.Errorf("%s: %d", path, a.StatusCode)
		}
	}
	b.post("/tokens/..%2f..%2fsys/revoke", url.Values{"csrf": {b.csrf}})
	b.post("/connections/..%2f..%2fsys/reconcile", url.Values{"csrf": {b.csrf}})
	for _, name := range []string{"../../../sys/seal", "a/b", "..", "", strings.Repeat("a", 200)} {
		if a := w.browser().try(url.Values{"method": {"password"}, "username": {name}, "password": {"right"}}); a.StatusCode != 400 {
			t.Errorf("%q: %d", name, a.StatusCode)
		}
	}
	w.clock.advance(time.Minute)
	for _, token := range []string{"", "two words", "tab\tinside", "ü", strings.Repeat("a", maxToken+1)} {
		if a := w.browser().try(url.Values{"method": {"token"}, "token": {token}}); a.StatusCode != 400 {
			t.Errorf("%.20q: %d", token, a.StatusCode)
		}
	}
	if got := w.vault.requests[before:]; len(got) != 0 {
		t.Errorf("%+v", got)
	}
	if a := b.post("/findings/"+id(7), url.Values{"csrf": {b.csrf}, "note": {strings.Repeat("x", maxForm)}}); a.StatusCode != http.StatusForbidden {
		t.Errorf("a form beyond the bound: %d", a.StatusCode) // its csrf cannot be read
	}
}

func TestSessionsBound(t *testing.T) {
	c := &clock{at: time.Unix(1e9, 0)}
	s := newSessions(time.Minute, time.Hour, c.now)
	for range maxSessions {
		if err := s.start(&session{}, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.start(&session{}, time.Time{}); !errors.Is(err, errFull) {
		t.Error(err)
	}
	c.advance(time.Minute)
	if n := len(s.expired(false)); n != maxSessions {
		t.Error(n)
	}
	if err := s.start(&session{}, time.Time{}); err != nil {
		t.Error(err)
	}
}

// A refused sign-in names the auth method, in the same words whether Vault has no such method, no such name or another password.
func TestRefusedSignIn(t *testing.T) {
	w := newWorld(t)
	for _, password := range []string{"wrong", "denied"} {
		a := w.browser().try(url.Values{"method": {"password"}, "username": {"ann"}, "password": {password}})
		a.has(t, "Check the name and the password. The auth method must be enabled at auth/userpass, or at the -password-path of the console.")
		if a.StatusCode != http.StatusUnauthorized || strings.Contains(a.text, "invalid username") || strings.Contains(a.text, "permission denied") {
			t.Errorf("%d %s", a.StatusCode, a.text)
		}
	}
	w.vault.handle("auth/oidc/oidc/auth_url", func(*http.Request) (int, any) {
		return http.StatusForbidden, map[string]any{"errors": []string{"permission denied"}}
	})
	b := w.browser()
	key := keyInput.FindStringSubmatch(b.get("/sign-in").text)[1]
	b.post("/sign-in/oidc", url.Values{"key": {key}}).has(t, "The auth method for OIDC must be enabled at auth/oidc, or at the -oidc-path of the console.")
	b.try(url.Values{"method": {"token"}, "token": {"bad"}}).has(t, "Vault refuses to sign you in. Check what you have entered.")
}

// A login by OIDC ends in the browser in which it began, once and in time.
func TestOIDCFlow(t *testing.T) {
	w := newWorld(t)
	w.vault.tokens["of-oidc"] = true
	var sent []url.Values
	states := 0
	w.vault.handle("auth/oidc/oidc/auth_url", func(r *http.Request) (int, any) {
		states++
		return 200, map[string]any{"data": map[string]any{"auth_url": fmt.Sprintf("https://idp.example/authorize?state=st%d&nonce=n", states)}}
	})
	w.vault.handle("auth/oidc/oidc/callback", func(r *http.Request) (int, any) {
		sent = append(sent, r.URL.Query())
		return 200, map[string]any{"auth": &api.SecretAuth{ClientToken: "of-oidc"}}
	})
	start := func(b *browser) {
		t.Helper()
		key := keyInput.FindStringSubmatch(b.get("/sign-in").text)[1]
		a := b.post("/sign-in/oidc", url.Values{"key": {key}})
		a.has(t, fmt.Sprintf(`href="https://idp.example/authorize?state=st%d&amp;nonce=n"`, states))
		if want := fmt.Sprintf("0; url=https://idp.example/authorize?state=st%d&nonce=n", states); a.StatusCode != 200 || a.Header.Get("Refresh") != want {
			t.Errorf("%d %v", a.StatusCode, a.Header)
		}
	}
	b := w.browser()
	start(b)
	if a := w.browser().get("/oidc/callback?state=st1&code=c"); a.StatusCode != http.StatusForbidden {
		t.Errorf("another browser: %d", a.StatusCode)
	}
	if len(sent) != 0 {
		t.Error("another browser's code reached Vault")
	}
	a := b.get("/oidc/callback?state=st1&code=c")
	if a.StatusCode != 200 || a.Header.Get("Refresh") != "0; url=/" || b.get("/reports").StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.text)
	}
	if len(sent) != 1 || sent[0].Get("code") != "c" || sent[0].Get("state") != "st1" || len(sent[0].Get("client_nonce")) < 20 {
		t.Errorf("%v", sent)
	}
	if a := b.get("/oidc/callback?state=st1&code=c"); a.StatusCode != http.StatusForbidden {
		t.Errorf("a second time: %d", a.StatusCode)
	}
	late := w.browser()
	start(late)
	w.clock.advance(flowTime)
	if a := late.get("/oidc/callback?state=st2&code=c"); a.StatusCode != http.StatusForbidden {
		t.Errorf("too late: %d", a.StatusCode)
	}
	refusing := w.browser()
	start(refusing)
	if a := refusing.get("/oidc/callback?state=st3&error=access_denied"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("refused: %d", a.StatusCode)
	}
	if len(sent) != 1 {
		t.Errorf("%v", sent)
	}
	// With namespace_in_state the identity provider returns the namespace too.
	w.clock.advance(time.Hour)
	w.vault.handle("auth/oidc/oidc/auth_url", func(*http.Request) (int, any) {
		return 200, map[string]any{"data": map[string]any{"auth_url": "https://idp.example/authorize?state=st9%2Cns%3Dteam"}}
	})
	inNamespace := w.browser()
	inNamespace.post("/sign-in/oidc", url.Values{"key": {keyInput.FindStringSubmatch(inNamespace.get("/sign-in").text)[1]}})
	if a := inNamespace.get("/oidc/callback?state=st9%2Cns%3Dteam&code=c"); a.StatusCode != 200 || sent[1].Get("state") != "st9" {
		t.Errorf("%d %v", a.StatusCode, sent)
	}
	// An address that is no web address is not followed.
	w.vault.handle("auth/oidc/oidc/auth_url", func(*http.Request) (int, any) {
		return 200, map[string]any{"data": map[string]any{"auth_url": "javascript:alert(1)?state=x"}}
	})
	key := keyInput.FindStringSubmatch(late.get("/sign-in").text)[1]
	if a := late.post("/sign-in/oidc", url.Values{"key": {key}}); a.StatusCode != 400 || a.Header.Get("Refresh") != "" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	f := newFlows(w.clock.now)
	for i := range maxFlows {
		if err := f.add(fmt.Sprint(i), flow{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.add("more", flow{}); err == nil {
		t.Error("flows have no bound")
	}
	w.clock.advance(flowTime + time.Second)
	if err := f.add("more", flow{}); err != nil {
		t.Error(err)
	}
}
