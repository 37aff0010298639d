package server

import (
	"net/http"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

// attack is a request that must be refused, or that must not get more than it should. Each stands for a weakness of a proxy or
// an authorizer that was published.
type attack struct {
	name string // what the attack stands for
	ask  ask
	// The answer: a status and a reason. Status 200 stands for a request that may pass, as the rule "rule".
	status int
	reason access.Reason
	rule   string
	modes  string // in which the attack is possible; empty: all
	raw    bool   // net/http or nginx may refuse the request before the handler: only the refusal counts
}

// as returns a request with the token of an ordinary reader, who must not reach /admin.
func as(target string) ask { return get(target, "good") }

func (a ask) at(host string) ask {
	a.host = host
	return a
}

func (a ask) by(method string) ask {
	a.method = method
	return a
}

var attacks = []attack{
	// The path is seen differently by the authorizer and the API.
	{name: "CVE-2026-33494 traversal out of a public path", ask: get("/public/../admin", ""), status: 400, reason: reasonBadTarget},
	{name: "CVE-2026-42274 dot segments", ask: as("/orders/./../admin"), status: 400, reason: reasonBadTarget},
	{name: "CVE-2026-42274 encoded dot segments", ask: get("/public/%2e%2E/admin", ""), status: 400, reason: reasonBadTarget},
	{name: "CVE-2026-42272 encoded slash in lower case", ask: as("/orders%2f..%2fadmin"), status: 400, reason: reasonBadTarget},
	{name: "encoded slash without the word for it", ask: as("/orders%2F7"), status: 403, reason: reasonNoRule},
	{name: "encoded slash with the word for it", ask: as("/files/a%2Fb"), status: 200, rule: "files"},
	{name: "encoded traversal with the word for encoded slashes", ask: as("/files/..%2Fadmin"), status: 400, reason: reasonBadTarget},
	{name: "CVE-2026-32811 query in the prefix match", ask: get("/admin?/status", ""), status: 401, reason: reasonMissing},
	{name: "CVE-2026-32811 encoded question mark", ask: get("/status%3f/../admin", ""), status: 400, reason: reasonBadTarget},
	{name: "CVE-2026-26205 two slashes parsed as an authority", ask: as("//admin/users"), status: 400, reason: reasonBadTarget},
	{name: "CVE-2026-26205 two slashes inside", ask: get("/public//admin", ""), status: 400, reason: reasonBadTarget},
	{name: "CVE-2026-73553 path parameters", ask: get("/public;/../admin", ""), status: 400, reason: reasonBadTarget},
	{name: "CVE-2026-73553 path parameters, Tomcat", ask: get("/public/..;/admin", ""), status: 400, reason: reasonBadTarget},
	{name: "CVE-2026-73552 obs-text", ask: get("/public/\xff", ""), status: 400, reason: reasonBadTarget, modes: "nginx nginx_headers caddy traefik"}, // protobuf has no such text
	{name: "CVE-2026-73552 UTF-8 unencoded", ask: get("/public/é", ""), status: 400, reason: reasonBadTarget},
	{name: "CVE-2026-33186 no leading slash", ask: get("public/a", ""), status: 400, raw: true},
	{name: "GHSA-pxq7-h93f-9jrg fragment", ask: get("/status#/../admin", ""), status: 400, reason: reasonBadTarget},
	{name: "GHSA-pxq7-h93f-9jrg fragment after the query", ask: get("/status?a#/admin", ""), status: 400, reason: reasonBadTarget},
	{name: "CVE-2021-32637 malformed URI", ask: get("/status%", ""), status: 400, raw: true},
	{name: "CVE-2021-32637 malformed escape", ask: get("/status%zz", ""), status: 400, raw: true},
	{name: "absolute form with another host", ask: get("http://other.example.com/status", ""), status: 400, raw: true},
	{name: "asterisk form", ask: get("*", "").by("OPTIONS"), status: 400, raw: true},
	{name: "encoded NUL", ask: get("/public/a%00.png", ""), status: 400, reason: reasonBadTarget},
	{name: "encoded CR LF", ask: get("/public/a%0d%0aX-Token-Id:1", ""), status: 400, reason: reasonBadTarget},
	{name: "backslash", ask: get(`/public\..\admin`, ""), status: 400, reason: reasonBadTarget},
	{name: "encoded backslash", ask: get("/public%5C..%5cadmin", ""), status: 400, reason: reasonBadTarget},
	{name: "encoded twice", ask: get("/public/%252e%252e/admin", ""), status: 400, reason: reasonBadTarget},
	{name: "encoded slash, twice", ask: as("/files/a%252fb"), status: 400, reason: reasonBadTarget},
	{name: "overlong UTF-8", ask: get("/public/%c0%ae%c0%ae/admin", ""), status: 400, reason: reasonBadTarget},
	{name: "percent-encoded letter", ask: as("/%61dmin/users"), status: 403, reason: access.InsufficientScope, rule: "admin"},
	{name: "other case of a path", ask: get("/Status", ""), status: 401, reason: reasonMissing},
	{name: "a very long path", ask: get("/public/"+strings.Repeat("a", 9000), ""), status: 400, reason: reasonBadTarget},
	{name: "method in lower case", ask: get("/status", "").by("get"), status: 400, reason: reasonBadRequest},

	{name: "dot at the end of a segment, Windows", ask: as("/admin./users"), status: 400, reason: reasonBadTarget},
	{name: "dot at the end of a path, Windows", ask: as("/orders."), status: 400, reason: reasonBadTarget},
	{name: "encoded dots at the end, Windows", ask: as("/admin%2e%2E%2e/users"), status: 400, reason: reasonBadTarget},
	{name: "space at the end of a segment, Windows", ask: as("/admin%20/users"), status: 400, reason: reasonBadTarget},
	{name: "space at the end of a path, Windows", ask: as("/admin%20"), status: 400, reason: reasonBadTarget},
	{name: "dot and space at the end, Windows", ask: as("/admin.%20"), status: 400, reason: reasonBadTarget},
	{name: "space at the beginning of a segment", ask: as("/%20admin"), status: 400, reason: reasonBadTarget},
	{name: "no-break space at the end of a segment", ask: as("/admin%c2%a0"), status: 400, reason: reasonBadTarget},
	{name: "dot at the end beside an encoded slash", ask: as("/files/a.%2Fb"), status: 400, reason: reasonBadTarget},
	{name: "dot and space inside a segment", ask: as("/orders/a.b%20c"), status: 200, rule: "read"},

	// A header or the query changes what the request is.
	{name: "method override", ask: as("/orders").with("X-HTTP-Method-Override: DELETE"), status: 400, reason: reasonOverride},
	{name: "method override in another spelling", ask: as("/orders").with("X-Http_Method.Override: DELETE"), status: 400, reason: reasonOverride},
	{name: "method override of Google", ask: as("/orders").with("X-HTTP-Method: DELETE"), status: 400, reason: reasonOverride},
	{name: "method override of IBM", ask: as("/orders").with("X-Method-Override: DELETE"), status: 400, reason: reasonOverride},
	{name: "method override on a public path", ask: get("/status", "").with("X_HTTP_METHOD_OVERRIDE: DELETE"), status: 400, reason: reasonOverride},
	{name: "method override in the query, Symfony", ask: as("/orders/7?_method=DELETE").by("POST"), status: 400, reason: reasonParameter},
	{name: "method override in the query, encoded", ask: as("/orders/7?a=b&%5Fmetho%64=DELETE").by("POST"), status: 400, reason: reasonParameter},
	{name: "method override in the query, after a semicolon", ask: as("/orders/7?a=b;_method=DELETE").by("POST"), status: 400, reason: reasonParameter},
	{name: "method override in the query of a public path", ask: get("/status?_method=DELETE", ""), status: 400, reason: reasonParameter},
	{name: "a parameter of a similar name", ask: as("/orders/7?the_method=a&_methods=b"), status: 200, rule: "read"},
	{name: "token in the query, after a semicolon", ask: get("/orders?a=b;access_token=good", ""), status: 400, reason: reasonBadRequest},
	{name: "path override of IIS and Symfony", ask: as("/orders").with("X-Rewrite-URL: /admin"), status: 400, reason: reasonOverride},
	{name: "path override of others", ask: as("/orders").with("X-Original-URL: /admin"), status: 400, reason: reasonOverride},
	{name: "CVE-2026-40575 X-Forwarded-Uri of the client", ask: get("/orders", "").with("X-Forwarded-Uri: /status", "X-Forwarded-Method: GET"), status: 401, reason: reasonMissing, modes: "nginx nginx_headers envoy"},
	{name: "CVE-2026-40575 X-Forwarded-Uri of the client, twice", ask: get("/orders", "").with("X-Forwarded-Uri: /status"), status: 400, reason: reasonBadRequest, modes: "caddy traefik"},
	{name: "X-Original-URI of the client", ask: get("/orders", "").with("X-Original-URI: /status", "X-Original-Method: GET"), status: 401, reason: reasonMissing, modes: "nginx caddy traefik envoy"},
	{name: "X-Original-URI of the client, twice", ask: get("/orders", "").with("X-Original-URI: /status"), status: 400, reason: reasonBadRequest, modes: "nginx_headers"},
	{name: "CVE-2026-34457 User-Agent of a health check", ask: get("/orders", "").with("User-Agent: kube-probe/1.30"), status: 401, reason: reasonMissing},
	{name: "CVE-2026-34457 User-Agent of a load balancer", ask: get("/orders", "").with("User-Agent: GoogleHC/1.0"), status: 401, reason: reasonMissing},
	{name: "CVE-2025-64484 alias with underscores", ask: as("/orders").with("X_Token_Subject: admin"), status: 400, reason: reasonIdentity, modes: "nginx nginx_headers caddy traefik"},
	{name: "CVE-2026-52845 alias with one underscore", ask: as("/orders").with("X-Token_Role: admin"), status: 400, reason: reasonIdentity, modes: "nginx nginx_headers caddy traefik"},
	{name: "CVE-2026-39858 alias with dots", ask: as("/orders").with("x.token.id: admin"), status: 400, reason: reasonIdentity, modes: "nginx nginx_headers caddy traefik"},
	{name: "alias on a public path", ask: get("/status", "").with("X_Token_Id: admin"), status: 400, reason: reasonIdentity, modes: "nginx nginx_headers caddy traefik"},
	{name: "CVE-2026-35051 X-Forwarded-Prefix", ask: get("/orders", "").with("X-Forwarded-Prefix: /status", "X-Replaced-Path: /status"), status: 401, reason: reasonMissing},
	{name: "GHSA-w9mr-28mw-j8hg Connection drops an identity header", ask: as("/orders").with("Connection: close, X-Token-Subject"), status: 400, reason: reasonBadRequest},
	{name: "Connection drops Authorization", ask: get("/status", "").with("Connection: authorization"), status: 400, reason: reasonBadRequest},
	{name: "CVE-2026-26308 several values of a header", ask: get("/orders", "").with("Authorization: Bearer noise", "Authorization: Bearer good"), status: 400, reason: reasonBadRequest},
	{name: "two tokens in one header", ask: get("/orders", "").with("Authorization: Bearer good, Bearer noise"), status: 400, reason: reasonBadRequest},
	{name: "two tokens with a space", ask: get("/orders", "").with("Authorization: Bearer good good"), status: 400, reason: reasonBadRequest},
	{name: "token in header and query", ask: as("/orders?access_token=good"), status: 400, reason: reasonBadRequest},
	{name: "token in the query, encoded", ask: get("/orders?a=b&%61ccess_token=good", ""), status: 400, reason: reasonBadRequest},
	{name: "Basic", ask: get("/orders", "").with("Authorization: Basic Z29vZDpnb29k"), status: 401, reason: reasonMissing},
	{name: "no scheme", ask: get("/orders", "").with("Authorization: good"), status: 401, reason: reasonMissing},
	{name: "empty token", ask: get("/orders", "").with("Authorization: Bearer "), status: 400, reason: reasonBadRequest, raw: true},
	{name: "token in a header of another name", ask: get("/orders", "").with("X-Authorization: Bearer good", "Proxy-Authorization: Bearer good"), status: 401, reason: reasonMissing},
	{name: "token in a cookie", ask: get("/orders", "").with("Cookie: access_token=good"), status: 401, reason: reasonMissing},
	{name: "a megabyte of dots is not read", ask: get("/orders", strings.Repeat(".", 20000)), status: 401, reason: access.Unknown},
	{name: "Host with another name behind a user", ask: as("/orders").at("api.example.com@evil.org"), status: 400, raw: true},
	{name: "Host with a path", ask: as("/orders").at("api.example.com/x"), status: 400, raw: true},
	{name: "Host with a comma", ask: as("/orders").at("api.example.com,evil.org"), status: 400, raw: true},
	{name: "Host with a dot at the end", ask: as("/orders").at("API.example.com."), status: 200, rule: "read"},
	{name: "Host of a deeper name", ask: as("/orders").at("a.b.example.org"), status: 403, reason: reasonNoRule},

	// The address of the client.
	{name: "X-Forwarded-For of the client", ask: from("192.0.2.66", "tennet").with("X-Forwarded-For: 10.1.2.3"), status: 403, reason: access.AddressNotAllowed, modes: "nginx nginx_headers envoy"},
	{name: "X-Forwarded-For: leftmost spoofed", ask: from("10.1.2.3, 192.0.2.66", "tennet"), status: 403, reason: access.AddressNotAllowed, modes: "caddy traefik"},
	{name: "X-Real-IP and Forwarded of the client", ask: from("192.0.2.66", "tennet").with("X-Real-IP: 10.1.2.3", "Forwarded: for=10.1.2.3", "True-Client-IP: 10.1.2.3", "CF-Connecting-IP: 10.1.2.3"), status: 403, reason: access.AddressNotAllowed},
	{name: "IPv4 in IPv6 form", ask: from("::ffff:192.0.2.66", "tennet"), status: 403, reason: access.AddressNotAllowed},
	{name: "IPv4 in IPv6 form is the same address", ask: from("::ffff:10.1.2.3", "tennet"), status: 200, rule: "read"},
	{name: "address with a zone", ask: from("fe80::1%eth0", "tennet"), status: 400, reason: reasonBadRequest, modes: "nginx nginx_headers caddy traefik"},
	{name: "address that is no address", ask: from("unknown", "good"), status: 400, reason: reasonBadRequest},
	{name: "octal address", ask: from("010.1.2.3", "tennet"), status: 400, reason: reasonBadRequest},
}

func from(client, token string) ask {
	a := get("/orders", token)
	a.client = client
	return a
}

func TestAttacks(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		for _, a := range attacks {
			if a.modes != "" && !strings.Contains(" "+a.modes+" ", " "+mode+" ") {
				continue
			}
			t.Run(a.name, func(t *testing.T) {
				g := w.send(t, mode, a.ask)
				switch {
				case a.status == 200:
					if !g.allowed {
						t.Errorf("status %d, reason %q", g.status, g.reason)
					}
				case g.allowed:
					t.Fatalf("allowed with status %d", g.status)
				case a.raw:
				case g.status != wantStatus(mode, a.status) || g.reason != string(a.reason):
					t.Errorf("status %d, reason %q, want %d, %q", g.status, g.reason, wantStatus(mode, a.status), a.reason)
				}
				if a.rule != "" && !strings.Contains(w.log.String(), `"rule":"`+a.rule+`"`) {
					t.Errorf("the rule is not %s", a.rule)
				}
			})
		}
	})
}

