package verify_test

import (
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// A suspension acts by the next poll, and a resume once the refusal is over, whatever a status list says meanwhile.
func TestSuspended(t *testing.T) {
	each(t, func(t *testing.T, i *verifytest.Issuer, issue func(verifytest.Token) string) {
		mine, other := issue(verifytest.Token{Scopes: []string{"a"}, Subject: "ann"}), issue(verifytest.Token{Scopes: []string{"a"}, Subject: "bob"})
		v := start(t, i.Config())
		for name, by := range map[string]struct{ suspend, resume func() }{
			"token":   {func() { i.Suspend(mine) }, func() { i.Resume(mine) }},
			"subject": {func() { i.SuspendSubject("ann") }, func() { i.ResumeSubject("ann") }},
		} {
			for range 2 {
				expect(t, v, mine, nil, access.Good)
				by.suspend()
				time.Sleep(1100 * time.Millisecond)
				expect(t, v, mine, nil, access.Suspended)
				expect(t, v, other, nil, access.Good)
				time.Sleep(5 * time.Minute) // status lists are read again
				if d := expect(t, v, mine, nil, access.Suspended); d.TokenID != i.ID(mine) {
					t.Errorf("by %s: %+v", name, d)
				}
				by.resume()
				time.Sleep(10100 * time.Millisecond)
				expect(t, v, mine, nil, access.Good)
			}
		}
		i.Suspend(mine)
		i.Revoke(mine)
		i.Resume(mine)
		time.Sleep(1100 * time.Millisecond)
		expect(t, v, mine, nil, access.Revoked)
	})
}

// An API server without Vault learns of a suspension and of a resume by the status list.
func TestSuspendedOffline(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		mine, other, gone := i.JWT(t, verifytest.Token{Scopes: []string{"a"}}), i.JWT(t, verifytest.Token{Scopes: []string{"a"}}), i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		c := i.Config()
		c.Vault, c.Issuer = nil, i.URL
		v := start(t, c)
		i.Revoke(gone)
		for _, want := range []access.Reason{access.Good, access.Suspended, access.Good} {
			if want == access.Suspended {
				i.Suspend(mine)
			} else {
				i.Resume(mine)
			}
			time.Sleep(4 * time.Minute)
			expect(t, v, mine, nil, want)
			expect(t, v, other, nil, access.Good)
			expect(t, v, gone, nil, access.Revoked)
		}
	})
}
