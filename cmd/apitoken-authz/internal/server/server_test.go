package server

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

func TestDecisions(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		g := w.allows(t, mode, get("/orders/7?page=2", "good"))
		for name, want := range map[string]string{"X-Token-Id": "id-good", "X-Token-Subject": "entity-1", "X-Token-Role": "reader", "X-Token-Scope": "orders:*"} {
			if g.header.Get(name) != want {
				t.Errorf("%s: %q", name, g.header.Get(name))
			}
		}
		use := w.last()
		if use.URL != "" || use.Method != "GET" || use.Host != "api.example.com" ||
			use.Client != addr("10.1.2.3") || len(use.Scopes) != 1 || use.Scopes[0] != "orders:read" || use.Audience != "" || use.Scheme != "Bearer" {
			t.Errorf("%+v", use)
		}

		// A public path looks at no token, and says of everybody that nothing is known.
		asked := w.asked()
		for _, token := range []string{"", "good", "revoked", "noise"} {
			g := w.allows(t, mode, get("/status", token))
			for _, name := range identityHeaders {
				if g.header.Get(name) != "-" {
					t.Errorf("%s: %q", name, g.header.Get(name))
				}
			}
		}
		if w.asked() != asked {
			t.Error("a public path asked about a token")
		}

		g = w.refused(t, mode, get("/orders", ""), 401, reasonMissing)
		if got := g.header.Get("WWW-Authenticate"); got != "Bearer" {
			t.Errorf("challenge %q", got)
		}
		g = w.refused(t, mode, get("/orders", "noise"), 401, access.Unknown)
		if got := g.header.Get("WWW-Authenticate"); got != `Bearer error="invalid_token"` {
			t.Errorf("challenge %q", got)
		}
		w.refused(t, mode, get("/orders", "revoked"), 401, access.Revoked)
		g = w.refused(t, mode, get("/admin/users", "good"), 403, access.InsufficientScope)
		if got := g.header.Get("WWW-Authenticate"); got != `Bearer error="insufficient_scope", scope="admin"` {
			t.Errorf("challenge %q", got)
		}
		w.refused(t, mode, get("/other", "good"), 401, access.WrongAudience)
		w.allows(t, mode, get("/orders", "tennet"))
		far := get("/orders", "tennet")
		far.client = "192.0.2.66"
		w.refused(t, mode, far, 403, access.AddressNotAllowed)
		w.allows(t, mode, get("/orders", "hosted"))
		elsewhere := get("/orders", "hosted")
		elsewhere.host = "api.example.org:8443"
		w.refused(t, mode, elsewhere, 403, access.HostNotAllowed)

		// By default nothing may pass.
		w.refused(t, mode, get("/a/b/c", "good"), 403, reasonNoRule)
		unknown := get("/orders", "good")
		unknown.host = "other.example.com"
		w.refused(t, mode, unknown, 403, reasonNoRule)
		patch := get("/orders", "good")
		patch.method = "PATCH"
		w.refused(t, mode, patch, 403, reasonNoRule)
		post := get("/orders", "good")
		post.method = "POST"
		w.allows(t, mode, post)
		post = get("/orders", "reader")
		post.method = "POST"
		w.refused(t, mode, post, 403, access.InsufficientScope)
	})
}

// Whatever fails, the request is refused.
func TestFailsClosed(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		w.err = errEngine
		g := w.refused(t, mode, get("/orders", "good"), 503, reasonNoDecision)
		if g.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After %q", g.header.Get("Retry-After"))
		}
		w.allows(t, mode, get("/status", "")) // no token is needed
		w.err, w.panics = nil, true
		w.refused(t, mode, get("/orders", "good"), 503, "")
		if !strings.Contains(w.log.String(), "request handler failed; request refused") {
			t.Error("the log does not show the fault")
		}
		w.panics = false
		w.allows(t, mode, get("/orders", "good"))
	})
}

func TestRate(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		for _, c := range []struct{ target, first, second string }{{"/slow", "good", "reader"}, {"/slow-public", "", ""}} {
			w.allows(t, mode, get(c.target, c.first))
			w.allows(t, mode, get(c.target, c.first))
			g := w.refused(t, mode, get(c.target, c.first), 429, reasonLimited)
			if after := g.header.Get("Retry-After"); after == "" || after == "0" {
				t.Errorf("Retry-After %q", after)
			}
			if c.second != "" {
				w.allows(t, mode, get(c.target, c.second)) // another token
				continue
			}
			other := get(c.target, "")
			other.client = "10.1.2.4"
			w.allows(t, mode, other)
		}
	})
}