// CVE-2026-30851: an old gateway overwrites what the client sent only if the authorizer answers with the header. So every
// answer has all headers, whatever the client sent. The client's headers are counted.
func TestIdentityHeadersOfTheClient(t *testing.T) {
	spoofed := []string{"X-Token-Id: admin", "X-Token-Subject: admin", "X-Token-Role: admin", "X-Token-Scope: admin"}
	eachMode(t, func(t *testing.T, w *world, mode string) {
		for target, want := range map[string]string{"/orders": "id-good", "/status": "-"} {
			g := w.allows(t, mode, get(target, "good").with(spoofed...))
			for _, name := range identityHeaders {
				if values := g.header.Values(name); len(values) != 1 || values[0] == "admin" {
					t.Errorf("%s %s: %q", target, name, values)
				}
			}
			if got := g.header.Get("X-Token-Id"); got != want {
				t.Errorf("%s: %q", target, got)
			}
		}
		if text := metricsOf(t, w); !strings.Contains(text, quoted("apitoken_authz_client_identity_headers_total{gateway=%q} 8", mode)) {
			t.Error("the headers were not counted")
		}
	})
	eachMode(t, func(t *testing.T, w *world, mode string) {
		w.refused(t, mode, get("/orders", "good").with(spoofed[2]), 400, reasonIdentity)
		w.allows(t, mode, get("/orders", "good"))
	}, "identity_headers: refuse")
}

