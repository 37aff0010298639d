// Package bench measures how long the same JWT takes in package verify and in other libraries. The others check signature,
// issuer, audience and times; verify also checks the status list, events, scopes and bounds.
//
//	cd backend/verify/bench && go test -bench . -benchtime 5000x
package bench

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v3/jwa"
	jwxt "github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

var use = &verify.Use{Scopes: []string{"orders:read"}, Client: netip.MustParseAddr("10.1.2.3"), Host: "api.example.com"}

var spec = verifytest.Token{
	Role: "reader", Scopes: []string{"orders:*"}, Subject: "c0ffee00-1111-2222-3333-444455556666", CIDRs: []string{"10.0.0.0/8"},
	Hosts: []string{"api.example.com"},
}

func BenchmarkVerify(b *testing.B) {
	i := verifytest.New(b)
	c := i.Config()
	c.Logger = slog.New(slog.DiscardHandler)
	v, err := verify.New(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	key := i.PublicKey().(*ecdsa.PublicKey)
	byOIDC := oidc.NewVerifier(i.URL, &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{key}}, &oidc.Config{ClientID: verifytest.Audience, SupportedSigningAlgs: []string{"ES256"}})
	byGolangJWT := jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(i.URL), jwt.WithAudience(verifytest.Audience), jwt.WithExpirationRequired())
	ways := []struct {
		name  string
		check func(string) bool
		took  []time.Duration
	}{
		{"signature", func(text string) bool {
			dot := strings.LastIndexByte(text, '.')
			sum := sha256.Sum256([]byte(text[:dot]))
			sig, _ := base64.RawURLEncoding.DecodeString(text[dot+1:])
			return ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
		}, nil},
		{"new", func(text string) bool {
			d, err := v.Check(context.Background(), text, use)
			return err == nil && d.Allowed
		}, nil},
		{"golang-jwt", func(text string) bool {
			_, err := byGolangJWT.Parse(text, func(*jwt.Token) (any, error) { return key, nil })
			return err == nil
		}, nil},
		{"go-oidc", func(text string) bool {
			_, err := byOIDC.Verify(context.Background(), text)
			return err == nil
		}, nil},
		{"jwx", func(text string) bool {
			_, err := jwxt.Parse([]byte(text), jwxt.WithKey(jwa.ES256(), key), jwxt.WithIssuer(i.URL), jwxt.WithAudience(verifytest.Audience))
			return err == nil
		}, nil},
		{"seen", func(text string) bool {
			d, err := v.Check(context.Background(), text, use)
			return err == nil && d.Allowed
		}, nil},
	}
	for turn := 0; b.Loop(); turn++ {
		text := i.JWT(b, spec)
		for n := range len(ways) + 1 { // each way begins in turn, and seen comes last
			w := &ways[len(ways)-1]
			if n < len(ways) {
				w = &ways[(n+turn)%len(ways)]
			}
			if (w.name == "seen") != (n == len(ways)) {
				continue
			}
			began := time.Now()
			good := w.check(text)
			w.took = append(w.took, time.Since(began))
			if !good {
				b.Fatalf("%s refuses a good token", w.name)
			}
		}
	}
	for _, w := range ways {
		slices.Sort(w.took)
		b.ReportMetric(float64(w.took[len(w.took)/2]), "ns/"+w.name)
	}
}