// A header that the gateway has to set must be there once.
func TestGatewayHeaders(t *testing.T) {
	w := start(t)
	for mode, names := range map[string][]string{
		"nginx":         {"X-Original-Proto", "X-Original-Addr"},
		"nginx_headers": {"X-Original-Method", "X-Original-URI", "X-Original-Host", "X-Original-Proto", "X-Original-Addr"},
		"caddy":         {"X-Forwarded-Method", "X-Forwarded-Uri", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-For"},
		"traefik":       {"X-Forwarded-Method", "X-Forwarded-Uri", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-For"},
	} {
		path := map[string]string{"nginx": "/nginx/status", "nginx_headers": "/headers/nginx", "caddy": "/caddy", "traefik": "/traefik"}[mode]
		values := map[string]string{
			"X-Original-Method": "GET", "X-Original-URI": "/status", "X-Original-Host": "h", "X-Original-Proto": "https", "X-Original-Addr": "10.1.2.3",
			"X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/status", "X-Forwarded-Host": "h", "X-Forwarded-Proto": "https", "X-Forwarded-For": "10.1.2.3",
		}
		for _, changed := range append(names, "") {
			for _, change := range []string{"missing", "empty", "twice"} {
				if changed == "X-Forwarded-For" && change == "twice" {
					continue // a list
				}
				lines := []string{"GET " + path + " HTTP/1.0", "Host: h"}
				for _, name := range names {
					switch {
					case name != changed:
						lines = append(lines, name+": "+values[name])
					case change == "empty":
						lines = append(lines, name+": ")
					case change == "twice":
						lines = append(lines, name+": "+values[name], name+": "+values[name])
					}
				}
				g := w.raw(t, strings.Join(lines, "\r\n")+"\r\n\r\n")
				if want := wantStatus(mode, 400); changed != "" && g.status != want {
					t.Errorf("%s: %s %s: status %d, want %d", mode, changed, change, g.status, want)
				} else if changed == "" && !g.allowed {
					t.Errorf("%s: all headers: status %d", mode, g.status)
				}
			}
		}
	}
}

// Only the gateways of the configuration may ask, and only in their own way.
func TestGatewaysOfTheConfiguration(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		w.refused(t, mode, get("/status", ""), 403, reasonGateway)
	}, "gateway_addresses: [192.0.2.0/24]")

	w := start(t)
	w.kinds = kinds{w.kinds.of("caddy")}
	w.allows(t, "caddy", get("/status", ""))
	for _, mode := range []string{"nginx", "nginx_headers", "traefik"} {
		if g := w.send(t, mode, get("/status", "")); g.allowed || g.status != 403 {
			t.Errorf("%s: %d", mode, g.status)
		}
	}
	for _, path := range []string{"/", "/nginx", "/nginxstatus", "/other", "/metrics", "/readyz", "//nginx/status", "/caddy/status"} {
		if g := w.raw(t, "GET "+path+" HTTP/1.0\r\nHost: h\r\n\r\n"); g.status != 403 {
			t.Errorf("%s: %d", path, g.status)
		}
	}
}

func TestAdmin(t *testing.T) {
	w := start(t)
	w.allows(t, "caddy", get("/orders", "good"))
	w.refused(t, "envoy", get("/orders", ""), 401, reasonMissing)
	fetch := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + w.admin + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	if status, _ := fetch("/healthz"); status != 200 {
		t.Error(status)
	}
	if status, body := fetch("/readyz"); status != 200 || !strings.Contains(body, `"ready":true`) {
		t.Error(status, body)
	}
	if status, _ := fetch("/other"); status != 404 {
		t.Error(status)
	}
	status, body := fetch("/metrics")
	for _, want := range []string{
		`apitoken_authz_requests_total{gateway="caddy",reason="ok"} 1`,
		`apitoken_authz_requests_total{gateway="envoy",reason="missing"} 1`,
		"apitoken_authz_ready 1", "apitoken_authz_rules 8", "apitoken_authz_feed_age_seconds", "apitoken_authz_keys_age_seconds",
		"apitoken_authz_config_last_reload_successful 1", `apitoken_authz_decision_seconds_count{gateway="caddy"} 1`,
	} {
		if status != 200 || !strings.Contains(body, want) {
			t.Errorf("%d: the metrics lack %s", status, want)
		}
	}
	w.state.Ready, w.state.Problems = false, []string{"the feed is 12s old"}
	if status, body := fetch("/readyz"); status != 503 || !strings.Contains(body, "the feed is 12s old") {
		t.Error(status, body)
	}
	if status, _ := fetch("/healthz"); status != 200 {
		t.Error(status)
	}
	w.state.Ready = true
	w.Drain()
	if status, body := fetch("/readyz"); status != 503 || !strings.Contains(body, "stopping") {
		t.Error(status, body)
	}
}