// Envoy removes other spellings of the identity headers, since the authorizer names them.
func TestEnvoyRemovesAliases(t *testing.T) {
	w := start(t)
	g := w.allows(t, "envoy", get("/orders", "good").with("X_Token_Subject: admin", "x.token-id: admin", "X-Tokens: 3"))
	if len(g.removed) != 2 {
		t.Errorf("removed %q", g.removed)
	}
}

// CVE-2026-95811: what a token says cannot end a header or begin another.
func TestIdentityValues(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		g := w.allows(t, mode, get("/orders", "strange"))
		if got := g.header.Get("X-Token-Subject"); got != "a%0D%0AX-Token-Role: admin%00 %C3%A9%22%25" {
			t.Errorf("subject %q", got)
		}
		if got := g.header.Get("X-Token-Role"); got != "-" {
			t.Errorf("role %q", got)
		}
	})
	for value, want := range map[string]string{"": "-", "-": "%2D", " a ": "%20a%20", "a b": "a b", "a,b": "a%2Cb", "a-b": "a-b", "(": "%28"} {
		if got := safe(value); got != want {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
}

// CVE-2026-76835: a default or a setting that trusts every address does nothing.
func TestTrustedProxies(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		chain := func(hops ...string) ask {
			a := get("/orders", "tennet")
			if mode == "caddy" || mode == "traefik" {
				a.client = strings.Join(hops, ", ")
				return a
			}
			a.client = hops[len(hops)-1]
			if len(hops) > 1 {
				a = a.with("X-Forwarded-For: " + strings.Join(hops[:len(hops)-1], ", "))
			}
			return a
		}
		for _, c := range []struct {
			hops []string
			want string
		}{
			{[]string{"192.0.2.1", "10.9.9.9"}, "10.9.9.9"},                  // not a proxy: what is left of it is the client's own
			{[]string{"10.1.2.3", "172.16.0.1"}, "10.1.2.3"},                 // one proxy
			{[]string{"10.1.2.3", "172.16.0.2", "172.16.0.1"}, "10.1.2.3"},   // two proxies
			{[]string{"10.1.2.3", "192.0.2.66", "172.16.0.1"}, "192.0.2.66"}, // the rightmost that is not trusted
			{[]string{"10.1.2.3:4711", "172.16.0.1"}, "10.1.2.3"},            // with a port
			{[]string{"[2001:db8::1]:4711", "172.16.0.1"}, "2001:db8::1"},    // IPv6 with a port
			{[]string{"::ffff:10.1.2.3", "::ffff:172.16.0.1"}, "10.1.2.3"},   // IPv4 in IPv6 form
			{[]string{"172.16.0.2", "172.16.0.1"}, "172.16.0.2"},             // only proxies: the leftmost
			{[]string{"172.16.0.1"}, "172.16.0.1"},                           // a request of the proxy itself
			{[]string{"nonsense", "10.1.2.3", "172.16.0.1"}, "10.1.2.3"},     // what is left of the client is not read
			{[]string{"nonsense", "172.16.0.1"}, ""},                         // not an address
			{[]string{"10.1.2.3", "", "172.16.0.1"}, ""},                     // an empty hop
		} {
			a := chain(c.hops...)
			asked := w.asked()
			g := w.send(t, mode, a)
			switch {
			case c.want == "" && (g.allowed || g.reason != string(reasonBadRequest)):
				t.Errorf("%q: %+v", c.hops, g)
			case c.want == "":
			case w.asked() == asked:
				t.Errorf("%q: the checker was not asked: %+v", c.hops, g)
			case w.last().Client != addr(c.want):
				t.Errorf("%q: client %s, want %s", c.hops, w.last().Client, c.want)
			}
		}
	}, "trusted_proxies: [172.16.0.0/12]")
}

