package verify_test

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// inTime runs a test in a bubble with a clock of its own, with an issuer that needs no network.
func inTime(t *testing.T, test func(t *testing.T, i *verifytest.Issuer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, verifytest.NewAt(t, time.Now)) })
}

func start(t *testing.T, c verify.Config) *verify.Verifier {
	t.Helper()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	v, err := verify.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return v
}

// expect checks a use, and holds the decision against the wanted reason; "error" stands for no decision.
func expect(t *testing.T, v *verify.Verifier, text string, use *verify.Use, want access.Reason) verify.Decision {
	t.Helper()
	d, err := v.Check(context.Background(), text, use)
	got := d.Reason
	if err != nil {
		got = "error"
	}
	if got != want {
		t.Errorf("got %q (%s, %v), want %q", got, d.Detail, err, want)
	}
	if d.Allowed != (got == access.Good) {
		t.Errorf("allowed is %v with reason %q", d.Allowed, got)
	}
	if err != nil && strings.Contains(err.Error(), text) || text != "" && strings.Contains(d.Detail, text) {
		t.Error("the token is in the answer")
	}
	return d
}

var kinds = map[string]func(*verifytest.Issuer, testing.TB, verifytest.Token) string{
	"opaque": (*verifytest.Issuer).Opaque, "jwt": (*verifytest.Issuer).JWT,
}

// each runs a test with tokens of both kinds.
func each(t *testing.T, test func(t *testing.T, i *verifytest.Issuer, issue func(verifytest.Token) string)) {
	for name, issue := range kinds {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, i *verifytest.Issuer) {
				test(t, i, func(spec verifytest.Token) string { return issue(i, t, spec) })
			})
		})
	}
}

func TestDecision(t *testing.T) {
	each(t, func(t *testing.T, i *verifytest.Issuer, issue func(verifytest.Token) string) {
		c := i.Config()
		c.Hosts = []string{"api.example.com", "other.example.com"}
		c.GeoIP = func(addr netip.Addr) string {
			return map[netip.Addr]string{netip.MustParseAddr("10.1.2.3"): "FR", netip.MustParseAddr("192.0.2.1"): "US"}[addr]
		}
		v := start(t, c)
		text := issue(verifytest.Token{
			Role: "reader", Scopes: []string{"orders:*"}, CIDRs: []string{"10.0.0.0/8"}, Hosts: []string{"api.example.com"},
			Regions: []string{"DE", "FR"},
			Subject: "entity-1", Metadata: map[string]string{"team": "billing"},
		})
		use := func(change func(*verify.Use)) *verify.Use {
			u := &verify.Use{Scopes: []string{"orders:read"}, Client: netip.MustParseAddr("10.1.2.3"), Region: "DE", Host: "api.example.com"}
			change(u)
			return u
		}
		for range 2 { // asked, then kept
			d := expect(t, v, text, use(func(*verify.Use) {}), access.Good)
			if d.TokenID != i.ID(text) || d.GrantID != d.TokenID || d.Role != "reader" || d.Subject != "entity-1" ||
				d.Environment != verifytest.Environment || d.Metadata["team"] != "billing" || d.Scopes.Parameter() != "orders:*" ||
				!d.ExpiresAt.Equal(time.Now().Truncate(time.Second).Add(time.Hour)) {
				t.Errorf("%+v", d)
			}
			expect(t, v, text, use(func(u *verify.Use) { u.Host = "API.example.com:8443" }), access.Good)
			expect(t, v, text, use(func(u *verify.Use) { u.Scopes = []string{"users:read"} }), access.InsufficientScope)
			expect(t, v, text, use(func(u *verify.Use) { u.Audience = "https://other.test" }), access.WrongAudience)
			expect(t, v, text, use(func(u *verify.Use) { u.Client = netip.MustParseAddr("192.0.2.1") }), access.AddressNotAllowed)
			expect(t, v, text, use(func(u *verify.Use) { u.Client = netip.Addr{} }), access.AddressNotAllowed)
			expect(t, v, text, use(func(u *verify.Use) { u.Region = "US" }), access.RegionNotAllowed)
			expect(t, v, text, use(func(u *verify.Use) { u.Region = "Germany" }), access.RegionNotAllowed)
			expect(t, v, text, use(func(u *verify.Use) { u.Client, u.Region = netip.MustParseAddr("10.9.9.9"), "" }), access.RegionNotAllowed)
			expect(t, v, text, use(func(u *verify.Use) { u.Region = "" }), access.Good) // the region of the address
			expect(t, v, text, use(func(u *verify.Use) { u.Host = "other.example.com" }), access.HostNotAllowed)
			expect(t, v, text, use(func(u *verify.Use) { u.Host = "" }), access.HostNotAllowed)
			expect(t, v, text, use(func(u *verify.Use) { u.Host = "evil.example.org" }), access.HostNotAllowed)
			expect(t, v, text, nil, access.AddressNotAllowed)
		}
		if calls := i.Calls("introspect"); calls > 1 {
			t.Errorf("%d introspections of one token", calls)
		}
		free := issue(verifytest.Token{Scopes: []string{"a"}})
		expect(t, v, free, &verify.Use{Host: "evil.example.org"}, access.HostNotAllowed)
		time.Sleep(time.Hour)
		expect(t, v, text, use(func(*verify.Use) {}), access.Expired)
	})
}

