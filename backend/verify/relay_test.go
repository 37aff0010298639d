package verify_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// routes sends requests to the relay to a handler, and all others to the issuer.
type routes struct {
	issuer http.RoundTripper
	relay  http.Handler
}

func (r routes) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != "relay.test" {
		return r.issuer.RoundTrip(req)
	}
	w := httptest.NewRecorder()
	r.relay.ServeHTTP(w, req)
	return w.Result(), nil
}

// behind returns the configuration of a verifier that reads the feed from another one.
func behind(i *verifytest.Issuer, relay *verify.Verifier) verify.Config {
	c := i.Config()
	c.FeedFrom = &verify.FeedSource{URL: "https://relay.test/feed"}
	c.HTTPClient = &http.Client{Transport: routes{c.HTTPClient.Transport, relay.FeedHandler()}}
	return c
}

// A verifier behind a relay notices a revocation, a changed role and a new epoch, and does not poll Vault.
func TestRelay(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		relay := start(t, i.Config())
		v := start(t, behind(i, relay))
		polls := func() int { return i.Calls("feed") }
		opaque, signed := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		wide := i.Opaque(t, verifytest.Token{Role: "wide", Scopes: []string{"a", "b"}})
		use := &verify.Use{Scopes: []string{"b"}}
		time.Sleep(10 * time.Millisecond) // after the polls of the same moment
		expect(t, v, opaque, nil, access.Good)
		expect(t, v, signed, nil, access.Good)
		expect(t, v, wide, use, access.Good)
		asked, before := i.Calls("introspect"), polls()
		time.Sleep(5 * time.Second)
		if n := polls() - before; n != 5 {
			t.Errorf("%d polls of Vault in five seconds, want those of the relay", n)
		}
		expect(t, v, opaque, nil, access.Good)
		if n := i.Calls("introspect") - asked; n != 0 {
			t.Errorf("%d introspections of a token that is kept", n)
		}
		i.Revoke(opaque)
		i.Revoke(signed)
		i.NarrowRole("wide", "a")
		time.Sleep(2100 * time.Millisecond)
		expect(t, v, opaque, nil, access.Revoked)
		expect(t, v, signed, nil, access.Revoked)
		expect(t, v, wide, use, access.InsufficientScope)

		expect(t, v, wide, nil, access.Good)
		i.RevokeQuietly(wide)
		i.Restart()
		time.Sleep(2100 * time.Millisecond)
		expect(t, v, wide, nil, access.Revoked)
	})
}

// A relay that has lost Vault says so: the verifier behind it counts from the relay's last poll, not from its own.
func TestRelayWithoutVault(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		relay := start(t, i.Config())
		v := start(t, behind(i, relay))
		time.Sleep(2 * time.Second)
		i.SetDown(true)
		time.Sleep(8 * time.Second)
		if age := v.State().FeedAge; age < 7*time.Second {
			t.Errorf("the feed is %s old, and Vault is gone for 8s", age)
		}
		time.Sleep(10 * time.Second)
		if s := v.State(); s.Ready || s.FeedAge < 16*time.Second {
			t.Errorf("ready %v, feed %s old, and Vault is gone for 18s", s.Ready, s.FeedAge)
		}
		i.SetDown(false)
		time.Sleep(3 * time.Second)
		if s := v.State(); !s.Ready {
			t.Error(s.Problems)
		}
	})
}

// A relay answers only what the engine's feed answers, and refuses what is not a request of a verifier.
func TestRelayRefuses(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		h := start(t, i.Config()).FeedHandler()
		for _, c := range []struct {
			method, url string
			status      int
		}{
			{"GET", "/feed", 200},
			{"GET", "/feed?epoch=other&cursor=5", 200},
			{"GET", "/feed?cursor=-1", 400},
			{"GET", "/feed?cursor=x", 400},
			{"POST", "/feed", 405},
		} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(c.method, c.url, nil))
			if w.Code != c.status {
				t.Errorf("%s %s: %d %s, want %d", c.method, c.url, w.Code, w.Body, c.status)
			}
			if resync := strings.Contains(w.Body.String(), `"resync":true`); resync != strings.Contains(c.url, "epoch=other") {
				t.Errorf("%s: %s", c.url, w.Body)
			}
		}
	})
}

func TestFeedFromIsChecked(t *testing.T) {
	i := verifytest.New(t)
	for want, from := range map[string]verify.FeedSource{
		"FeedFrom.URL":         {URL: "http://authz.example.com/feed"},
		"is not a URL":         {URL: "authz"},
		"FeedFrom.CACert":      {URL: "https://authz.example.com/feed", CACert: "/nonexistent"},
		"set together":         {URL: "https://authz.example.com/feed", Certificate: "x"},
		"FeedFrom.Certificate": {URL: "https://authz.example.com/feed", Certificate: "/nonexistent", Key: "/nonexistent"},
	} {
		c := i.Config()
		c.FeedFrom = &from
		if _, err := verify.New(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", from, err, want)
		}
	}
	_, err := verify.New(t.Context(), verify.Config{Issuer: "https://vault.test/v1/apitoken", AnyAudience: true, FeedFrom: &verify.FeedSource{URL: "https://x/feed"}})
	if err == nil || !strings.Contains(err.Error(), "Vault is not") {
		t.Error(err)
	}
}

// After a failover the new epoch has events before the relay reads it: the copy has the same cursors, and verifiers behind
// the relay learn of later revocations.
func TestRelayOfAnEpochWithEvents(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		relay := start(t, i.Config())
		v := start(t, behind(i, relay))
		text := i.JWT(t, verifytest.Token{Role: "r", Scopes: []string{"a", "b"}})
		expect(t, v, text, &verify.Use{Scopes: []string{"b"}}, access.Good)
		i.Restart()
		i.NarrowRole("r", "a")
		i.NarrowRole("other")
		time.Sleep(2100 * time.Millisecond)
		if at, behind := relay.State().Cursor, v.State().Cursor; at != 2 || behind != 2 {
			t.Errorf("cursors %d and %d, want 2", at, behind)
		}
		expect(t, v, text, &verify.Use{Scopes: []string{"b"}}, access.InsufficientScope)
		later := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
		expect(t, v, later, nil, access.Good)
		i.Revoke(later)
		time.Sleep(2100 * time.Millisecond)
		expect(t, v, later, nil, access.Revoked)
	})
}