// CVE-2026-73547, GHSA-9g5w-hqr3-w2ph: requests that Envoy describes incompletely.
func TestEnvoyIncomplete(t *testing.T) {
	w := start(t)
	full := func() *authv3.CheckRequest { return get("/status", "").filled().request() }
	for name, change := range map[string]func(*authv3.CheckRequest){
		"nothing at all": func(q *authv3.CheckRequest) { q.Attributes = nil },
		"no request":     func(q *authv3.CheckRequest) { q.Attributes.Request = nil },
		"no HTTP":        func(q *authv3.CheckRequest) { q.Attributes.Request.Http = nil },
		"no source":      func(q *authv3.CheckRequest) { q.Attributes.Source = nil },
		"pipe source": func(q *authv3.CheckRequest) {
			q.Attributes.Source.Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/run/envoy"}}}
		},
		"no path":   func(q *authv3.CheckRequest) { q.Attributes.Request.Http.Path = "" },
		"no method": func(q *authv3.CheckRequest) { q.Attributes.Request.Http.Method = "" },
		"no host":   func(q *authv3.CheckRequest) { q.Attributes.Request.Http.Host = "" },
		"no scheme": func(q *authv3.CheckRequest) { q.Attributes.Request.Http.Scheme = "" },
		"CONNECT": func(q *authv3.CheckRequest) {
			q.Attributes.Request.Http.Method, q.Attributes.Request.Http.Path = "CONNECT", ""
		},
	} {
		q := full()
		change(q)
		answer, err := w.envoy.Check(t.Context(), q)
		if err != nil {
			t.Fatal(name, err)
		}
		if g := readAnswer(answer); g.allowed || g.status != http.StatusBadRequest {
			t.Errorf("%s: %+v", name, g)
		}
	}

	// Raw headers, which are not joined: two tokens are two tokens, and bytes that are not UTF-8 are no token.
	for name, values := range map[string][]string{"two": {"Bearer noise", "Bearer good"}, "not UTF-8": {"Bearer good\xff"}, "one": {"Bearer good"}} {
		q := get("/orders", "").filled().request()
		q.Attributes.Request.Http.Headers = nil
		q.Attributes.Request.Http.HeaderMap = &corev3.HeaderMap{}
		for _, value := range values {
			q.Attributes.Request.Http.HeaderMap.Headers = append(q.Attributes.Request.Http.HeaderMap.Headers,
				&corev3.HeaderValue{Key: "authorization", RawValue: []byte(value)})
		}
		answer, err := w.envoy.Check(t.Context(), q)
		if err != nil {
			t.Fatal(name, err)
		}
		if g := readAnswer(answer); g.allowed != (name == "one") {
			t.Errorf("%s: %+v", name, g)
		}
	}
}

