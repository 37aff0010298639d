package acceptance

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
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

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// dpopKey is the key of a client (RFC 9449).
type dpopKey struct{ *ecdsa.PrivateKey }

func newDPoPKey(t *testing.T) dpopKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return dpopKey{key}
}

func (k dpopKey) thumbprint(t *testing.T) string {
	t.Helper()
	sum, err := (&jose.JSONWebKey{Key: k.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

// proof returns a DPoP header for one request with a token.
func (k dpopKey) proof(t *testing.T, method, url, token string) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: k.PrivateKey}, (&jose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt"))
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256([]byte(token))
	text, err := jwt.Signed(signer).Claims(map[string]any{
		"jti": rand.Text(), "htm": method, "htu": url, "iat": time.Now().Unix(), "ath": base64.RawURLEncoding.EncodeToString(hash[:]),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return "DPoP: " + text
}

// boundRoles are the roles of tokens that are bound to a key, by the proof.
func (s *shop) boundRoles(t *testing.T, proof string) []string {
	t.Helper()
	for _, format := range []string{"opaque", "jwt"} {
		s.write(t, "apitoken/roles/"+proof+"-"+format, map[string]any{
			"scopes": "orders:read", "audience": "https://orders.example.com", "ttl": "1h", "proof": proof, "token_format": format,
		})
	}
	return []string{proof + "-opaque", proof + "-jwt"}
}

// TestGatewayDPoP sends tokens that are bound to a key through every gateway. The URL of a proof is the one that the client
// asks for, whatever the gateway asks the authorizer for, and whatever the client says in headers.
func TestGatewayDPoP(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	roles := s.boundRoles(t, "dpop")
	for _, g := range gateways {
		t.Run(g.name, func(t *testing.T) {
			address := g.start(t, s, g.require(t))
			for _, role := range roles {
				t.Run(role, func(t *testing.T) { s.dpop(t, address, role) })
			}
		})
	}
}

func (s *shop) dpop(t *testing.T, address, role string) {
	const outside = "http://orders.example.com/orders"
	key, other := newDPoPKey(t), newDPoPKey(t)
	token := s.write(t, "apitoken/creds/"+role, map[string]any{"dpop_jkt": key.thumbprint(t)}).Data["token"].(string)
	second := s.write(t, "apitoken/creds/"+role, map[string]any{"dpop_jkt": key.thumbprint(t)}).Data["token"].(string)
	used := key.proof(t, "GET", outside, token)
	dpop := "Authorization: DPoP " + token
	for _, c := range []struct {
		name   string
		status int
		target string
		header []string
	}{
		{"a proof for the URL outside", 200, "/orders", []string{dpop, used}},
		{"a query is no part of the proof", 200, "/orders?page=2", []string{dpop, key.proof(t, "GET", outside, token)}},
		{"the proof again", 401, "/orders", []string{dpop, used}},
		{"no proof", 401, "/orders", []string{dpop}},
		{"Bearer", 401, "/orders", []string{bearer(token)}},
		{"Bearer with a proof", 401, "/orders", []string{bearer(token), key.proof(t, "GET", outside, token)}},
		{"another key", 401, "/orders", []string{dpop, other.proof(t, "GET", outside, token)}},
		{"another token", 401, "/orders", []string{dpop, key.proof(t, "GET", outside, second)}},
		{"another method", 401, "/orders", []string{dpop, key.proof(t, "POST", outside, token)}},
		{"another path", 401, "/orders/7", []string{dpop, key.proof(t, "GET", outside, token)}},
		{"https", 401, "/orders", []string{dpop, key.proof(t, "GET", "https://orders.example.com/orders", token)}},
		{"the authorizer's URL", 401, "/orders", []string{dpop, key.proof(t, "GET", "http://"+s.authz+"/orders", token)}},
		{"the authorizer's URL for nginx", 401, "/orders", []string{dpop, key.proof(t, "GET", "http://"+s.authz+"/nginx/orders", token)}},
		{"the URL of the API", 401, "/orders", []string{dpop, key.proof(t, "GET", s.api.URL+"/orders", token)}},
		{"X-Forwarded-Host", 401, "/orders", []string{dpop, "X-Forwarded-Host: other.example.com", key.proof(t, "GET", "http://other.example.com/orders", token)}},
		{"X-Original-Host", 401, "/orders", []string{dpop, "X-Original-Host: other.example.com", key.proof(t, "GET", "http://other.example.com/orders", token)}},
		{"X-Forwarded-Proto", 401, "/orders", []string{dpop, "X-Forwarded-Proto: https", key.proof(t, "GET", "https://orders.example.com/orders", token)}},
		{"X-Original-Proto", 401, "/orders", []string{dpop, "X-Original-Proto: https", key.proof(t, "GET", "https://orders.example.com/orders", token)}},
		{"X-Forwarded-Uri", 401, "/orders", []string{dpop, "X-Forwarded-Uri: /orders/7", key.proof(t, "GET", outside+"/7", token)}},
		{"X-Forwarded-Host and the true URL", 200, "/orders", []string{dpop, "X-Forwarded-Host: other.example.com", key.proof(t, "GET", outside, token)}},
		{"two proofs", 401, "/orders", []string{dpop, key.proof(t, "GET", outside, token), key.proof(t, "GET", outside, token)}},
	} {
		status, seen, err := send(address, "GET", c.target, c.header...)
		if err != nil || status != c.status {
			t.Errorf("%s: %d, %v, want %d", c.name, status, err, c.status)
		}
		if challenge := seen.Get("WWW-Authenticate"); status == 401 && !strings.Contains(challenge, "DPoP") {
			t.Errorf("%s: challenge %q", c.name, challenge)
		}
	}
}

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

// TestGatewayCertificates sends tokens that are bound to a certificate through gateways. nginx passes the certificate of the
// connection on, and no header of the client counts. Other gateways pass no certificate on, and the tokens are refused.
func TestGatewayCertificates(t *testing.T) {
	t.Parallel()
	s := newShop(t, "client_certificates: true")
	roles := s.boundRoles(t, "mtls")
	clients := newAuthority(t)
	own, another := clients.issue(t), clients.issue(t)
	sum := sha256.Sum256(own.Leaf.Raw)
	bound := map[string]any{"x5t_s256": base64.RawURLEncoding.EncodeToString(sum[:])}
	tokens := map[string]string{}
	for _, role := range roles {
		tokens[role] = s.write(t, "apitoken/creds/"+role, bound).Data["token"].(string)
	}
	t.Run("nginx", func(t *testing.T) {
		g := gateway{"nginx with certificates", "nginx", "nginx", []string{"nginx-certificates.conf"}, nginx("nginx-certificates.conf"), 200}
		s.certificates(t, &g, clients, own, another, tokens)
	})
	for _, g := range gateways {
		if strings.HasPrefix(g.kind, "nginx") {
			continue // nginx.conf is for an authorizer without client_certificates
		}
		t.Run(g.name, func(t *testing.T) {
			address := g.start(t, s, g.require(t))
			der := base64.StdEncoding.EncodeToString(own.Leaf.Raw)
			for role, token := range tokens {
				for _, header := range []string{
					"X-Original-Cert: " + escaped(own), "X-Forwarded-Tls-Client-Cert: " + der, "Client-Cert: :" + der + ":", "X-Client-Cert: " + escaped(own),
				} {
					if status, _, err := send(address, "GET", "/orders", bearer(token), header); err != nil || status != 401 {
						t.Errorf("%s with %.20s: %d, %v", role, header, status, err)
					}
				}
			}
		})
	}
}

func (s *shop) certificates(t *testing.T, g *gateway, clients *authority, own, another *tls.Certificate, tokens map[string]string) {
	binary := g.require(t)
	dir := t.TempDir()
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
	ask := func(address, target string, certificate *tls.Certificate, header ...string) (int, error) {
		roots := x509.NewCertPool()
		roots.AddCert(server.Leaf)
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
	address := g.startWith(t, s, binary, dir, func(address string) (int, error) { return ask(address, "/status", nil) })
	plain, _ := s.token(t, "reader")
	for role, token := range tokens {
		spoofed := "X-Original-Cert: " + escaped(own)
		for _, c := range []struct {
			name        string
			status      int
			certificate *tls.Certificate
			header      []string
		}{
			{"the certificate", 200, own, []string{bearer(token)}},
			{"the certificate, and another in a header", 200, own, []string{bearer(token), "X-Original-Cert: " + escaped(another)}},
			{"no certificate", 401, nil, []string{bearer(token)}},
			{"another certificate", 401, another, []string{bearer(token)}},
			{"a certificate of another authority", 400, newAuthority(t).issue(t), []string{bearer(token)}},
			{"no certificate, but a header", 401, nil, []string{bearer(token), spoofed}},
			{"no certificate, but a header in small letters", 401, nil, []string{bearer(token), strings.ToLower(spoofed[:15]) + spoofed[15:]}},
			{"no certificate, but a header with underscores", 401, nil, []string{bearer(token), "X_Original_Cert" + spoofed[15:]}},
			{"another certificate, and a header", 401, another, []string{bearer(token), spoofed}},
			{"an unbound token without a certificate", 200, nil, []string{bearer(plain)}},
			{"an unbound token with a certificate", 200, another, []string{bearer(plain)}},
		} {
			if status, err := ask(address, "/orders", c.certificate, c.header...); err != nil || status != c.status {
				t.Errorf("%s, %s: %d, %v, want %d", role, c.name, status, err, c.status)
			}
		}
	}
	// A proof by DPoP is for the URL with https, which the client asked for.
	proofs := newDPoPKey(t)
	s.boundRoles(t, "dpop")
	token := s.write(t, "apitoken/creds/dpop-opaque", map[string]any{"dpop_jkt": proofs.thumbprint(t)}).Data["token"].(string)
	for scheme, want := range map[string]int{"https": 200, "http": 401} {
		status, err := ask(address, "/orders", nil, "Authorization: DPoP "+token, proofs.proof(t, "GET", scheme+"://orders.example.com/orders", token))
		if err != nil || status != want {
			t.Errorf("a proof for %s: %d, %v, want %d", scheme, status, err, want)
		}
	}
}
