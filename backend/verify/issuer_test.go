package verify_test

import (
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

const metadata = ".well-known/openid-configuration"

// A verifier that started before the mount had an issuer takes JWTs a minute later, and at once after a failover.
func TestIssuerIsSetLater(t *testing.T) {
	for name, c := range map[string]struct {
		wait   time.Duration
		change func(*verifytest.Issuer)
	}{
		"a minute":   {time.Minute + 2*time.Second, func(*verifytest.Issuer) {}},
		"a failover": {3 * time.Second, (*verifytest.Issuer).Restart},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, i *verifytest.Issuer) {
				i.SetIssuer("")
				v := start(t, i.Config())
				time.Sleep(90 * time.Second) // not at a read of the metadata
				i.SetIssuer(i.URL)
				text := i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
				expect(t, v, text, nil, access.WrongEnvironment)
				c.change(i)
				time.Sleep(c.wait)
				expect(t, v, text, nil, access.Good)
			})
		})
	}
}

// After a change of the issuer, JWTs of the new issuer are good, and JWTs of the issuer of before are refused as by a verifier
// that starts now. Opaque tokens stay in memory.
func TestIssuerChanges(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		opaque, before := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		use := func() {
			for range 3 {
				expect(t, v, opaque, nil, access.Good)
				expect(t, v, before, nil, access.Good)
			}
		}
		use()
		i.SetIssuer("https://new.test/v1/apitoken")
		after := i.JWT(t, verifytest.Token{Scopes: []string{"a"}, NoList: true})
		expect(t, v, after, nil, access.WrongEnvironment)
		use()
		asked := i.Calls("introspect")
		time.Sleep(40 * time.Second)
		expect(t, v, opaque, nil, access.Good)
		time.Sleep(15 * time.Second)
		i.Restart()
		time.Sleep(3 * time.Second)
		expect(t, v, after, nil, access.Good)
		expect(t, v, before, nil, access.WrongEnvironment)
		fresh := start(t, i.Config())
		expect(t, fresh, after, nil, access.Good)
		expect(t, fresh, before, nil, access.WrongEnvironment)
		if n := i.Calls("introspect"); n != asked {
			t.Errorf("%d introspections of an opaque token that is in memory", n-asked)
		}
		i.SetIssuer("")
		time.Sleep(time.Minute + 2*time.Second)
		expect(t, v, after, nil, access.WrongEnvironment)
	})
}

// The metadata is read once a minute, every five seconds while the read fails, and never with an issuer of Config.
func TestIssuerReads(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		time.Sleep(10*time.Minute + 30*time.Second)
		if n := i.Calls(metadata); n < 10 || n > 12 {
			t.Errorf("%d reads in ten minutes, want one a minute", n)
		}
		before := i.Calls(metadata)
		i.SetDown(true)
		time.Sleep(2 * time.Minute)
		if n := i.Calls(metadata) - before; n < 10 || n > 25 {
			t.Errorf("%d reads in two minutes without Vault, want one in five seconds", n)
		}
		i.SetDown(false)
		time.Sleep(10 * time.Second)
		expect(t, v, i.JWT(t, verifytest.Token{Scopes: []string{"a"}}), nil, access.Good)
	})
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		c.Issuer = i.URL + "/"
		v := start(t, c)
		i.SetIssuer("https://new.test/v1/apitoken")
		time.Sleep(5 * time.Minute)
		i.Restart()
		time.Sleep(5 * time.Second)
		if n := i.Calls(metadata); n != 0 {
			t.Errorf("%d reads of the metadata", n)
		}
		expect(t, v, i.JWT(t, verifytest.Token{Scopes: []string{"a"}, NoList: true}), nil, access.WrongEnvironment)
	})
}
