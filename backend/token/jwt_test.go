package token

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func testSigningRing(t testing.TB, algorithm string) *SigningRing {
	t.Helper()
	keys := make([]Key, 2)
	for i := range keys {
		var err error
		if keys[i], err = NewSigningKey(algorithm, issued); err != nil {
			t.Fatal(err)
		}
	}
	keys[0].UsedFrom = issued
	return NewSigningRing(keys)
}

func jwtClaims() *Claims {
	c := fullClaims()
	c.Confirmation = Confirmation{JKT: "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}
	c.Status = StatusRef{List: 3, Index: 77}
	return c
}

func testPayload(t testing.TB, claims *Claims, statusURI string) *JWT {
	t.Helper()
	payload, err := NewJWT(claims, "https://vault.example.com/v1/apitoken", "production", "reader", statusURI)
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

func TestJWT(t *testing.T) {
	for _, algorithm := range Algorithms {
		ring := testSigningRing(t, algorithm)
		claims := jwtClaims()
		text, err := MintJWT(ring, testPayload(t, claims, "https://vault.example.com/v1/apitoken/oauth/status/3"))
		if err != nil {
			t.Fatal(err)
		}
		opened, err := OpenJWT(ring, text)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(opened, claims) {
			t.Errorf("%s: opened %+v\nwant %+v", algorithm, opened, claims)
		}

		header, payload := parts(t, text)
		if header["typ"] != "at+jwt" || header["alg"] != algorithm || header["kid"] != ring.Current().Name {
			t.Errorf("header %v", header)
		}
		for _, name := range []string{"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "client_id", "scope", "env", "cnf", "status", EngineClaim} {
			if _, there := payload[name]; !there {
				t.Errorf("%s is missing", name)
			}
		}
		if n := len(payload); n != 13 {
			t.Errorf("%d claims: %v", n, payload)
		}
	}
}

func TestJWTWithoutEntity(t *testing.T) {
	ring := testSigningRing(t, "EdDSA")
	claims := jwtClaims()
	claims.Subject, claims.Status, claims.Confirmation = "", StatusRef{}, Confirmation{}
	text, err := MintJWT(ring, testPayload(t, claims, ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, payload := parts(t, text); payload["sub"] != "role:reader" || payload["status"] != nil || payload["cnf"] != nil {
		t.Errorf("%v", payload)
	}
	if opened, err := OpenJWT(ring, text); err != nil || opened.Subject != "" || !opened.Status.IsZero() {
		t.Errorf("%+v, %v", opened, err)
	}
}

func parts(t testing.TB, text string) (header, payload map[string]any) {
	t.Helper()
	split := strings.Split(text, ".")
	for i, into := range []*map[string]any{&header, &payload} {
		b, err := base64.RawURLEncoding.DecodeString(split[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, into); err != nil {
			t.Fatal(err)
		}
	}
	return header, payload
}

// The attacks of RFC 8725 and their kin.
func TestOpenJWTRefuses(t *testing.T) {
	ring, other := testSigningRing(t, "ES256"), testSigningRing(t, "ES256")
	payload := testPayload(t, jwtClaims(), "")
	good, err := MintJWT(ring, payload)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := MintJWT(other, payload)
	if err != nil {
		t.Fatal(err)
	}
	list, err := ring.Sign(TypeStatusList, []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	noClaims, err := ring.Sign(TypeAccessToken, []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	p := strings.Split(good, ".")
	body, _ := base64.RawURLEncoding.DecodeString(p[1])
	b64 := base64.RawURLEncoding.EncodeToString
	kid := ring.Current().Name
	header := func(format string, args ...any) string { return b64(fmt.Appendf(nil, format, args...)) }

	public, err := x509.MarshalPKIXPublicKey(ring.public[kid].Key)
	if err != nil {
		t.Fatal(err)
	}
	hmacSigner, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: public, KeyID: kid}}, (&jose.SignerOptions{}).WithType(TypeAccessToken))
	if err != nil {
		t.Fatal(err)
	}
	confused, _ := hmacSigner.Sign(body)
	confusedText, _ := confused.CompactSerialize()
	rsaRing := testSigningRing(t, "RS256")
	rsaKey, _ := x509.ParsePKCS8PrivateKey(rsaRing.Current().Secret)
	otherAlg, _ := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: rsaKey, KeyID: kid}}, (&jose.SignerOptions{EmbedJWK: false}).WithType(TypeAccessToken))
	wrongAlg, _ := otherAlg.Sign(body)
	wrongAlgText, _ := wrongAlg.CompactSerialize()
	duplicate, err := ring.Sign(TypeAccessToken, bytes.Replace(body, []byte(`{"iss"`), []byte(`{"scope":"*","iss"`), 1))
	if err != nil {
		t.Fatal(err)
	}
	without := func(f func(*Key)) *SigningRing {
		keys := slices.Clone(ring.Keys)
		f(&keys[0])
		return NewSigningRing(keys)
	}

	for name, c := range map[string]struct {
		ring  *SigningRing
		token string
		want  error
	}{
		"good":                     {ring, good, nil},
		"another mount's":          {ring, foreign, ErrUnknownKey},
		"an expired key":           {without(func(k *Key) { k.Secret = nil }), good, ErrExpiredKey},
		"a destroyed key":          {without(func(k *Key) { k.Secret, k.Destroyed = nil, true }), good, ErrDestroyedKey},
		"a damaged key":            {without(func(k *Key) { k.Secret = []byte("x") }), good, ErrBrokenKey},
		"another key of that name": {without(func(k *Key) { k.Secret = other.Current().Secret }), good, ErrBrokenKey},
		"alg none":                 {ring, header(`{"alg":"none","typ":"at+jwt","kid":%q}`, kid) + "." + p[1] + ".", ErrMalformed},
		"alg none, signed":         {ring, header(`{"alg":"none","typ":"at+jwt","kid":%q}`, kid) + "." + p[1] + "." + p[2], ErrMalformed},
		"HMAC with the public key": {ring, confusedText, ErrMalformed},
		"another algorithm":        {ring, wrongAlgText, ErrForged},
		"a kid that is a path":     {ring, header(`{"alg":"ES256","typ":"at+jwt","kid":"../../keys"}`) + "." + p[1] + "." + p[2], ErrUnknownKey},
		"a kid that is no text":    {ring, header(`{"alg":"ES256","typ":"at+jwt","kid":{"a":1}}`) + "." + p[1] + "." + p[2], ErrMalformed},
		"no kid":                   {ring, header(`{"alg":"ES256","typ":"at+jwt"}`) + "." + p[1] + "." + p[2], ErrUnknownKey},
		"another typ":              {ring, list, ErrMalformed},
		"an ID token":              {ring, header(`{"alg":"ES256","typ":"JWT","kid":%q}`, kid) + "." + p[1] + "." + p[2], ErrMalformed},
		"a changed payload":        {ring, p[0] + "." + b64(bytes.Replace(body, []byte("reader"), []byte("writer"), 1)) + "." + p[2], ErrForged},
		"a cut signature":          {ring, good[:len(good)-8], ErrForged},
		"no claims":                {ring, noClaims, ErrMalformed},
		"claims given twice":       {ring, duplicate, ErrMalformed},
		"nested":                   {ring, header(`{"alg":"ES256","typ":"at+jwt","cty":"JWT","kid":%q}`, kid) + "." + b64([]byte(good)) + "." + p[2], ErrForged},
		"critical extension":       {ring, header(`{"alg":"ES256","typ":"at+jwt","kid":%q,"crit":["x"],"x":1}`, kid) + "." + p[1] + "." + p[2], ErrForged},
		"too long":                 {ring, p[0] + "." + strings.Repeat("A", MaxLen) + "." + p[2], ErrMalformed},
		"dots":                     {ring, "..", ErrMalformed},
		"JSON":                     {ring, `{"payload":"","signatures":[]}`, ErrMalformed},
	} {
		if _, err := OpenJWT(c.ring, c.token); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestNewSigningRing(t *testing.T) {
	if _, err := NewSigningKey("HS256", issued); err == nil {
		t.Error("a symmetric algorithm is accepted")
	}
	ring := testSigningRing(t, "ES256")
	set, _ := json.Marshal(ring.PublicKeys())
	for _, secret := range []string{`"d"`, `"p"`} {
		if strings.Contains(string(set), secret) {
			t.Errorf("the published keys have %s: %s", secret, set)
		}
	}
	if len(ring.PublicKeys().Keys) != 2 {
		t.Errorf("published %s", set)
	}
	if _, err := new(SigningRing).Sign(TypeAccessToken, nil); err == nil {
		t.Error("an empty ring has signed")
	}
}

// The examples of draft-ietf-oauth-status-list: section 4.1, and the test vector for one bit.
func TestStatusListVectors(t *testing.T) {
	set := []uint32{0, 3, 4, 5, 7, 8, 9, 13, 15}
	list := make([]byte, 2)
	for _, place := range set {
		list[place/8] |= 1 << (place % 8)
	}
	if fmt.Sprintf("%x", list) != "b9a3" {
		t.Errorf("the list is %x", list)
	}
	const lst = "eNrbuRgAAhcBXQ"
	if decoded, err := DecodeStatusList(lst); err != nil || !bytes.Equal(decoded, list) {
		t.Errorf("%q decodes to %x, %v", lst, decoded, err)
	}
	encoded, bits, err := EncodeStatusList(16, set, nil)
	if err != nil || bits != 1 {
		t.Fatal(bits, err)
	}
	if decoded, err := DecodeStatusList(encoded); err != nil || !bytes.Equal(decoded, list) {
		t.Errorf("%q decodes to %x, %v", encoded, decoded, err)
	}

	const million = "eNrt3AENwCAMAEGogklACtKQPg9LugC9k_ACvreiogEAAKkeCQAAAAAAAAAAAAAAAAAAAIBylgQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAXG9IAAAAAAAAAPwsJAAAAAAAAAAAAAAAvhsSAAAAAAAAAAAA7KpLAAAAAAAAAAAAAAAAAAAAAJsLCQAAAAAAAAAAADjelAAAAAAAAAAAKjDMAQAAAACAZC8L2AEb"
	want := make([]byte, 1<<20/8)
	for _, place := range []uint32{0, 1993, 25460, 159495, 495669, 554353, 645645, 723232, 854545, 934534, 1000345} {
		want[place/8] |= 1 << (place % 8)
	}
	if decoded, err := DecodeStatusList(million); err != nil || !bytes.Equal(decoded, want) {
		t.Errorf("the test vector decodes to %d bytes, %v", len(decoded), err)
	}
}

// RFC 7638 section 3.1: the thumbprint that names a key.
func TestThumbprintVector(t *testing.T) {
	var key jose.JSONWebKey
	if err := json.Unmarshal([]byte(`{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`), &key); err != nil {
		t.Fatal(err)
	}
	sum, err := key.Thumbprint(crypto.SHA256)
	if got := base64.RawURLEncoding.EncodeToString(sum); err != nil || got != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Errorf("%s, %v", got, err)
	}
	for s, good := range map[string]bool{
		"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs":  true,
		"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I":  true, // RFC 9449 section 6.1
		"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9X":   false,
		"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs=": false,
		"NzbLsXh8uDCcd+6MNwXF4W/7noWXFZAfHkxZsRGC9Xs":  false,
		"": false,
	} {
		if err := CheckThumbprint(s); (err == nil) != good {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzOpenJWT(f *testing.F) {
	ring := testSigningRing(f, "ES256")
	good, err := MintJWT(ring, testPayload(f, jwtClaims(), ""))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("..")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + ".e30.")
	signature := good[strings.LastIndexByte(good, '.'):]
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := OpenJWT(ring, s); err == nil && !strings.HasPrefix(good, s[:strings.LastIndexByte(s, '.')]) {
			t.Errorf("%q opens", s)
		}
		if _, err := OpenJWT(ring, s+signature); err == nil && s+signature != good {
			t.Errorf("%q opens with a signature that is not its own", s)
		}
	})
}

func BenchmarkMintJWT(b *testing.B) {
	ring := testSigningRing(b, "ES256")
	payload := testPayload(b, jwtClaims(), "https://vault.example.com/v1/apitoken/oauth/status/3")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := MintJWT(ring, payload); err != nil {
			b.Fatal(err)
		}
	}
}
