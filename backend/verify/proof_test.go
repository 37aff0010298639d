package verify_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// prover makes DPoP proofs.
type prover struct {
	t         *testing.T
	key       any
	public    any
	algorithm jose.SignatureAlgorithm
	n         int
}

func newProver(t *testing.T) *prover {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &prover{t: t, key: key, public: key.Public(), algorithm: jose.ES256}
}

func (p *prover) jkt() string {
	sum, err := (&jose.JSONWebKey{Key: p.public}).Thumbprint(crypto.SHA256)
	if err != nil {
		p.t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

// proof returns a proof for GET https://api.test/orders with a token, with changes of its payload and header.
func (p *prover) proof(text string, payload, header map[string]any) string {
	p.t.Helper()
	p.n++
	sum := sha256.Sum256([]byte(text))
	body := map[string]any{
		"jti": fmt.Sprint("proof-", p.n), "htm": "GET", "htu": "https://api.test/orders", "iat": time.Now().Unix(),
		"ath": base64.RawURLEncoding.EncodeToString(sum[:]),
	}
	for k, v := range payload {
		body[k] = v
	}
	options := (&jose.SignerOptions{}).WithType("dpop+jwt").WithHeader("jwk", jose.JSONWebKey{Key: p.public})
	for k, v := range header {
		options.WithHeader(jose.HeaderKey(k), v)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: p.algorithm, Key: p.key}, options)
	if err != nil {
		p.t.Fatal(err)
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	signed, err := signer.Sign(encoded)
	if err != nil {
		p.t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		p.t.Fatal(err)
	}
	return compact
}

func withProof(proofs ...string) *verify.Use {
	return &verify.Use{Method: "GET", URL: "https://API.test:443/orders?page=2#top", Scheme: "dpop", Proofs: proofs}
}

func TestDPoP(t *testing.T) {
	each(t, func(t *testing.T, i *verifytest.Issuer, issue func(verifytest.Token) string) {
		v := start(t, i.Config())
		p, other := newProver(t), newProver(t)
		text := issue(verifytest.Token{Scopes: []string{"a"}, JKT: p.jkt()})
		free := issue(verifytest.Token{Scopes: []string{"a"}})
		now := time.Now().Unix()
		is := func(k string, value any) map[string]any { return map[string]any{k: value} }
		for _, c := range []struct {
			name string
			text string
			use  *verify.Use
			want access.Reason
		}{
			{"good", text, withProof(p.proof(text, nil, nil)), access.Good},
			{"bound token as Bearer", text, &verify.Use{Scheme: "Bearer", Method: "GET", URL: "https://api.test/orders", Proofs: []string{p.proof(text, nil, nil)}}, verify.ProofRequired},
			{"bound token, no scheme", text, nil, verify.ProofRequired},
			{"unbound token as DPoP", free, withProof(p.proof(free, nil, nil)), verify.ProofInvalid},
			{"unbound token as Bearer with a proof", free, &verify.Use{Scheme: "BEARER", Proofs: []string{"x"}}, access.Good},
			{"another scheme", free, &verify.Use{Scheme: "Basic"}, verify.ProofInvalid},
			{"no proof", text, withProof(), verify.ProofRequired},
			{"two proofs", text, withProof(p.proof(text, nil, nil), p.proof(text, nil, nil)), verify.ProofInvalid},
			{"noise", text, withProof("a.b.c"), verify.ProofInvalid},
			{"another key", text, withProof(other.proof(text, nil, nil)), verify.ProofInvalid},
			{"another token", text, withProof(p.proof(free, nil, nil)), verify.ProofInvalid},
			{"no ath", text, withProof(p.proof(text, is("ath", ""), nil)), verify.ProofInvalid},
			{"no jti", text, withProof(p.proof(text, is("jti", ""), nil)), verify.ProofInvalid},
			{"another method", text, withProof(p.proof(text, is("htm", "POST"), nil)), verify.ProofInvalid},
			{"another method in lower case", text, withProof(p.proof(text, is("htm", "get"), nil)), verify.ProofInvalid},
			{"another path", text, withProof(p.proof(text, is("htu", "https://api.test/users"), nil)), verify.ProofInvalid},
			{"another host", text, withProof(p.proof(text, is("htu", "https://api.test.evil/orders"), nil)), verify.ProofInvalid},
			{"another scheme in the URL", text, withProof(p.proof(text, is("htu", "http://api.test/orders"), nil)), verify.ProofInvalid},
			{"another port", text, withProof(p.proof(text, is("htu", "https://api.test:8443/orders"), nil)), verify.ProofInvalid},
			{"URL with a query", text, withProof(p.proof(text, is("htu", "https://api.test/orders?page=9"), nil)), access.Good},
			{"old", text, withProof(p.proof(text, is("iat", now-91), nil)), verify.ProofInvalid},
			{"old within the skew", text, withProof(p.proof(text, is("iat", now-90), nil)), access.Good},
			{"future", text, withProof(p.proof(text, is("iat", now+31), nil)), verify.ProofInvalid},
			{"future within the skew", text, withProof(p.proof(text, is("iat", now+30), nil)), access.Good},
			{"typ", text, withProof(p.proof(text, nil, is("typ", "JWT"))), verify.ProofInvalid},
			{"crit", text, withProof(p.proof(text, nil, is("crit", []string{"exp"}))), verify.ProofInvalid},
			{"private key in the header", text, withProof(p.proof(text, nil, is("jwk", jose.JSONWebKey{Key: p.key}))), verify.ProofInvalid},
			{"another key in the header", text, withProof(p.proof(text, nil, is("jwk", jose.JSONWebKey{Key: other.public}))), verify.ProofInvalid},
			{"no key in the header", text, withProof(p.proof(text, nil, is("jwk", nil))), verify.ProofInvalid},
		} {
			d, err := v.Check(t.Context(), c.text, c.use)
			if err != nil || d.Reason != c.want {
				t.Errorf("%s: %q (%s), %v, want %q", c.name, d.Reason, d.Detail, err, c.want)
			}
		}
	})
}

// A proof with a symmetric algorithm, or with an RSA key that is short or costs much, is refused.
func TestProofKeys(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		secret := []byte("0123456789abcdef0123456789abcdef")
		symmetric := &prover{t: t, key: secret, public: newProver(t).public, algorithm: jose.HS256}
		text := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}, JKT: symmetric.jkt()})
		expect(t, v, text, withProof(symmetric.proof(text, nil, nil)), verify.ProofInvalid)
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		good := &prover{t: t, key: key, public: key.Public(), algorithm: jose.PS256}
		text = i.Opaque(t, verifytest.Token{Scopes: []string{"a"}, JKT: good.jkt()})
		expect(t, v, text, withProof(good.proof(text, nil, nil)), access.Good)
		huge := rsa.PublicKey{N: key.N.Lsh(key.N, 4096), E: 65537}
		text = i.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
		good.public = &huge
		expect(t, v, i.Opaque(t, verifytest.Token{Scopes: []string{"a"}, JKT: good.jkt()}), withProof(good.proof(text, nil, nil)), verify.ProofInvalid)
	})
}

