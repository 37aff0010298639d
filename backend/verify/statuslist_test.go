package verify_test

import (
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// A status list is dropped when no token needed the list for a while. A token that comes back later has the list read again,
// and the list is kept up to date again.
func TestIdleStatusListIsDropped(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		c.Issuer, c.Vault = i.URL, nil // without a feed: only the list has revocations
		v := start(t, c)
		text := i.JWT(t, verifytest.Token{Scopes: []string{"a"}, TTL: 10 * time.Hour})
		other := i.JWT(t, verifytest.Token{Scopes: []string{"a"}, TTL: 10 * time.Hour})
		for range 10 { // a use each five minutes keeps the list
			expect(t, v, text, nil, access.Good)
			expect(t, v, other, nil, access.Good)
			time.Sleep(5 * time.Minute)
			if n := len(v.State().Lists); n != 1 {
				t.Fatalf("%d lists while the token is used", n)
			}
		}
		time.Sleep(10*time.Minute + 20*time.Second)
		if n := len(v.State().Lists); n != 0 {
			t.Fatalf("%d lists after 15 minutes without a use", n)
		}
		// The list that was dropped has not expired yet. Nothing may be decided by it: nobody reads it again.
		expect(t, v, other, nil, access.Good)
		i.Revoke(other)
		time.Sleep(62 * time.Second)
		expect(t, v, other, nil, access.Revoked)

		time.Sleep(17 * time.Minute)
		reads := i.Calls("oauth/status/7")
		time.Sleep(time.Hour)
		if n := i.Calls("oauth/status/7"); n != reads || reads == 0 {
			t.Errorf("the list was read %d times, and %d times after it was dropped", reads, n-reads)
		}

		expect(t, v, text, nil, access.Good)
		if n := i.Calls("oauth/status/7"); n != reads+1 {
			t.Errorf("the list was read %d times for a token that came back", n-reads)
		}
		i.Revoke(text)
		time.Sleep(62 * time.Second)
		expect(t, v, text, nil, access.Revoked)
	})
}
