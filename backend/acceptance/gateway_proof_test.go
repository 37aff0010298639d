package acceptance

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
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
