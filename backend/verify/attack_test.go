package verify_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// before calls a function before a request is sent, which may answer the request itself.
type before struct {
	http.RoundTripper
	call func(path string) *http.Response
}

func (b before) RoundTrip(r *http.Request) (*http.Response, error) {
	if resp := b.call(r.URL.Path); resp != nil {
		resp.Request, resp.Body = r, http.NoBody
		return resp, nil
	}
	return b.RoundTripper.RoundTrip(r)
}

func intercept(c *verify.Config, call func(path string) *http.Response) {
	c.HTTPClient = &http.Client{Transport: before{c.HTTPClient.Transport, call}}
}

// A read of the keys that began before a key was destroyed ends after the event: it must not bring the key back.
func TestDestroyedKeyDoesNotComeBack(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		text := i.JWT(t, verifytest.Token{Scopes: []string{"a"}, NoList: true})
		expect(t, v, text, nil, access.Good)
		var once sync.Once
		i.OnAnswer(func(path string) {
			if path == "oauth/jwks" {
				once.Do(func() {
					i.DestroyKey()
					i.RotateKey(t, "ES256")
					time.Sleep(2 * time.Second) // the feed is polled meanwhile
				})
			}
		})
		time.Sleep(5*time.Minute + 3*time.Second) // the keys are read
		once.Do(func() { t.Error("the keys were not read") })
		d, err := v.Check(t.Context(), text, nil)
		if err != nil || d.Allowed {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

// A key that was destroyed during a failover has no event: the keys are read again.
func TestKeyDestroyedInAFailover(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		text := i.JWT(t, verifytest.Token{Scopes: []string{"a"}, NoList: true})
		expect(t, v, text, nil, access.Good)
		i.DestroyKey()
		i.RotateKey(t, "ES256")
		i.Restart()
		time.Sleep(3 * time.Second)
		if d, err := v.Check(t.Context(), text, nil); err != nil || d.Allowed {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

// The clock steps back by an hour, and the feed is out of reach: answers are not kept for that hour.
func TestClockStepsBack(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		var offset atomic.Int64
		c := i.Config()
		c.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())).Round(0) }
		v := start(t, c)
		text := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}, RateLimit: "100/1m"})
		bad := verifytest.NewAt(t, time.Now).Opaque(t, verifytest.Token{})
		expect(t, v, text, nil, access.Good)
		expect(t, v, bad, nil, access.Unknown)
		offset.Store(-int64(time.Hour))
		time.Sleep(time.Second)
		expect(t, v, text, nil, access.Good) // the rate of before the step does not count
		expect(t, v, i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), nil, access.Good)
		offset.Store(-int64(2 * time.Hour))
		i.SetDown(true)
		time.Sleep(2 * time.Minute)
		expect(t, v, text, nil, "error")
		if v.State().Ready {
			t.Error("ready without a feed")
		}
		i.SetDown(false)
		time.Sleep(2 * time.Second)
		expect(t, v, text, nil, access.Good)
	})
}

// A JWT is issued, and its role tightened, while a poll waits for its answer: the JWT is older than the event, though
// younger than the poll.
func TestRoleTightenedDuringAPoll(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		c.ClockSkew = -1
		var armed atomic.Bool
		issued := make(chan string, 1)
		intercept(&c, func(path string) *http.Response {
			if strings.HasSuffix(path, "/feed") && armed.Swap(false) {
				time.Sleep(2 * time.Second)
				issued <- i.JWT(t, verifytest.Token{Role: "r", Scopes: []string{"a", "b"}})
				i.NarrowRole("r", "a")
			}
			return nil
		})
		v := start(t, c)
		armed.Store(true)
		time.Sleep(4500 * time.Millisecond)
		expect(t, v, <-issued, &verify.Use{Scopes: []string{"b"}}, access.InsufficientScope)
	})
}

// A verifier that starts after a role was tightened knows the events of before its start.
func TestRoleTightenedBeforeTheStart(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		text := i.JWT(t, verifytest.Token{Role: "r", Scopes: []string{"a", "b"}})
		i.NarrowRole("r", "a")
		for n := range 3000 { // several pages
			i.NarrowRole(fmt.Sprint("other-", n))
		}
		v := start(t, i.Config())
		if s := v.State(); s.Cursor != 3001 {
			t.Errorf("the cursor is %d", s.Cursor)
		}
		expect(t, v, text, &verify.Use{Scopes: []string{"b"}}, access.InsufficientScope)
		later := i.JWT(t, verifytest.Token{Role: "r", Scopes: []string{"a"}})
		time.Sleep(time.Minute)
		expect(t, v, later, nil, access.Good)
	})
}

// More roles change than a verifier remembers: JWTs of the forgotten roles do not get their scopes back.
func TestForgottenRoles(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		v := start(t, i.Config())
		text := i.JWT(t, verifytest.Token{Role: "r", Scopes: []string{"a", "b"}})
		i.NarrowRole("r", "a")
		time.Sleep(2 * time.Second)
		expect(t, v, text, &verify.Use{Scopes: []string{"b"}}, access.InsufficientScope)
		for n := range 10_001 {
			i.NarrowRole(fmt.Sprint("other-", n))
		}
		time.Sleep(2 * time.Second)
		expect(t, v, text, &verify.Use{Scopes: []string{"b"}}, access.InsufficientScope)
		time.Sleep(time.Minute) // later JWTs need no question
		calls := i.Calls("introspect")
		expect(t, v, i.JWT(t, verifytest.Token{Role: "r", Scopes: []string{"a"}}), nil, access.Good)
		if n := i.Calls("introspect") - calls; n != 0 {
			t.Errorf("%d introspections of a JWT that is younger than all events", n)
		}
	})
}

// The keys cannot be read, but the status lists can: a revocation is noticed in time. After an hour without keys no JWT is
// good, not even one that was seen before.
func TestKeysOutOfReach(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		c := i.Config()
		c.Issuer, c.Vault = i.URL, nil
		var broken atomic.Bool
		intercept(&c, func(path string) *http.Response {
			if broken.Load() && strings.HasSuffix(path, "/jwks") {
				return &http.Response{StatusCode: http.StatusBadGateway}
			}
			return nil
		})
		v := start(t, c)
		text := i.JWT(t, verifytest.Token{Scopes: []string{"a"}})
		free := i.JWT(t, verifytest.Token{Scopes: []string{"a"}, NoList: true, TTL: 3 * time.Hour})
		expect(t, v, text, nil, access.Good)
		expect(t, v, free, nil, access.Good)
		broken.Store(true)
		time.Sleep(5*time.Minute + 10*time.Second)
		expect(t, v, text, nil, access.Good)
		i.Revoke(text)
		time.Sleep(70 * time.Second)
		expect(t, v, text, nil, access.Revoked)
		expect(t, v, free, nil, access.Good)
		time.Sleep(time.Hour)
		expect(t, v, free, nil, "error")
	})
}
