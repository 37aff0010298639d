package verify_test

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

func TestUsage(t *testing.T) {
	each(t, func(t *testing.T, i *verifytest.Issuer, issue func(verifytest.Token) string) {
		c := i.Config()
		c.GeoIP = func(netip.Addr) string { return "DE" }
		v := start(t, c)
		text, idle := issue(verifytest.Token{Scopes: []string{"a", "b"}}), issue(verifytest.Token{Scopes: []string{"a"}})
		client := netip.MustParseAddr("192.0.2.7")
		expect(t, v, idle, nil, access.Good)
		for range 3 {
			expect(t, v, text, &verify.Use{Scopes: []string{"a"}, Client: client}, access.Good)
			expect(t, v, text, &verify.Use{Scopes: []string{"c"}, Client: client}, access.InsufficientScope)
		}
		expect(t, v, text, &verify.Use{Scopes: []string{"b", "a"}, Client: client}, access.Good)
		expect(t, v, "noise", &verify.Use{Client: client}, access.Malformed)
		expect(t, v, "noise", &verify.Use{Client: client}, access.Malformed)
		i.Revoke(text)
		time.Sleep(2 * time.Second)
		expect(t, v, text, &verify.Use{Client: client}, access.Revoked)
		if i.Reported(text).Uses != 0 {
			t.Error("reported before its time")
		}
		time.Sleep(30 * time.Second)
		got := i.Reported(text)
		if got.Uses != 4 || got.LastIP != client.String() || got.Region != "DE" || !slices.Equal(got.Scopes, []string{"a", "b"}) ||
			got.Refusals[access.InsufficientScope] != 3 || got.Refusals[access.Revoked] != 1 {
			t.Errorf("%+v", got)
		}
		if n := i.ReportedUnknown(client.String()); n != 2 {
			t.Errorf("%d unknown tokens were reported, want 2", n)
		}
		if n := i.Reported(idle).Uses; n != 1 {
			t.Errorf("%d uses of the other token, want 1", n)
		}
		calls := i.Calls("usage")
		time.Sleep(5 * time.Minute)
		if i.Calls("usage") != calls {
			t.Error("reports without news")
		}
	})
}

// A report ends although tokens are used while the report is sent: these uses are in the next report.
func TestReportEnds(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		text, other := i.JWT(t, verifytest.Token{Scopes: []string{"a"}}), i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		expect(t, v, text, nil, access.Good)
		expect(t, v, other, nil, access.Good)
		var reports atomic.Int32
		i.OnAnswer(func(path string) {
			if path != "usage" {
				return
			}
			if reports.Add(1) < 100 { // an engine that never rests would hang the test
				expect(t, v, text, nil, access.Good)
			}
		})
		time.Sleep(31 * time.Second)
		if n := reports.Load(); n != 1 {
			t.Errorf("%d batches in one report, want 1", n)
		}
		time.Sleep(30 * time.Second)
		if n := reports.Load(); n != 2 || i.Reported(text).Uses != 2 || i.Reported(other).Uses != 1 {
			t.Errorf("%d batches, %+v, %+v", n, i.Reported(text), i.Reported(other))
		}
	})
}

// A report that was counted and not answered counts once; what is used meanwhile is not lost.
func TestUsageIsCountedOnce(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		c.RequestTimeout = 2 * time.Second
		v := start(t, c)
		text := i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		var reports atomic.Int32
		i.OnAnswer(func(path string) {
			if path == "usage" && reports.Add(1) <= 2 {
				time.Sleep(time.Minute) // the answer comes too late
			}
		})
		for n := range 200 {
			i.SetDown(n > 110 && n < 160) // these reports do not arrive
			expect(t, v, text, nil, access.Good)
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Minute)
		if n := i.Reported(text).Uses; n != 200 {
			t.Errorf("%d uses were counted, want 200", n)
		}
	})
}

