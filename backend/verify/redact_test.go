package verify_test

import (
	"strings"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

func TestRedact(t *testing.T) {
	i := verifytest.NewAt(t, time.Now)
	opaque, jwt := i.Opaque(t, verifytest.Token{}), i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
	for _, shape := range []string{"T", "/orders/T", "/T/T/x", "/a%3FT", "Bearer%20T", "/a?access_token=T&b=c", "/a=T,T;x", "T%2", "T.example.org", "a.T",
		"id-T", "T/-_", "XT", "-T", "a_-T", "9_T.x"} {
		for _, text := range []string{opaque, jwt} {
			if got := verify.Redact(strings.ReplaceAll(shape, "T", text)); got != strings.ReplaceAll(shape, "T", "[token]") {
				t.Errorf("%s: %s", shape, got)
			}
		}
	}
	// Behind an opaque token the checksum shows where the token ends; a JWT has no such sign.
	for _, shape := range []string{"Tx", "TT", "fooTbar", "T-T", "T_a", "x_T0T.y", "a_b_cT"} {
		if got := verify.Redact(strings.ReplaceAll(shape, "T", opaque)); got != strings.ReplaceAll(shape, "T", "[token]") {
			t.Errorf("%s: %s", shape, got)
		}
	}
	for _, plain := range []string{"", "%", "/orders/7", "/" + strings.Repeat("a", 600), "/files/v1.2.3-with_a-long.name.of_a-version", opaque[:len(opaque)-1] + "!"} {
		if got := verify.Redact(plain); got != plain {
			t.Errorf("%s: %s", plain, got)
		}
	}
}