// A proof is good once, for as long as any clock could take it for fresh.
func TestReplay(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		c.DPoP.MaxProofs = 20
		v := start(t, c)
		p := newProver(t)
		text := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}, JKT: p.jkt()})
		ahead := p.proof(text, map[string]any{"iat": time.Now().Unix() + 30}, nil) // of a clock that is fast
		expect(t, v, text, withProof(ahead), access.Good)
		for range 60 {
			expect(t, v, text, withProof(ahead), verify.ProofReplayed)
			time.Sleep(2 * time.Second)
		}
		time.Sleep(time.Second)
		expect(t, v, text, withProof(ahead), verify.ProofInvalid) // too old by now
		same := p.proof(text, map[string]any{"jti": "chosen"}, nil)
		expect(t, v, text, withProof(same), access.Good)
		expect(t, v, text, withProof(p.proof(text, map[string]any{"jti": "chosen"}, nil)), verify.ProofReplayed)
		q := newProver(t) // another key may use the same jti
		second := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}, JKT: q.jkt()})
		expect(t, v, second, withProof(q.proof(second, map[string]any{"jti": "chosen"}, nil)), access.Good)
		for range 17 { // two generations have one, two and these
			expect(t, v, text, withProof(p.proof(text, nil, nil)), access.Good)
		}
		expect(t, v, text, withProof(p.proof(text, nil, nil)), "error") // no room to remember the proof
		time.Sleep(5 * time.Minute)
		expect(t, v, text, withProof(p.proof(text, nil, nil)), access.Good)
	})
}

// Replicas with the same key accept each other's nonces, for two to four minutes.
func TestNonce(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		c.DPoP.NonceKey = []byte("0123456789abcdef0123456789abcdef")
		one, two := start(t, c), start(t, c)
		p := newProver(t)
		text := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}, JKT: p.jkt()})
		d := expect(t, one, text, withProof(p.proof(text, nil, nil)), verify.NonceRequired)
		if d.Nonce == "" {
			t.Fatal("no nonce in the answer")
		}
		nonce := map[string]any{"nonce": d.Nonce}
		if d := expect(t, two, text, withProof(p.proof(text, nonce, nil)), access.Good); d.Nonce == "" {
			t.Error("no nonce in the answer to a good proof")
		}
		time.Sleep(2 * time.Minute)
		expect(t, one, text, withProof(p.proof(text, nonce, nil)), access.Good)
		time.Sleep(2 * time.Minute)
		expect(t, one, text, withProof(p.proof(text, nonce, nil)), verify.NonceRequired)
		expect(t, one, text, withProof(p.proof(text, map[string]any{"nonce": "guess"}, nil)), verify.NonceRequired)
	})
}

func TestMTLS(t *testing.T) {
	each(t, func(t *testing.T, i *verifytest.Issuer, issue func(verifytest.Token) string) {
		v := start(t, i.Config())
		mine, other := &x509.Certificate{Raw: []byte("certificate")}, &x509.Certificate{Raw: []byte("another")}
		sum := sha256.Sum256(mine.Raw)
		text := issue(verifytest.Token{Scopes: []string{"a"}, X5T: base64.RawURLEncoding.EncodeToString(sum[:])})
		for range 2 {
			expect(t, v, text, &verify.Use{Certificate: mine}, access.Good)
			expect(t, v, text, &verify.Use{Certificate: other}, verify.ProofInvalid)
			expect(t, v, text, nil, verify.ProofRequired)
			expect(t, v, text, &verify.Use{Certificate: mine, Scheme: "DPoP"}, verify.ProofInvalid)
		}
	})
}

func thumbprintOf(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
