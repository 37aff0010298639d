package server

import (
	"encoding/base64"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// The log says which setting a rule lacks for a path with an encoded slash.
func TestEncodedSlashInTheLog(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		w.refused(t, mode, get("/orders%2f7", "good"), 403, reasonNoRule)
		if !strings.Contains(w.log.String(), `"detail":"the path has \"%2f\": rule \"read\" matches such paths with allow_encoded_slash: true only"`) {
			t.Errorf("the log lacks the setting:\n%s", w.log)
		}
	})
}

// Caddy and Traefik state the client's certificate in the header that the configuration names, and in no other.
func TestCertificateHeader(t *testing.T) {
	clients := newAuthority(t)
	cert, key := clients.issue(t, "client", false)
	text, _ := toPEM(t, cert, key)
	const name = "X-Forwarded-Tls-Client-Cert: "
	own := base64.StdEncoding.EncodeToString(cert.Raw)
	chain := own + "," + base64.StdEncoding.EncodeToString(clients.cert.Raw)
	escaped := url.PathEscape(string(text))
	settings := "client_certificates: true\ncertificate_header: {name: x-forwarded-tls-client-cert, encoding: ENCODING}"
	for _, mode := range []string{"caddy", "traefik"} {
		for _, more := range []string{"log: {level: info}", "client_certificates: true"} {
			w := start(t, more)
			w.allows(t, mode, get("/orders", "good").with(name+own, "X-Original-Cert: "+escaped))
			if w.last().Certificate != nil {
				t.Errorf("%s with %s: a certificate was taken from the client", mode, more)
			}
		}
		for encoding, values := range map[string]struct{ good, bad []string }{
			"base64": {[]string{own, chain}, []string{escaped, "noise!", own + "AA==", "AAAA", "{" + own, own[1:]}},
			"pem":    {[]string{escaped}, []string{own, "noise", "%zz", url.PathEscape("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")}},
		} {
			w := start(t, strings.Replace(settings, "ENCODING", encoding, 1))
			for _, value := range values.good {
				w.allows(t, mode, get("/orders", "good").with(name+value, "X-Original-Cert: noise", "X_Forwarded_Tls_Client_Cert: noise"))
				if c := w.last().Certificate; c == nil || !c.Equal(cert) {
					t.Errorf("%s, %s: no certificate", mode, encoding)
				}
				w.refused(t, mode, get("/orders", "good").with(name+value, name+value), 400, reasonBadRequest)
			}
			for _, value := range values.bad {
				w.refused(t, mode, get("/orders", "good").with(name+value), 400, reasonBadRequest)
			}
			if strings.Contains(w.log.String(), own[:40]) {
				t.Errorf("%s, %s: the log has the certificate", mode, encoding)
			}
		}

		// What gateways send if the client has no certificate.
		w := start(t, strings.Replace(settings, "ENCODING", "base64", 1))
		for _, none := range []string{name + "{http.request.tls.client.certificate_der_base64}", name} {
			w.allows(t, mode, get("/orders", "good").with(none))
			if w.last().Certificate != nil {
				t.Errorf("%s, %q: a certificate came from nowhere", mode, none)
			}
		}
		alone := get("/orders", "good").with("X-Original-Cert: "+escaped, "X_Forwarded_Tls_Client_Cert: "+own, "X-Client-Cert: "+own)
		if mode == "caddy" { // always sends the header, unless the Caddyfile lacks header_up
			w.refused(t, mode, alone, 400, reasonBadRequest)
			continue
		}
		w.allows(t, mode, alone)
		if w.last().Certificate != nil {
			t.Error("a certificate was taken from another header")
		}
	}
	w := start(t, strings.Replace(settings, "ENCODING", "base64", 1))
	for _, mode := range []string{"nginx", "nginx_headers", "envoy"} {
		w.allows(t, mode, get("/orders", "good").with(name+own))
		if w.last().Certificate != nil {
			t.Errorf("%s: a certificate was taken from the header of another gateway", mode)
		}
	}
}

// Only gateways of the configuration state certificates.
func TestCertificateHeaderOfOthers(t *testing.T) {
	w := start(t, "client_certificates: true", "certificate_header: {name: X-Forwarded-Tls-Client-Cert}", "gateway_addresses: [192.0.2.0/24]")
	for _, mode := range []string{"caddy", "traefik"} {
		w.refused(t, mode, get("/orders", "good").with("X-Forwarded-Tls-Client-Cert: noise"), 403, reasonGateway)
	}
}

// Requests share memory one after the other: an answer never has the identity of another request.
func TestAnswersAreNotMixed(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		var clients sync.WaitGroup
		for i := range 8 {
			token := []string{"good", "reader", "", "noise"}[i%4]
			want := map[string]string{"good": "id-good", "reader": "id-reader"}[token]
			clients.Go(func() {
				for range 25 {
					a := get("/orders/7", token).filled()
					g := got{}
					if mode == "envoy" {
						g = w.sendEnvoy(t, a)
					} else {
						g = w.sendHTTP(t, mode, a)
					}
					if id := g.header.Get("X-Token-Id"); id != want || g.allowed != (want != "") {
						t.Errorf("token %q: allowed %t as %q", token, g.allowed, id)
					}
				}
			})
		}
		clients.Wait()
	})
}