func TestNoToken(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		other := verifytest.NewAt(t, time.Now)
		good := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
		jwt := i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		for range 2 {
			expect(t, v, "", nil, verify.Missing)
			expect(t, v, "noise", nil, access.Malformed)
			expect(t, v, good+" ", nil, access.Malformed)
			expect(t, v, good[:len(good)-1], nil, access.Malformed)
			expect(t, v, strings.Repeat(".", token.MaxLen), nil, access.Malformed)
			expect(t, v, strings.Repeat("a", token.MaxLen+1), nil, access.Malformed)
			expect(t, v, "a.b.c", nil, access.Malformed)
			expect(t, v, other.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), nil, access.Unknown)
			expect(t, v, other.JWT(t, verifytest.Token{Scopes: []string{"a"}}), nil, access.WrongEnvironment)
			head, rest, _ := strings.Cut(jwt, ".")
			body, _, _ := strings.Cut(rest, ".")
			_, rest, _ = strings.Cut(i.JWT(t, verifytest.Token{Scopes: []string{"b"}}), ".")
			_, signature, _ := strings.Cut(rest, ".")
			expect(t, v, head+"."+body+"."+signature, nil, access.Unknown)
			expect(t, v, head+"."+body+".", nil, access.Unknown)
		}
	})
}

func TestRevocation(t *testing.T) {
	each(t, func(t *testing.T, i *verifytest.Issuer, issue func(verifytest.Token) string) {
		v := start(t, i.Config())
		seen, unseen := issue(verifytest.Token{Scopes: []string{"a"}}), issue(verifytest.Token{Scopes: []string{"a"}})
		expect(t, v, seen, nil, access.Good)
		i.Revoke(seen)
		i.Revoke(unseen)
		time.Sleep(1100 * time.Millisecond)
		expect(t, v, seen, nil, access.Revoked)
		expect(t, v, unseen, nil, access.Revoked)
	})
}

func TestRoleChange(t *testing.T) {
	each(t, func(t *testing.T, i *verifytest.Issuer, issue func(verifytest.Token) string) {
		v := start(t, i.Config())
		text := issue(verifytest.Token{Role: "r", Scopes: []string{"a", "b"}})
		gone := issue(verifytest.Token{Role: "gone", Scopes: []string{"a"}})
		both := &verify.Use{Scopes: []string{"a", "b"}}
		expect(t, v, text, both, access.Good)
		expect(t, v, gone, nil, access.Good)
		i.NarrowRole("r", "a")
		i.DeleteRole("gone")
		time.Sleep(1100 * time.Millisecond)
		expect(t, v, text, both, access.InsufficientScope)
		expect(t, v, text, &verify.Use{Scopes: []string{"a"}}, access.Good)
		expect(t, v, gone, nil, access.RoleDeleted)
		time.Sleep(time.Minute)
		calls := i.Calls("introspect")
		late := issue(verifytest.Token{Role: "r", Scopes: []string{"a", "b"}})
		expect(t, v, late, both, access.Good)
		if token.IsJWT(late) && i.Calls("introspect") != calls {
			t.Error("a JWT issued after the change of its role was introspected")
		}
	})
}

