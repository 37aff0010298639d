package verify_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

func TestMiddleware(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		c.TrustedProxies = []string{"192.0.2.0/24"}
		v := start(t, c)
		handler := v.Middleware(verify.RequireScopes("orders:read"))(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d, ok := verify.From(r.Context())
			fmt.Fprint(w, ok, " ", d.Role)
		}))
		good := i.Opaque(t, verifytest.Token{Role: "r", Scopes: []string{"orders:*"}})
		bound := i.JWT(t, verifytest.Token{Scopes: []string{"*"}, CIDRs: []string{"10.0.0.0/8"}, Hosts: []string{"api.test"}})
		poor := i.Opaque(t, verifytest.Token{Scopes: []string{"users:read"}})
		p := newProver(t)
		dpop := i.JWT(t, verifytest.Token{Scopes: []string{"*"}, JKT: p.jkt()})
		proof := func(url string) string { return p.proof(dpop, map[string]any{"htu": url}, nil) }
		for _, c := range []struct {
			name      string
			headers   string // name=value|name=value
			target    string
			status    int
			challenge string // part of WWW-Authenticate
		}{
			{"no token", "", "/", 401, "Bearer"},
			{"another scheme", "Authorization=Basic eA==", "/", 401, "Bearer"},
			{"empty token", "Authorization=Bearer ", "/", 400, `error="invalid_request"`},
			{"two headers", "Authorization=Bearer x|Authorization=Bearer y", "/", 400, `error="invalid_request"`},
			{"token in the query as well", "Authorization=Bearer " + good, "/?access_token=x", 400, `error="invalid_request"`},
			{"noise", "Authorization=Bearer noise", "/", 401, `Bearer error="invalid_token"`},
			{"good", "Authorization=bearer " + good, "/", 200, ""},
			{"scope", "Authorization=Bearer " + poor, "/", 403, `error="insufficient_scope", scope="orders:read"`},
			{"address of the peer", "Authorization=Bearer " + bound, "/", 403, ""},
			{"address from the proxy", "Authorization=Bearer " + bound + "|X-Forwarded-For=10.1.2.3", "/", 200, ""},
			{"address that the client claims", "Authorization=Bearer " + bound + "|X-Forwarded-For=10.1.2.3, 203.0.113.9", "/", 403, ""},
			{"host of the proxy", "Authorization=Bearer " + bound + "|X-Forwarded-For=10.1.2.3|X-Forwarded-Host=evil.test", "/", 403, ""},
			{"bound token as Bearer", "Authorization=Bearer " + dpop, "/", 401, `error="invalid_token"`},
			{"proof", "Authorization=DPoP " + dpop + "|DPoP=" + proof("http://api.test/a%2fb"), "/a%2Fb?x=1", 200, ""},
			{"proof of the outside scheme", "Authorization=DPoP " + dpop + "|X-Forwarded-Proto=https|DPoP=" + proof("https://api.test/"), "/", 200, ""},
			{"proof of another URL", "Authorization=DPoP " + dpop + "|DPoP=" + proof("http://api.test/x"), "/", 401, `DPoP algs="ES256`},
			{"two proofs", "Authorization=DPoP " + dpop + "|DPoP=" + proof("http://api.test/") + "|DPoP=" + proof("http://api.test/"), "/", 401, `error="invalid_dpop_proof"`},
		} {
			r := httptest.NewRequest(http.MethodGet, c.target, nil)
			r.Host, r.RemoteAddr = "api.test", "192.0.2.1:4711"
			for header := range strings.SplitSeq(c.headers, "|") {
				if name, value, ok := strings.Cut(header, "="); ok {
					r.Header.Add(name, value)
				}
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			challenges := strings.Join(w.Header().Values("WWW-Authenticate"), ", ")
			if w.Code != c.status || !strings.Contains(challenges, c.challenge) || (c.challenge == "") != (challenges == "") {
				t.Errorf("%s: %d, %s", c.name, w.Code, challenges)
			}
			if c.status == 200 && !strings.HasPrefix(w.Body.String(), "true ") {
				t.Errorf("%s: %s", c.name, w.Body)
			}
		}
		i.SetDown(true)
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+i.Opaque(t, verifytest.Token{Scopes: []string{"*"}}))
		w := httptest.NewRecorder()
		if handler.ServeHTTP(w, r); w.Code != 503 {
			t.Errorf("status %d while Vault is down", w.Code)
		}
		i.SetDown(false)
	})
}

