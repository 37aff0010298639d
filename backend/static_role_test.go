package backend

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestStaticRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		start := time.Now()
		e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "max_ttl": "1h"})
		e.write("static-roles/legacy", data{"role": "reader", "rotation_period": "24h", "overlap": "1h", "description": "a box that cannot ask"})
		first := e.read("static-creds/legacy")
		if first["ttl"] != int64(24*3600) || first["last_vault_rotation"] != start.UTC().Format(time.RFC3339) {
			t.Error(first)
		}
		token := first["token"].(string)
		e.expect("active", token, data{"required_scopes": "a"})
		if got := fmt.Sprint(e.read("static-roles/legacy")["role"], e.list("static-roles/", nil)); got != "reader[legacy]" {
			t.Error(got)
		}
		e.refused(logical.DeleteOperation, "roles/reader", nil, `name: static role "legacy" keeps a token of role "reader"`)

		// It outlives the role's max_ttl, and is rotated on time; the one before works on for the overlap.
		time.Sleep(24*time.Hour - time.Minute)
		e.expect("active", token, nil)
		time.Sleep(2 * time.Minute)
		second := e.read("static-creds/legacy")
		next := second["token"].(string)
		if next == token || second["previous_token_expires_at"] == nil {
			t.Error(second)
		}
		e.expect("active", token, nil)
		e.expect("active", next, nil)
		time.Sleep(time.Hour)
		if reason := e.reason(token, nil); reason == "active" {
			t.Error("the token before still works after the overlap")
		}
		e.expect("active", next, nil)
		if e.read("static-creds/legacy")["previous_token_expires_at"] != nil {
			t.Error("it is still told of")
		}

		// A rotation that was missed is made up for once, with the times counted from then.
		e.b.Cleanup(t.Context())
		time.Sleep(60 * time.Hour)
		e = mountOn(t, e.storage, e.system)
		time.Sleep(2 * time.Second)
		third := e.read("static-creds/legacy")
		if third["token"] == next || third["ttl"].(int64) < 24*3600-10 {
			t.Error(third)
		}
		for range 3 {
			e.minute()
			time.Sleep(30 * 24 * time.Hour / 3)
		}
		if reason := e.reason(token, nil); reason == "active" {
			t.Error("an old token works again")
		}

		// One that leaks is revoked, and replaced at once.
		leaked := e.read("static-creds/legacy")["token"].(string)
		e.write("revoke", data{"token": leaked})
		time.Sleep(2 * time.Second)
		replaced := e.read("static-creds/legacy")["token"].(string)
		e.expect("revoked", leaked, nil)
		e.expect("active", replaced, nil)

		e.write("static-roles/legacy", data{"overlap": "0s"})
		e.write("rotate-role/legacy", nil)
		e.expect("revoked", replaced, nil)
		last := e.read("static-creds/legacy")["token"].(string)
		e.do(logical.DeleteOperation, "static-roles/legacy", nil)
		e.expect("revoked", last, nil)
		e.do(logical.DeleteOperation, "roles/reader", nil)
	})
}

func TestStaticSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it is Saturday, 1 January 2000, in a bubble
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a"})
		e.write("static-roles/legacy", data{"role": "reader", "rotation_schedule": "0 3 * * SAT", "rotation_window": "2h"})
		first := e.read("static-creds/legacy")
		if first["next_vault_rotation"] != "2000-01-01T03:00:00Z" || first["rotation_schedule"] != "0 3 * * SAT" || first["rotation_window"] != int64(7200) {
			t.Error(first)
		}
		time.Sleep(3*time.Hour + 2*time.Second)
		second := e.read("static-creds/legacy")
		if second["token"] == first["token"] || second["next_vault_rotation"] != "2000-01-08T03:00:00Z" {
			t.Error(second)
		}
		// Vault is down over the window: the rotation is left to the next time.
		e.b.Cleanup(t.Context())
		time.Sleep(7*24*time.Hour + 3*time.Hour)
		e = mountOn(t, e.storage, e.system)
		time.Sleep(2 * time.Second)
		third := e.read("static-creds/legacy")
		if third["token"] != second["token"] || third["next_vault_rotation"] != "2000-01-15T03:00:00Z" {
			t.Error(third)
		}
		e.expect("active", third["token"].(string), nil)
	})
}

