package server

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/rules"
)

// A refused request does not count: who keeps on trying gets the rate all the same. An IPv6 client is its network.
func TestLimiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiters()
		rule := &rules.Rule{Rate: access.Rate{Count: 2, Burst: 2, Window: 10 * time.Second}}
		passed := 0
		for range 100 { // for ten seconds
			if wait := l.take(rule, "id", addr("10.1.2.3")); wait == 0 {
				passed++
			} else if wait > 5*time.Second {
				t.Fatal(wait)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if passed != 3 && passed != 4 { // two at once, and one each five seconds
			t.Errorf("%d requests passed", passed)
		}
		l.take(rule, "", addr("2001:db8::1"))
		l.take(rule, "", addr("2001:db8::2"))
		if l.take(rule, "", addr("2001:db8::3")) == 0 {
			t.Error("addresses of one network are counted apart")
		}
		if l.take(rule, "", addr("2001:db8:0:1::1")) != 0 || l.take(&rules.Rule{Rate: rule.Rate}, "", addr("2001:db8::1")) != 0 {
			t.Error("networks or rules are counted together")
		}
		if l.take(&rules.Rule{}, "", addr("10.1.2.3")) != 0 {
			t.Error("there is no rate")
		}
	})
}