func TestRate(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		c.ShareRate = true
		v := start(t, c)
		handler := v.Middleware()(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		use := func(text string) *http.Response {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("Authorization", "Bearer "+text)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			return w.Result()
		}
		text := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}, RateLimit: "60/1m burst 3"})
		for n := range 3 {
			resp := use(text)
			if want := fmt.Sprintf(`"token";r=%d;t=%d`, 2-n, n+1); resp.StatusCode != 200 || resp.Header.Get("RateLimit") != want ||
				resp.Header.Get("RateLimit-Policy") != `"token";q=60;w=60` {
				t.Errorf("use %d: %s, %v, want %s", n, resp.Status, resp.Header, want)
			}
		}
		if resp := use(text); resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" {
			t.Errorf("%s, %v", resp.Status, resp.Header)
		}
		time.Sleep(time.Second)
		if a, b := use(text).StatusCode, use(text).StatusCode; a != 200 || b != 429 {
			t.Errorf("after a second: %d, %d", a, b)
		}
		// Facts that are learned again keep the count.
		time.Sleep(time.Second)
		i.NarrowRole("test", "a")
		time.Sleep(1001 * time.Millisecond)
		for n := range 3 {
			if got, want := use(text).StatusCode, map[bool]int{true: 200, false: 429}[n < 2]; got != want {
				t.Errorf("use %d after a change of the role: %d, want %d", n, got, want)
			}
		}
		i.AddReporters(2)
		time.Sleep(time.Minute)
		if a, b := use(text).StatusCode, use(text).StatusCode; a != 200 || b != 429 {
			t.Errorf("as one of three verifiers: %d, %d", a, b)
		}
		other := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}, RateLimit: "60/1m burst 3"})
		if got := use(other).StatusCode; got != 200 {
			t.Errorf("another token of the role: %d", got)
		}
	})
}

func TestClientAddress(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	for _, c := range []struct{ peer, forwarded, want string }{
		{"203.0.113.1", "10.0.0.1", "203.0.113.1"},
		{"192.0.2.1", "", "192.0.2.1"},
		{"192.0.2.1", "10.0.0.1", "10.0.0.1"},
		{"::ffff:192.0.2.1", "10.0.0.1", "10.0.0.1"},
		{"192.0.2.1", "10.0.0.1, 203.0.113.5", "203.0.113.5"},
		{"192.0.2.1", "10.0.0.1|203.0.113.5,192.0.2.9", "203.0.113.5"},
		{"192.0.2.1", "::ffff:10.0.0.1", "10.0.0.1"},
		{"192.0.2.1", "10.0.0.1:4711", "10.0.0.1"},
		{"192.0.2.1", "[2001:db9::1]:443", "2001:db9::1"},
		{"192.0.2.1", "fe80::1%eth0", "fe80::1"},
		{"192.0.2.1", "10.0.0.1, unknown", "invalid IP"},
		{"192.0.2.1", "10.0.0.1, ", "invalid IP"},
		{"192.0.2.1", "2001:db8::1, 192.0.2.2", "2001:db8::1"},
	} {
		got := verify.ClientAddress(netip.MustParseAddr(c.peer), strings.Split(c.forwarded, "|"), proxies)
		if got.String() != c.want {
			t.Errorf("peer %s, %q: %s, want %s", c.peer, c.forwarded, got, c.want)
		}
	}
}

// The certificate is that of the connection.
func TestMiddlewareMTLS(t *testing.T) {
	i := verifytest.New(t)
	v := start(t, i.Config())
	api := httptest.NewUnstartedServer(v.Middleware()(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	api.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	api.StartTLS()
	defer api.Close()
	certificate := api.TLS.Certificates[0] // any will do
	text := i.JWT(t, verifytest.Token{Scopes: []string{"a"}, X5T: thumbprintOf(certificate.Certificate[0])})
	plain := api.Client().Transport.(*http.Transport)
	for name, want := range map[string]int{"with": 200, "without": 401} {
		transport := plain.Clone()
		if name == "with" {
			transport.TLSClientConfig.Certificates = []tls.Certificate{certificate}
		}
		client := &http.Client{Transport: transport}
		req, _ := http.NewRequest(http.MethodGet, api.URL, nil)
		req.Header.Set("Authorization", "Bearer "+text)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s the certificate: %s", name, resp.Status)
		}
	}
}