// The log has what a security team asks, and never a token or a query.
func TestAccessLog(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		w.tokens["s3cr3t-good"] = w.tokens["good"]
		w.allows(t, mode, get("/orders/s3cr3t-good?key=inquery", "s3cr3t-good"))
		w.refused(t, mode, get("/orders/s3cr3t-noise", "s3cr3t-noise"), 401, access.Unknown)
		w.refused(t, mode, get("/orders?access_token=s3cr3t-query", ""), 400, reasonBadRequest)
		w.err = &echo{}
		w.refused(t, mode, get("/orders", "s3cr3t-good"), 503, reasonNoDecision)
		log := w.log.String()
		for _, secret := range []string{"s3cr3t", "inquery"} {
			if strings.Contains(log, secret) {
				t.Errorf("the log has %s:\n%s", secret, log)
			}
		}
		for _, want := range []string{
			`"gateway":"` + mode + `"`, `"method":"GET"`, `"host":"api.example.com"`, `"path":"/orders/[token]"`, `"client":"10.1.2.3"`,
			`"rule":"read"`, `"token_id":"id-good"`, `"role":"reader"`, `"subject":"entity-1"`, `"allowed":true`, `"reason":"unknown"`,
		} {
			if !strings.Contains(log, want) {
				t.Errorf("the log lacks %s:\n%s", want, log)
			}
		}
	})

	w := start(t, "log: {access: refused}")
	w.allows(t, "caddy", get("/orders", "good"))
	if strings.Contains(w.log.String(), `"allowed":true`) {
		t.Error("an allowed request was logged")
	}
	w.refused(t, "caddy", get("/orders", ""), 401, reasonMissing)
	w = start(t, "log: {access: none}")
	w.refused(t, "caddy", get("/orders", ""), 401, "")
	if strings.Contains(w.log.String(), `"request"`) {
		t.Error("a request was logged")
	}
}

// echo is an error that repeats the token.
type echo struct{}

func (*echo) Error() string { return "introspect s3cr3t-good: connection refused" }

// Requests in flight are finished when the server stops.
func TestShutdown(t *testing.T) {
	w := start(t)
	w.mu.Lock() // the checker waits
	answered := make(chan got)
	go func() { answered <- w.sendHTTP(t, "caddy", get("/orders", "good").filled()) }()
	time.Sleep(100 * time.Millisecond)
	stopped := make(chan error)
	go func() { stopped <- w.stop() }()
	time.Sleep(100 * time.Millisecond)
	w.mu.Unlock()
	if g := <-answered; !g.allowed {
		t.Errorf("status %d", g.status)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// No token is in the log, wherever the client puts the token and whatever the request is refused for.
func TestNoTokenInTheLog(t *testing.T) {
	i := verifytest.NewAt(t, time.Now)
	eachMode(t, func(t *testing.T, w *world, mode string) {
		for _, text := range []string{i.Opaque(t, verifytest.Token{}), i.JWT(t, verifytest.Token{Scopes: []string{"a"}})} {
			secret := text[len(text)-20:]
			for _, a := range []ask{
				get("/orders/"+text, ""), get("/public/"+text, ""), get("//orders/"+text, text), get("/orders/"+text+"/x/y/z", text),
				get("/a%3faccess_token="+text, ""), get("/a%3Fpassword="+secret, ""), get("/a#password="+secret, ""),
				get("/a;access_token="+text, ""), get("/a?access_token="+text, ""), get("/orders?x="+text, text),
				{target: "/orders", host: text + ".example.org"}, get("/orders", "").with("X-HTTP-Method-Override: " + text),
				get("/public/"+strings.Repeat("a", maxLogged-30)+"/"+text, ""),
			} {
				w.send(t, mode, a)
				if strings.Contains(w.log.String(), secret) || strings.Contains(w.log.String(), text[:20]) {
					t.Fatalf("%s: the log has the token:\n%s", a.target, w.log)
				}
			}
		}
	})
}