// A token that is used in another network is reported at once, and each use counts once.
func TestUsageOfATokenThatMoves(t *testing.T) {
	each(t, func(t *testing.T, i *verifytest.Issuer, issue func(verifytest.Token) string) {
		v := start(t, i.Config())
		text, other := issue(verifytest.Token{Scopes: []string{"a"}}), issue(verifytest.Token{Scopes: []string{"a"}})
		use := func(text, client string) {
			t.Helper()
			expect(t, v, text, &verify.Use{Client: netip.MustParseAddr(client)}, access.Good)
		}
		use(text, "192.0.2.7")
		use(text, "192.0.2.99")
		use(other, "192.0.2.8")
		time.Sleep(2 * time.Second)
		if n := i.Calls("usage"); n != 0 {
			t.Fatalf("%d reports of tokens that stay in one network, want 0", n)
		}
		use(text, "203.0.113.5")
		time.Sleep(100 * time.Millisecond)
		if got := i.Reported(text); got.Uses != 3 || !slices.Equal(got.IPs, []string{"192.0.2.99", "203.0.113.5"}) {
			t.Errorf("%+v, want three uses, from 192.0.2.99 and then from 203.0.113.5", got)
		}
		use(text, "192.0.2.7")
		use(text, "198.51.100.1")
		time.Sleep(800 * time.Millisecond)
		if n := i.Calls("usage"); n != 1 {
			t.Errorf("%d reports within a second, want 1", n)
		}
		time.Sleep(200 * time.Millisecond)
		if got := i.Reported(text); got.Uses != 5 || !slices.Equal(got.IPs[2:], []string{"192.0.2.7", "198.51.100.1"}) {
			t.Errorf("%+v, want five uses, the last from 192.0.2.7 and 198.51.100.1", got)
		}
		time.Sleep(time.Second)
		calls := i.Calls("usage")
		for _, n := range "0123456789" {
			use(text, "10."+string(n)+".0.1")
		}
		time.Sleep(2 * time.Second)
		if got := i.Reported(text); got.Uses != 15 || got.LastIP != "10.9.0.1" || i.Calls("usage") > calls+2 {
			t.Errorf("%+v in %d reports, want 15 uses in at most two", got, i.Calls("usage")-calls)
		}
		if n := i.Reported(other).Uses; n != 0 {
			t.Errorf("%d uses of the other token were reported, want 0", n)
		}
		calls = i.Calls("usage")
		use(text, "10.9.0.2")
		time.Sleep(30 * time.Second)
		if i.Reported(text).Uses != 16 || i.Reported(other).Uses != 1 || i.Calls("usage") != calls+1 {
			t.Errorf("%+v, %+v in %d reports", i.Reported(text), i.Reported(other), i.Calls("usage")-calls)
		}
		time.Sleep(time.Minute)
		if n := i.Calls("usage") - calls; n != 1 {
			t.Errorf("%d reports, want 1: an early report left something to report", n)
		}
		use(text, "2001:db8::1")
		time.Sleep(100 * time.Millisecond)
		use(text, "2001:db8:0:1::1")
		time.Sleep(2 * time.Second)
		if n := i.Calls("usage") - calls; n != 1 {
			t.Errorf("%d reports, want 1: both addresses are of one network", n)
		}
		use(text, "2001:db8:1::1")
		time.Sleep(100 * time.Millisecond)
		if n := i.Reported(text).Uses; n != 19 || i.Calls("usage") != calls+2 {
			t.Errorf("%d uses in %d reports, want 19 in 2", n, i.Calls("usage")-calls)
		}
	})
}

// A token that goes back and forth between networks delays the report of no other token, and costs no memory while Vault is down.
func TestUsageOfATokenThatGoesBackAndForth(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		text, other := i.JWT(t, verifytest.Token{Scopes: []string{"a"}}), i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		flap := func(times int) {
			for n := range times {
				expect(t, v, text, &verify.Use{Client: netip.AddrFrom4([4]byte{192, 0, byte(n % 2), 7})}, access.Good)
			}
		}
		expect(t, v, other, &verify.Use{Client: netip.MustParseAddr("192.0.2.7")}, access.Good)
		flap(2)
		time.Sleep(100 * time.Millisecond)
		flap(1002)
		expect(t, v, other, &verify.Use{Client: netip.MustParseAddr("203.0.113.5")}, access.Good)
		time.Sleep(time.Second)
		if n := i.Reported(other).Uses; n != 2 {
			t.Errorf("%d uses of the other token were reported at once, want 2", n)
		}
		i.SetDown(true)
		for range 45 {
			flap(20)
			time.Sleep(time.Second)
		}
		if n := v.Listed(); n > 10 {
			t.Errorf("%d rows wait for Vault, for two tokens", n)
		}
		i.SetDown(false)
		time.Sleep(time.Minute)
		if n := i.Reported(text).Uses; n != 2+1002+45*20 {
			t.Errorf("%d uses were counted", n)
		}
	})
}

// A report has at most 10,000 rows, and what is left is reported when the Verifier closes.
func TestUsageInParts(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		v, err := verify.New(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for range 10_050 {
			texts = append(texts, i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}))
		}
		for n, text := range texts {
			expect(t, v, text, &verify.Use{Client: netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", n/250, n%250))}, access.Good)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if n := i.Reported(text).Uses; n != 1 {
				t.Fatalf("%d uses were reported, want 1", n)
			}
		}
		if n := i.Calls("usage"); n != 2 {
			t.Errorf("%d reports, want 2", n)
		}
	})
}

// A negative ReportInterval turns reports off.
func TestSilent(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		c.ReportInterval = -1
		v := start(t, c)
		text := i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		expect(t, v, text, nil, access.Good)
		time.Sleep(10 * time.Minute)
		if n := i.Calls("usage"); n != 0 {
			t.Errorf("%d reports", n)
		}
	})
}
