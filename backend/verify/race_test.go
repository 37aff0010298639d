package verify_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// Uses, changes, polls and reports at once: for the race detector.
func TestConcurrentUses(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		c.MaxTokens, c.ReportInterval = 20, time.Second
		v := start(t, c)
		var texts []string
		for range 15 {
			texts = append(texts,
				i.Opaque(t, verifytest.Token{Role: "r", Scopes: []string{"a"}, RateLimit: "1000/1s"}), i.JWT(t, verifytest.Token{Scopes: []string{"a"}}))
		}
		var all sync.WaitGroup
		for n := range 8 {
			all.Go(func() {
				for range 200 {
					client := netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
					_, _ = v.Check(t.Context(), texts[rand.IntN(len(texts))], &verify.Use{Scopes: []string{"a"}, Client: client})
					_ = v.State()
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		for n := range 20 {
			time.Sleep(time.Second)
			switch n % 4 {
			case 0:
				i.Revoke(texts[n])
			case 1:
				i.NarrowRole("r", "a")
			case 2:
				i.Restart()
			case 3:
				i.DestroyKey()
				i.RotateKey(t, "ES256")
			}
		}
		all.Wait()
	})
}

// beforeTheAnswer has something happen after the first introspection was answered and before the answer arrives. The feed is
// polled meanwhile.
func beforeTheAnswer(i *verifytest.Issuer, happens func()) {
	var once sync.Once
	i.OnAnswer(func(path string) {
		if path == "introspect" {
			once.Do(func() {
				happens()
				time.Sleep(1500 * time.Millisecond)
			})
		}
	})
}

// An answer of introspect that is older than a revocation arrives after the event of the revocation: it must be used
// neither now nor later.
func TestRevokedIsNotCachedAgain(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		text := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
		beforeTheAnswer(i, func() { i.Revoke(text) })
		expect(t, v, text, nil, access.Revoked)
		expect(t, v, text, nil, access.Revoked)
		if n := i.Calls("introspect"); n != 2 {
			t.Errorf("%d introspections, want 2", n)
		}
	})
}

// As above, with a restart in between: the answer is of an epoch that is over.
func TestAnswerOfAnOldEpoch(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		text := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
		beforeTheAnswer(i, func() {
			i.RevokeQuietly(text)
			i.Restart()
		})
		expect(t, v, text, nil, access.Revoked)
	})
}

// An answer is of a new epoch, and older than the event with which the verifier begins to read that epoch: the verifier
// never sees the event.
func TestAnswerBeforeTheEpochWasRead(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		text := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
		i.Restart()
		beforeTheAnswer(i, func() { i.Revoke(text) })
		expect(t, v, text, nil, access.Revoked)
	})
}

// Many requests with one new token make one introspection, and no caller that gives up ends the introspection of others.
func TestSingleFlight(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		text := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
		i.OnAnswer(func(path string) { time.Sleep(time.Second) })
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { expect(t, v, text, &verify.Use{Client: netip.MustParseAddr("192.0.2.1")}, access.Good) })
		}
		all.Wait()
		if n := i.Calls("introspect"); n != 1 {
			t.Errorf("%d introspections, want 1", n)
		}
	})
}

// Unknown texts with good checksums neither reach Vault without limit nor evict good tokens.
func TestNoise(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		c.MaxTokens, c.MaxUnknown = 100, 100
		v := start(t, c)
		noise := verifytest.NewAt(t, time.Now)
		var good []string
		for range 50 {
			good = append(good, i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), i.JWT(t, verifytest.Token{Scopes: []string{"a"}}))
			time.Sleep(time.Second)
		}
		for _, text := range good {
			expect(t, v, text, nil, access.Good)
			time.Sleep(100 * time.Millisecond)
		}
		calls, began, limited := i.Calls("introspect"), time.Now(), 0
		for n := range 2000 {
			client := netip.AddrFrom4([4]byte{198, 51, byte(n / 250), byte(n % 250)})
			d, err := v.Check(t.Context(), noise.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), &verify.Use{Client: client})
			if err != nil || d.Allowed {
				t.Fatalf("%+v, %v", d, err)
			}
			if d.Reason == verify.RateLimited {
				limited++
			}
			expect(t, v, good[n%len(good)], nil, access.Good)
			time.Sleep(time.Millisecond)
		}
		asked, most := i.Calls("introspect")-calls, 40+40*int(time.Since(began)/time.Second+1)
		if asked > most || limited == 0 {
			t.Errorf("%d introspections of noise in %s, at most %d are allowed", asked, time.Since(began), most)
		}
		if s := v.State(); s.Tokens < 90 || s.Limited != uint64(limited) {
			t.Errorf("%+v", s)
		}
	})
}

// One address that shows noise uses a fifth of the budget: another address is served.
func TestNoiseOfOneAddress(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		noise := verifytest.NewAt(t, time.Now)
		for range 100 {
			_, _ = v.Check(t.Context(), noise.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), &verify.Use{Client: netip.MustParseAddr("2001:db8::1")})
		}
		if n := i.Calls("introspect"); n != 8 {
			t.Errorf("%d introspections for one address, want 8", n)
		}
		text := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
		expect(t, v, text, &verify.Use{Client: netip.MustParseAddr("2001:db8::2")}, verify.RateLimited) // the same network
		for range 200 {                                                                                 // good tokens use nothing up
			expect(t, v, i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), &verify.Use{Client: netip.MustParseAddr("192.0.2.1")}, access.Good)
		}
	})
}

