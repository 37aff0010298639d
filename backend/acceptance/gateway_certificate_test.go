package acceptance

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority issues certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newDPoPKey(t).PrivateKey}
	a.cert, _ = x509.ParseCertificate(a.sign(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, a.key))
	return a
}

// sign signs a certificate; the first is the authority's own.
func (a *authority) sign(t *testing.T, template *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject = pkix.Name{CommonName: fmt.Sprintf("test, authority %t", template.IsCA)}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// issue returns a certificate for a client, and for the server orders.example.com.
func (a *authority) issue(t *testing.T) *tls.Certificate {
	t.Helper()
	key := newDPoPKey(t).PrivateKey
	der := a.sign(t, &x509.Certificate{
		DNSNames:    []string{"orders.example.com"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, key)
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func inPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// escaped returns a certificate as nginx passes it on.
func escaped(c *tls.Certificate) string {
	return url.PathEscape(string(inPEM("CERTIFICATE", c.Leaf.Raw)))
}

// certified is a gateway that passes the client's certificate on to the authorizer.
type certified struct {
	gateway
	header string // in which the gateway passes the certificate on
	encode func(*tls.Certificate) string
	closes bool // whether the gateway closes connections with a certificate of another authority, instead of answering 400
}

func inBase64(c *tls.Certificate) string { return base64.StdEncoding.EncodeToString(c.Leaf.Raw) }

const certificateHeader = "X-Forwarded-Tls-Client-Cert"

var certifieds = []certified{
	{gateway{"nginx", "nginx", "nginx", []string{"nginx-certificates.conf"}, nginx("nginx-certificates.conf"), 200}, "X-Original-Cert", escaped, false},
	{gateway{"Caddy on PATH", "caddy", "caddy", []string{"Caddyfile-certificates"}, caddy("Caddyfile-certificates"), 400}, certificateHeader, inBase64, true},
	{gateway{"Caddy of bootstrap", "caddy", "bin/caddy", []string{"Caddyfile-certificates"}, caddy("Caddyfile-certificates"), 200}, certificateHeader, inBase64, true},
	{gateway{
		"Traefik", "traefik", "traefik", []string{"traefik-certificates.yaml", "traefik-certificates-api.yaml"},
		traefik("traefik-certificates.yaml"), 200,
	}, certificateHeader, inBase64, true},
}

// TestGatewayCertificates sends tokens that are bound to a certificate through gateways. A gateway passes the certificate of the
// connection on, and no header of the client counts. With the other configurations no certificate counts, and the tokens are refused.
func TestGatewayCertificates(t *testing.T) {
	t.Parallel()
	s := newShop(t, "client_certificates: true")
	with := *s // an authorizer that takes certificates from Caddy and Traefik, beside the first
	with.startAuthorizer(t, []string{"client_certificates: true", "certificate_header: {name: " + certificateHeader + "}"})
	roles := s.boundRoles(t, "mtls")
	clients := newAuthority(t)
	own, another := clients.issue(t), clients.issue(t)
	sum := sha256.Sum256(own.Leaf.Raw)
	bound := map[string]any{"x5t_s256": base64.RawURLEncoding.EncodeToString(sum[:])}
	tokens := map[string]string{}
	for _, role := range roles {
		tokens[role] = s.write(t, "apitoken/creds/"+role, bound).Data["token"].(string)
	}
	for _, g := range certifieds {
		t.Run(g.name+" with certificates", func(t *testing.T) { with.certificates(t, &g, clients, own, another, tokens) })
	}
	for _, g := range gateways {
		if strings.HasPrefix(g.kind, "nginx") {
			continue // nginx.conf is for an authorizer without client_certificates
		}
		t.Run(g.name, func(t *testing.T) {
			address := g.start(t, s, g.require(t))
			for role, token := range tokens {
				for _, header := range []string{
					"X-Original-Cert: " + escaped(own), certificateHeader + ": " + inBase64(own), "Client-Cert: :" + inBase64(own) + ":", "X-Client-Cert: " + escaped(own),
				} {
					if status, _, err := send(address, "GET", "/orders", bearer(token), header); err != nil || status != 401 {
						t.Errorf("%s with %.20s: %d, %v", role, header, status, err)
					}
				}
			}
		})
	}
	log, err := os.ReadFile(with.authzLog)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(log); strings.Contains(text, inBase64(own)[:40]) || strings.Contains(text, "apt_") || strings.Contains(text, "eyJ") {
		t.Error("a certificate or a token is in the authorizer's log")
	}
}

// tlsFiles writes the files that the configurations of gateways name, and returns the certificate of the gateway.
func tlsFiles(t *testing.T, dir string, clients *authority) *tls.Certificate {
	t.Helper()
	server := newAuthority(t).issue(t)
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"orders.pem": inPEM("CERTIFICATE", server.Leaf.Raw), "orders.key": inPEM("PRIVATE KEY", key), "clients-ca.pem": inPEM("CERTIFICATE", clients.cert.Raw),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return server
}

// asker returns a function that asks a gateway by TLS, with a certificate of the client or without.
func asker(server *tls.Certificate) func(address, target string, certificate *tls.Certificate, header ...string) (int, error) {
	roots := x509.NewCertPool()
	roots.AddCert(server.Leaf)
	return func(address, target string, certificate *tls.Certificate, header ...string) (int, error) {
		conf := &tls.Config{ServerName: "orders.example.com", RootCAs: roots, MinVersion: tls.VersionTLS12}
		if certificate != nil {
			// Sent whatever authorities the server names.
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
		}
		conn, err := tls.Dial("tcp", address, conf)
		if err != nil {
			return 0, err
		}
		status, _, err := exchange(conn, "GET", target, header)
		return status, err
	}
}

func (s *shop) certificates(t *testing.T, g *certified, clients *authority, own, another *tls.Certificate, tokens map[string]string) {
	binary := g.require(t)
	dir := t.TempDir()
	ask := asker(tlsFiles(t, dir, clients))
	address := g.startWith(t, s, binary, dir, func(address string) (int, error) { return ask(address, "/status", nil) })
	plain, _ := s.token(t, "reader")
	far, _ := s.token(t, "far")
	for role, token := range tokens {
		spoofed := g.header + ": " + g.encode(own)
		value := spoofed[len(g.header):]
		for _, c := range []struct {
			name        string
			status      int
			certificate *tls.Certificate
			header      []string
		}{
			{"the certificate", 200, own, []string{bearer(token)}},
			{"the certificate, and another in a header", 200, own, []string{bearer(token), g.header + ": " + g.encode(another)}},
			{"no certificate", 401, nil, []string{bearer(token)}},
			{"another certificate", 401, another, []string{bearer(token)}},
			{"no certificate, but a header", 401, nil, []string{bearer(token), spoofed}},
			{"no certificate, but a header twice", 401, nil, []string{bearer(token), spoofed, spoofed}},
			{"no certificate, but a header in small letters", 401, nil, []string{bearer(token), strings.ToLower(g.header) + value}},
			{"no certificate, but a header with underscores", 401, nil, []string{bearer(token), strings.ReplaceAll(g.header, "-", "_") + value}},
			{"another certificate, and a header", 401, another, []string{bearer(token), spoofed}},
			{"an unbound token without a certificate", 200, nil, []string{bearer(plain)}},
			{"an unbound token with a certificate", 200, another, []string{bearer(plain)}},
			// The client says that it asks for something else, or from elsewhere.
			{"X-Forwarded-Uri", 401, nil, []string{"X-Forwarded-Uri: /status"}},
			{"X-Forwarded-Uri with underscores", 401, nil, []string{"X_Forwarded_Uri: /status"}},
			{"X-Original-URI", 401, nil, []string{"X-Original-URI: /status"}},
			{"X-Forwarded-For", 403, nil, []string{bearer(far), "X-Forwarded-For: 192.0.2.1"}},
			{"X-Forwarded-Host", 200, nil, []string{bearer(plain), "X-Forwarded-Host: other.example.com"}},
		} {
			if status, err := ask(address, "/orders", c.certificate, c.header...); err != nil || status != c.status {
				t.Errorf("%s, %s: %d, %v, want %d", role, c.name, status, err, c.status)
			}
		}
		status, err := ask(address, "/orders", newAuthority(t).issue(t), bearer(token))
		if g.closes && err == nil || !g.closes && (err != nil || status != 400) {
			t.Errorf("%s, a certificate of another authority: %d, %v", role, status, err)
		}
	}
	s.dpopOverTLS(t, func(header ...string) (int, error) { return ask(address, "/orders", nil, header...) })
}

// dpopOverTLS checks that a proof by DPoP is for the URL with https, which the client asked for.
func (s *shop) dpopOverTLS(t *testing.T, ask func(header ...string) (int, error)) {
	t.Helper()
	proofs := newDPoPKey(t)
	s.boundRoles(t, "dpop")
	token := s.write(t, "apitoken/creds/dpop-opaque", map[string]any{"dpop_jkt": proofs.thumbprint(t)}).Data["token"].(string)
	for scheme, want := range map[string]int{"https": 200, "http": 401} {
		for _, said := range []string{"Accept: */*", "X-Forwarded-Proto: http"} {
			status, err := ask("Authorization: DPoP "+token, proofs.proof(t, "GET", scheme+"://orders.example.com/orders", token), said)
			if err != nil || status != want {
				t.Errorf("a proof for %s with %q: %d, %v, want %d", scheme, said, status, err, want)
			}
		}
	}
}