// CVE-2026-33496, CVE-2021-32701, heimdall#3452: one token, two rules and two addresses, in both orders: each request is decided anew.
func TestDecisionsAreNotKept(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		near, far := get("/orders", "tennet"), from("192.0.2.66", "tennet")
		for range 2 {
			w.allows(t, mode, near)
			w.refused(t, mode, get("/admin", "tennet"), 403, access.InsufficientScope)
			w.refused(t, mode, far, 403, access.AddressNotAllowed)
			w.refused(t, mode, get("/other", "tennet"), 401, access.WrongAudience)
			w.allows(t, mode, near)
		}
		w.mu.Lock()
		w.tokens["tennet"].state.Revoked = true
		w.mu.Unlock()
		w.refused(t, mode, near, 401, access.Revoked)
	})
}

// Proofs reach the library: all of them, with the URL as the client sees it and without its query.
func TestProofs(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		a := get("/orders/7?a=b", "").with("Authorization: dpop good", "DPoP: one", "DPoP: two")
		a.host = "api.example.com:8443"
		w.allows(t, mode, a)
		use := w.last()
		if use.URL != "https://api.example.com:8443/orders/7" || use.Scheme != "dpop" || strings.Join(use.Proofs, " ") != "one two" {
			t.Errorf("%+v", use)
		}
	})
}