func TestStaticRoleRefuses(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/reader", data{"scopes": "a"})
	e.write("roles/signed", data{"scopes": "a", "token_format": "jwt", "audience": "x"})
	e.write("static-roles/legacy", data{"role": "reader", "rotation_period": "1h"})
	for _, c := range []struct {
		path string
		d    data
		want string
	}{
		{"static-roles/x", data{"rotation_period": "1h"}, "role: is needed"},
		{"static-roles/x", data{"role": "none", "rotation_period": "1h"}, `role: there is no role "none"`},
		{"static-roles/x", data{"role": "signed", "rotation_period": "1h"}, `role: role "signed" has JWTs`},
		{"static-roles/x", data{"role": "reader"}, "rotation_period: is needed, or rotation_schedule"},
		{"static-roles/x", data{"role": "reader", "rotation_period": "1s"}, "rotation_period: 1s is not between 5s and"},
		{"static-roles/x", data{"role": "reader", "rotation_period": "1h", "rotation_schedule": "* * * * *"}, "not both"},
		{"static-roles/x", data{"role": "reader", "rotation_schedule": "often"}, `rotation_schedule: "often" is no cron schedule`},
		{"static-roles/x", data{"role": "reader", "rotation_period": "1h", "rotation_window": "2h"}, "rotation_window: requires rotation_schedule"},
		{"static-roles/x", data{"role": "reader", "rotation_schedule": "* * * * *", "rotation_window": "1m"}, "rotation_window: 1m is less than 1h"},
		{"static-roles/x", data{"role": "reader", "rotation_period": "1h", "overlap": "2h"}, "overlap: 2h is more than rotation_period"},
		{"static-roles/legacy", data{"role": "signed"}, `role: is "reader" and cannot be changed`},
		{"rotate-role/x", nil, `name: there is no static role "x"`},
	} {
		e.refused(logical.UpdateOperation, c.path, c.d, c.want)
	}
	if e.read("static-roles/x") != nil || e.read("static-creds/x") != nil {
		t.Error("it was written")
	}
}

// Whatever goes wrong in a rotation, the static role has a token that works, and the service none that nobody
// knows of.
func TestStaticUpstreamFaults(t *testing.T) {
	t.Parallel()
	c := new(clock)
	s := newShelf(t)
	e := onShelfPrepared(t, s, c.hurried)
	e.write("static-roles/legacy", data{"role": "reader", "rotation_period": "1h", "overlap": "0s"})
	works := func() string {
		t.Helper()
		e.settled()
		token := e.read("static-creds/legacy")["token"].(string)
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, there := s.tokens[token[len("shelf-token-"):]]; !there || len(s.tokens) != 1 {
			t.Errorf("%s of %v", token, s.tokens)
		}
		return token
	}
	first := works()
	e.write("rotate-role/legacy", nil)
	second := works()
	if second == first {
		t.Error("not rotated")
	}
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request, func()) bool{
		"reset": reset, "reset after": resetAfter, "truncated": truncated, "nonsense": nonsense, "500": failing,
	} {
		s.setFault(func(w http.ResponseWriter, r *http.Request, done func()) bool {
			return r.Method == http.MethodPost && fault(w, r, done)
		})
		e.refused(logical.UpdateOperation, "rotate-role/legacy", nil, `static role "legacy" was not rotated: connection "shelf": no token was issued`)
		s.setFault(nil)
		if works() != second {
			t.Errorf("%s: the token has changed", name)
		}
	}

	// The new token is there, and cannot be written down.
	s.setFault(once(http.MethodPost, func(http.ResponseWriter, *http.Request, func()) bool {
		e.storage.broken.Store(true)
		return false
	}))
	if resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "rotate-role/legacy"}); err == nil {
		t.Errorf("rotated, and not stored: %v", resp)
	}
	e.storage.broken.Store(false)
	e = e.restart()
	if works() != second {
		t.Error("the token has changed")
	}

	// With an overlap there are two for a while; the old one cannot be ended at first.
	e.write("static-roles/legacy", data{"overlap": "5m"})
	e.write("rotate-role/legacy", nil)
	if s.live() != 2 {
		t.Errorf("%d tokens", s.live())
	}
	s.setFault(failing)
	c.pass(5 * time.Minute)
	e = e.restart()
	s.setFault(nil)
	if !eventually(func() bool { return s.live() == 1 }) {
		t.Errorf("%d tokens after the overlap", s.live())
	}
	third := works()

	// It was ended at the service's own console... here by the leak drill: it is replaced.
	e.write("revoke", data{"token": third})
	if e.keptToken("legacy") == third {
		t.Error("it is not replaced")
	}
	works()
	e.do(logical.DeleteOperation, "static-roles/legacy", nil)
	e.settled()
	if s.live() != 0 {
		t.Errorf("%d tokens", s.live())
	}
}

// A period of weeks is kept without a warning: the token's life allows for it.
func TestStaticRoleWarnsOfNoRotationOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a"})
		for _, period := range []string{"24h", "168h", "720h"} {
			resp := e.do(logical.UpdateOperation, "static-roles/r"+period, data{"role": "reader", "rotation_period": period, "overlap": "1h"})
			if resp != nil && len(resp.Warnings) > 0 {
				t.Errorf("%s: %v", period, resp.Warnings)
			}
		}
	})
}
