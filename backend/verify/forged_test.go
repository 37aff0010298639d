package verify_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// watched notes requests to hosts other than the issuer's.
type watched struct {
	http.RoundTripper
	strange *[]string
}

func (w watched) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != "vault.test" {
		*w.strange = append(*w.strange, r.URL.String())
	}
	return w.RoundTripper.RoundTrip(r)
}

// forger signs the payload of a good JWT with a key of its own, and with headers of its choice.
type forger struct {
	t       *testing.T
	key     *ecdsa.PrivateKey
	payload []byte
}

func (f *forger) sign(key jose.SigningKey, kid string, header map[jose.HeaderKey]any) string {
	f.t.Helper()
	options := (&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", kid)
	for name, value := range header {
		options = options.WithHeader(name, value)
	}
	signer, err := jose.NewSigner(key, options)
	if err != nil {
		f.t.Fatal(err)
	}
	signed, err := signer.Sign(f.payload)
	if err != nil {
		f.t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

// A JWT is good only with a signature of a key of the mount, whatever its header says (RFC 8725 section 3), and in its time.
func TestForgedJWTs(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		var strange []string
		c.HTTPClient = &http.Client{Transport: watched{c.HTTPClient.Transport, &strange}}
		v := start(t, c)
		good := i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		expect(t, v, good, nil, access.Good)
		part := strings.Split(good, ".")
		decoded, _ := base64.RawURLEncoding.DecodeString(part[0])
		var header struct{ Kid string }
		if err := json.Unmarshal(decoded, &header); err != nil || header.Kid == "" {
			t.Fatal(err)
		}
		f := &forger{t: t}
		f.payload, _ = base64.RawURLEncoding.DecodeString(part[1])
		f.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		own := jose.SigningKey{Algorithm: jose.ES256, Key: f.key}
		public, err := x509.MarshalPKIXPublicKey(i.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		head := func(text string) string {
			return base64.RawURLEncoding.EncodeToString([]byte(strings.ReplaceAll(text, "KID", header.Kid)))
		}
		for _, c := range []struct {
			name string
			text string
			want access.Reason
		}{
			{"another key under the name of a key", f.sign(own, header.Kid, nil), access.Unknown},
			{"another key", f.sign(own, "other", nil), access.WrongEnvironment},
			{"jwk", f.sign(own, header.Kid, map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: f.key.Public()}}), access.Unknown},
			{"jku", f.sign(own, "other", map[jose.HeaderKey]any{"jku": "http://evil.test/jwks"}), access.WrongEnvironment},
			{"x5u", f.sign(own, header.Kid, map[jose.HeaderKey]any{"x5u": "http://evil.test/cert.pem"}), access.Unknown},
			{"HMAC with the public key", f.sign(jose.SigningKey{Algorithm: jose.HS256, Key: public}, header.Kid, nil), access.Unknown},
			{"none", head(`{"alg":"none","typ":"at+jwt","kid":"KID"}`) + "." + part[1] + ".", access.Unknown},
			{"another algorithm", head(`{"alg":"EdDSA","typ":"at+jwt","kid":"KID"}`) + "." + part[1] + "." + part[2], access.Unknown},
			{"another header", head(`{"alg":"ES256","typ":"at+jwt","kid":"KID","x":1}`) + "." + part[1] + "." + part[2], access.Unknown},
			{"an ID token", head(`{"alg":"ES256","typ":"JWT","kid":"KID"}`) + "." + part[1] + "." + part[2], access.Malformed},
			{"no typ", head(`{"alg":"ES256","kid":"KID"}`) + "." + part[1] + "." + part[2], access.Malformed},
			{"a critical header", head(`{"alg":"ES256","typ":"at+jwt","kid":"KID","crit":["x"]}`) + "." + part[1] + "." + part[2], access.Malformed},
			{"another payload", part[0] + "." + head(`{"scope":"*"}`) + "." + part[2], access.Unknown},
		} {
			if d := expect(t, v, c.text, nil, c.want); d.TokenID != "" {
				t.Errorf("%s: the decision names token %s", c.name, d.TokenID)
			}
		}
		if len(strange) > 0 {
			t.Errorf("the verifier asked %q", strange)
		}

		early := i.Config()
		early.Now = func() time.Time { return time.Now().Add(-time.Minute) }
		expect(t, start(t, early), good, nil, access.Unknown) // nbf is in the future, by more than the clock skew
		time.Sleep(time.Hour - time.Second)
		expect(t, v, good, nil, access.Good)
		time.Sleep(time.Second)
		expect(t, v, good, nil, access.Expired)
		synctest.Wait()
	})
}