func TestKeyDestroyed(t *testing.T) {
	each(t, func(t *testing.T, i *verifytest.Issuer, issue func(verifytest.Token) string) {
		v := start(t, i.Config())
		text := issue(verifytest.Token{Scopes: []string{"a"}})
		expect(t, v, text, nil, access.Good)
		calls := i.Calls("introspect")
		i.DestroyKey()
		i.RotateKey(t, "EdDSA")
		time.Sleep(3 * time.Second)
		if token.IsJWT(text) {
			d, err := v.Check(t.Context(), text, nil)
			if err != nil || d.Allowed || d.Reason != access.Revoked && d.Reason != access.WrongEnvironment {
				t.Errorf("%+v, %v", d, err)
			}
			expect(t, v, issue(verifytest.Token{Scopes: []string{"a"}}), nil, access.Good)
		} else if expect(t, v, text, nil, access.Good); i.Calls("introspect") != calls+1 {
			t.Error("a token was not introspected again after an event about a key")
		}
	})
}

// An entity that is disabled has no event: an answer is kept for a minute at most.
func TestMaxAge(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		text := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}, Subject: "e"})
		expect(t, v, text, nil, access.Good)
		i.DisableSubject("e")
		time.Sleep(59 * time.Second)
		expect(t, v, text, nil, access.Good)
		time.Sleep(time.Second)
		expect(t, v, text, nil, access.SubjectDisabled)
	})
}

func TestNewEpoch(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		opaque, quiet := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		expect(t, v, opaque, nil, access.Good)
		expect(t, v, quiet, nil, access.Good)
		i.RevokeQuietly(opaque)
		i.RevokeQuietly(quiet)
		i.Restart()
		time.Sleep(2500 * time.Millisecond) // a poll, then a read of the status lists
		expect(t, v, opaque, nil, access.Revoked)
		expect(t, v, quiet, nil, access.Revoked)
		other := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
		i.Restart() // not yet polled: the answer is of an epoch that the verifier has not seen
		expect(t, v, other, nil, access.Good)
	})
}

// A JWT revoked without an event is refused when its status list is read again, after its ttl.
func TestStatusList(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		c.Vault, c.Issuer = nil, i.URL
		v := start(t, c)
		text := i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		expect(t, v, text, nil, access.Good)
		i.Revoke(text)
		expect(t, v, text, nil, access.Good)
		time.Sleep(62 * time.Second)
		expect(t, v, text, nil, access.Revoked)
		expect(t, v, i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), nil, access.WrongEnvironment)
		if n := i.Calls("oauth/status/7"); n > 3 {
			t.Errorf("%d reads of the status list in a minute", n)
		}
	})
}

// Vault is down: JWTs are good as long as their status list is, opaque tokens for ten seconds, and then for five seconds
// after they were introspected. Then nothing can be decided.
func TestOutage(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		opaque, jwt := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		free := i.JWT(t, verifytest.Token{Scopes: []string{"a"}, NoList: true})
		expect(t, v, opaque, nil, access.Good)
		expect(t, v, jwt, nil, access.Good)
		i.SetDown(true)
		time.Sleep(10 * time.Second)
		expect(t, v, opaque, nil, access.Good)
		time.Sleep(time.Second)
		expect(t, v, opaque, nil, "error")
		expect(t, v, i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), nil, "error")
		expect(t, v, i.JWT(t, verifytest.Token{Scopes: []string{"a"}}), nil, access.Good)
		expect(t, v, jwt, nil, access.Good)
		if s := v.State(); s.Ready || len(s.Problems) != 1 || s.FeedAge < 10*time.Second {
			t.Errorf("%+v", s)
		}
		time.Sleep(3 * time.Minute)
		expect(t, v, jwt, nil, "error")
		expect(t, v, free, nil, access.Good)
		time.Sleep(40 * time.Minute)
		expect(t, v, free, nil, access.Good)
		i.SetDown(false)
		time.Sleep(10 * time.Second)
		for _, text := range []string{opaque, jwt, free} {
			expect(t, v, text, nil, access.Good)
		}
		if s := v.State(); !s.Ready {
			t.Errorf("%+v", s)
		}
		i.SetDown(true)
		time.Sleep(61 * time.Minute)
		expect(t, v, i.JWT(t, verifytest.Token{Scopes: []string{"a"}, NoList: true}), nil, "error")
		i.SetDown(false)
	})
}

// The feed is out of reach, but introspection is not: answers are kept for five seconds.
func TestFeedOut(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		text := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
		expect(t, v, text, nil, access.Good)
		i.SetDown(true)
		time.Sleep(10500 * time.Millisecond)
		i.SetDown(false) // before the next poll
		expect(t, v, text, nil, access.Good)
		if n := i.Calls("introspect"); n != 2 {
			t.Errorf("%d introspections, want 2", n)
		}
	})
}