// Noise from many addresses does not keep a new token of an address out that has shown a good token before.
func TestNewTokensUnderNoise(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		noise := verifytest.NewAt(t, time.Now)
		client := &verify.Use{Client: netip.MustParseAddr("192.0.2.1")}
		expect(t, v, i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), client, access.Good)
		calls, began := i.Calls("introspect"), time.Now()
		for n := range 5000 {
			stranger := netip.AddrFrom4([4]byte{198, 51, byte(n / 250), byte(n % 250)})
			_, _ = v.Check(t.Context(), noise.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), &verify.Use{Client: stranger})
			if n%250 == 249 {
				expect(t, v, i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), client, access.Good)
			}
			time.Sleep(time.Millisecond)
		}
		good := 5000 / 250
		if asked, most := i.Calls("introspect")-calls-good, 20+20*int(time.Since(began)/time.Second+1); asked > most {
			t.Errorf("%d introspections for strangers in %s, at most %d are allowed", asked, time.Since(began), most)
		}
		// A known address has no more of the budget than others when it shows noise.
		before := i.Calls("introspect")
		for range 100 {
			_, _ = v.Check(t.Context(), noise.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), client)
		}
		if n := i.Calls("introspect") - before; n > 8 {
			t.Errorf("%d introspections for noise of a known address, want at most 8", n)
		}
	})
}

// A storm of JWTs with unknown keys reads the keys once in 30 seconds, and never delays a JWT with a known key.
func TestUnknownKeys(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		time.Sleep(time.Minute)
		before := i.Calls("oauth/jwks")
		i.OnAnswer(func(path string) {
			if path == "oauth/jwks" {
				time.Sleep(3 * time.Second)
			}
		})
		var all sync.WaitGroup
		for range 20 {
			noise := verifytest.NewAt(t, time.Now).JWT(t, verifytest.Token{Scopes: []string{"a"}})
			all.Go(func() { expect(t, v, noise, nil, access.WrongEnvironment) })
		}
		synctest.Wait()
		began := time.Now()
		expect(t, v, i.JWT(t, verifytest.Token{Scopes: []string{"a"}}), nil, access.Good)
		if waited := time.Since(began); waited != 0 {
			t.Errorf("a known key waited %s", waited)
		}
		all.Wait()
		i.RotateKey(t, "RS256")
		late := i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		expect(t, v, late, nil, access.WrongEnvironment) // the keys were just read
		if n := i.Calls("oauth/jwks") - before; n != 1 {
			t.Errorf("%d reads of the keys, want 1", n)
		}
		time.Sleep(30 * time.Second)
		expect(t, v, late, nil, access.Good)
		if n := i.Calls("oauth/jwks") - before; n != 2 {
			t.Errorf("%d reads of the keys, want 2", n)
		}
	})
}

// Decisions are those of a verifier that keeps nothing, whatever the order of uses and changes. The verifier that keeps
// nothing is a new one for each decision.
func TestKeepingChangesNothing(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inTime(t, func(t *testing.T, i *verifytest.Issuer) { interleave(t, i, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func interleave(t *testing.T, i *verifytest.Issuer, r *rand.Rand) {
	c := i.Config()
	c.UnknownPerSecond = 100_000
	v := start(t, c)
	one := func(list ...string) string { return list[r.IntN(len(list))] }
	var texts []string
	for n := range 24 {
		spec := verifytest.Token{
			Role: one("r1", "r2", "r3"), Scopes: strings.Fields(one("a", "a b", "a:* b", "*")), Subject: one("", "e1", "e2"),
			Audience: strings.Fields(one(verifytest.Audience, verifytest.Audience+" other")), TTL: time.Duration(1+r.IntN(300)) * time.Second,
			CIDRs: strings.Fields(one("", "10.0.0.0/8", "10.1.0.0/16 192.0.2.1/32")), Hosts: strings.Fields(one("", "api.example.com", "*.example.com")),
		}
		if n%2 == 1 {
			spec.Subject = "" // the engine revokes the JWTs of a disabled entity: verifiers see that as a revocation
		}
		if len(spec.Hosts) == 0 {
			spec.Hosts = nil
		}
		if n%2 == 0 {
			texts = append(texts, i.Opaque(t, spec))
		} else {
			texts = append(texts, i.JWT(t, spec))
		}
	}
	for range 400 {
		text := texts[r.IntN(len(texts))]
		settle := 2100 * time.Millisecond // the feed is polled, and status lists are read
		switch n := r.IntN(40); {
		case n == 0:
			i.Revoke(text)
		case n == 1:
			i.NarrowRole(one("r1", "r2", "r3"), "a", "a:x")
		case n == 2 && r.IntN(4) == 0:
			i.DeleteRole(one("r1", "r2", "r3"))
		case n == 3:
			i.RevokeQuietly(text)
			i.Restart()
		case n == 4:
			addresses, _ := access.ParseAddresses([]string{one("10.1.2.0/24", "192.0.2.1/32")})
			i.BindRole(one("r1", "r2", "r3"), addresses)
		case n == 5:
			i.DisableSubject("e1")
			settle = time.Minute
		default:
			settle = time.Duration(r.IntN(3)) * time.Second
		}
		time.Sleep(settle)
		use := &verify.Use{
			Scopes: strings.Fields(one("", "a", "b", "a:x", "a b")), Audience: one("", "other"), Host: one("", "api.example.com", "x.example.org"),
			Client: netip.MustParseAddr(one("10.1.2.3", "10.2.0.1", "192.0.2.1", "2001:db8::1")),
		}
		kept, err := v.Check(t.Context(), text, use)
		if err != nil {
			t.Fatal(err)
		}
		truth := i.Decide(text, use)
		if kept.Allowed != (truth == access.Good) {
			t.Errorf("kept: %q (%s), truth: %q, token %s at %s, use %+v", kept.Reason, kept.Detail, truth, i.ID(text), time.Now(), use)
		}
	}
}
