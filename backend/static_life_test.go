package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
)

// clock is one that a test puts forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *clock) pass(d time.Duration) { c.ahead.Add(int64(d)) }

// hurried mounts tell the time by the clock, and look around all the time.
func (c *clock) hurried(b *backend) {
	b.Now = c.now
	hurry(b)
}

// keptToken waits until a static role has a token that may be read.
func (e *engine) keptToken(name string) string {
	e.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		resp, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: "static-creds/" + name})
		if err == nil && resp != nil && !resp.IsError() {
			return resp.Data["token"].(string)
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("no token of static role %s: %v, %v", name, resp, err)
		}
	}
}

// keeps checks for a while that whatever a static role gives works until it says.
func (e *engine) keeps(name string, steps int, step time.Duration) {
	e.t.Helper()
	for range steps {
		creds := e.read("static-creds/" + name)
		token, ttl := creds["token"].(string), time.Duration(creds["ttl"].(int64))*time.Second
		e.expect("active", token, nil)
		if ttl > 0 && ttl < step {
			time.Sleep(ttl - time.Second)
			e.expect("active", token, nil)
			time.Sleep(step - ttl + time.Second)
		} else {
			time.Sleep(step)
		}
		e.minute()
		time.Sleep(2 * time.Second)
	}
}

// A token is never kept longer than it lives, whatever becomes of the period, and ttl is true.
func TestStaticTokenDoesNotOutliveItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a"})
		e.write("static-roles/longer", data{"role": "reader", "rotation_period": "1h"})
		e.write("static-roles/longer", data{"rotation_period": "720h"})
		e.keeps("longer", 24, 3*time.Hour)

		// A description is no reason to put the rotation off.
		before := e.read("static-creds/longer")["next_vault_rotation"]
		time.Sleep(time.Hour)
		e.write("static-roles/longer", data{"description": "x"})
		if after := e.read("static-creds/longer")["next_vault_rotation"]; after != before {
			t.Errorf("the rotation moved from %s to %s", before, after)
		}
		// One that is overdue by the new period is rotated at once.
		token := e.read("static-creds/longer")["token"]
		e.write("static-roles/longer", data{"rotation_period": "30m"})
		time.Sleep(2 * time.Second)
		if e.read("static-creds/longer")["token"] == token {
			t.Error("not rotated")
		}
	})
}

// A missed window is skipped only where the token outlives the next.
func TestStaticWindowsMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a"})
		e.write("static-roles/weekly", data{"role": "reader", "rotation_schedule": "0 3 * * SAT", "rotation_window": "1h"})
		first := e.read("static-creds/weekly")["token"]
		for week := range 6 { // Vault is down in each window
			e.b.Cleanup(t.Context())
			time.Sleep(6 * time.Hour)
			e = mountOn(t, e.storage, e.system)
			time.Sleep(2 * time.Second)
			e.keeps("weekly", 54, 3*time.Hour)
			if week == 0 && e.read("static-creds/weekly")["token"] != first {
				t.Error("rotated outside of the window, though the token lives")
			}
		}
	})
}

// A service that lets tokens live for less is asked in time for the next.
func TestStaticTokenOfAnUpstreamThatEndsSooner(t *testing.T) {
	t.Parallel()
	c := new(clock)
	s := newShelf(t)
	e := onShelfPrepared(t, s, c.hurried)
	s.ends = c.now().Add(time.Hour).Unix()
	resp := e.do(logical.UpdateOperation, "static-roles/legacy", data{"role": "reader", "rotation_period": "24h", "overlap": "10m"})
	if resp == nil || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "so it is rotated at") {
		t.Errorf("no warning: %v", resp)
	}
	creds := e.read("static-creds/legacy")
	if ttl := creds["ttl"].(int64); ttl > 50*60 || ttl < 20*60 {
		t.Errorf("ttl %d, and the token lives for an hour", ttl)
	}
	// It is not rotated while the service is down; then the answer is an error and not the token.
	s.setFault(failing)
	c.pass(61 * time.Minute)
	e.refused(logical.ReadOperation, "static-creds/legacy", nil, `static role "legacy" has no token that works: the token expired or was revoked`)
	s.mu.Lock()
	s.ends = 0
	s.mu.Unlock()
	s.setFault(nil)
	c.pass(10 * time.Minute)
	if e.keptToken("legacy") == creds["token"] {
		t.Error("not rotated")
	}
}

// Neither privileged scopes nor the addresses of a role are got round by a static role.
func TestStaticRoleIsHeldToItsRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/admin", data{"scopes": "admin", "allow_privileged": true})
		e.write("roles/boss", data{"scopes": "boss", "request_bound_cidrs": "127.0.0.0/8"})
		e.write("static-roles/admin", data{"role": "admin", "rotation_period": "1h"})
		e.write("static-roles/boss", data{"role": "boss", "rotation_period": "1h"})
		boss := e.read("static-creds/boss")["token"].(string)

		resp, err := e.request(&logical.Request{
			Operation: logical.ReadOperation, Path: "static-creds/boss", Connection: &logical.Connection{RemoteAddr: "10.1.2.3"},
		})
		if coded := logical.HTTPCodedError(nil); !errors.As(err, &coded) || coded.Code() != 403 {
			t.Errorf("read from elsewhere: %v, %v", resp, err)
		}

		// A role that is privileged by now: no new token, and the reason can be seen; the current one goes on.
		e.write("config", data{"privileged_scopes": "admin,boss"})
		e.refused(logical.UpdateOperation, "static-roles/other", data{"role": "boss", "rotation_period": "1h"}, `role "boss" holds ["boss"], privileged by`)
		e.refused(logical.UpdateOperation, "rotate-role/boss", nil, `role "boss" holds ["boss"], privileged by`)
		time.Sleep(time.Hour + time.Minute)
		if last, _ := e.read("static-roles/boss")["last_error"].(string); !strings.Contains(last, `holds ["boss"], privileged by`) {
			t.Errorf("last_error %q", last)
		}
		if token := e.read("static-creds/boss")["token"]; token != boss {
			t.Error("rotated")
		}
		e.expect("active", boss, nil)
		if e.read("static-roles/admin")["last_error"] != nil {
			t.Error("the role with allow_privileged was not rotated")
		}
		e.write("roles/boss", data{"allow_privileged": true})
		time.Sleep(6 * time.Minute)
		if got := e.read("static-roles/boss"); got["last_error"] != nil || e.read("static-creds/boss")["token"] == boss {
			t.Errorf("not rotated: %v", got)
		}
	})
}

// A token that has become good for nothing is replaced before its time, whatever did that.
func TestStaticTokenGoodForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a"})
		e.write("static-roles/kept", data{"role": "reader", "rotation_period": "720h", "overlap": "1h"})
		first := e.read("static-creds/kept")["token"].(string)
		e.do(logical.DeleteOperation, "keys/"+e.list("keys/", nil)[0], nil)
		time.Sleep(2 * time.Second)
		second := e.read("static-creds/kept")["token"].(string)
		e.expect("revoked", first, nil)
		e.expect("active", second, data{"required_scopes": "a"})

		e.write("roles/reader", data{"scopes": "b"})
		time.Sleep(2 * time.Minute)
		third := e.read("static-creds/kept")["token"].(string)
		e.expect("active", third, data{"required_scopes": "b"})
		e.refused(logical.UpdateOperation, "static-roles/often", data{"role": "reader", "rotation_schedule": "0 * * * *", "overlap": "2h"}, "overlap: 2h is more than the 1h between two times of rotation_schedule")
	})
}

// The inventory lists the tokens of static roles, whichever request or rotation made them, and after a crash too.
func TestStaticTokensAreListed(t *testing.T) {
	t.Parallel()
	c := new(clock)
	s := newShelf(t)
	e := onShelfPrepared(t, s, c.hurried)
	e.write("roles/native", data{"scopes": "a"})
	for name, role := range map[string]string{"ours": "native", "theirs": "reader"} {
		e.write("static-roles/"+name, data{"role": role, "rotation_period": "1h"})
		e.b.Flush(t.Context())
		for _, key := range e.keysBelow(ledger.InventoryPrefix) { // which a crash may lose
			if err := e.storage.InmemStorage.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		e = e.restart()
		creds := e.read("static-creds/" + name)
		if !eventually(func() bool { return e.read("tokens/"+creds["token_id"].(string)) != nil }) {
			t.Fatalf("%s is not listed", name)
		}
		for field, value := range map[string]any{"token": creds["token"], "token_id": creds["token_id"]} {
			row := e.write("lookup", data{field: value})
			if row["state"] != "active" || row["role"] != role || row["display_name"] != "static role "+name {
				t.Errorf("%s by %s: %v", name, field, row)
			}
		}
	}
}

// A token is not ended because storage takes long to learn who has it.
func TestStaticRotationIsNotReaped(t *testing.T) {
	t.Parallel()
	c := new(clock)
	s := newShelf(t)
	e := onShelfPrepared(t, s, c.hurried)
	slow := &mortal{Storage: e.storage}
	slow.before = func(op string) {
		if strings.HasPrefix(op, "put "+static.Prefix) {
			c.pass(time.Minute)
			time.Sleep(100 * time.Millisecond) // for the reaper
		}
	}
	resp, err := e.b.HandleRequest(t.Context(), &logical.Request{
		Operation: logical.UpdateOperation, Path: "static-roles/legacy", Storage: slow, MountPoint: "apitoken/",
		Connection: &logical.Connection{}, Data: data{"role": "reader", "rotation_period": "1h"},
	})
	if err != nil || resp.IsError() {
		t.Fatal(resp, err)
	}
	if s.live() != 1 {
		t.Errorf("%d tokens", s.live())
	}
	e.read("static-creds/legacy")
}

// A rotation whose write has failed leaves a token that works, whether the write was done or not, and no other.
func TestStaticWriteThatFails(t *testing.T) {
	t.Parallel()
	c := new(clock)
	e := mountPrepared(t, new(storage), newSystem(), c.hurried)
	e.write("roles/reader", data{"scopes": "a"})
	e.write("static-roles/kept", data{"role": "reader", "rotation_period": "24h"})
	for _, done := range []bool{false, true} {
		before := e.keptToken("kept")
		var made string
		fail := func(entry *logical.StorageEntry) error {
			var stored static.Entry
			if !strings.HasPrefix(entry.Key, static.Prefix) {
				return nil
			}
			if err := entry.DecodeJSON(&stored); err != nil {
				t.Fatal(err)
			}
			made = stored.Current.Text
			return errBroken
		}
		s := &mortal{Storage: e.storage, instead: fail}
		if done {
			s = &mortal{Storage: e.storage, after: fail}
		}
		_, err := e.b.HandleRequest(t.Context(), &logical.Request{
			Operation: logical.UpdateOperation, Path: "rotate-role/kept", Storage: s, MountPoint: "apitoken/", Connection: &logical.Connection{},
		})
		if (err == nil) != done {
			t.Errorf("done %t: %v", done, err)
		}
		e = e.restart()
		current := e.keptToken("kept")
		e.expect("active", current, nil)
		other := made
		if done {
			other = before
		}
		if current == other {
			t.Errorf("done %t: the current token is the other one", done)
		}
		e.expect("revoked", other, nil)
	}
}

// mortal is a storage that dies before an operation, and with it the process that uses it.
type mortal struct {
	logical.Storage
	ops, dies atomic.Int64                      // dies: before which operation; 0: never
	before    func(op string)                   // an operation; nil: nothing
	after     func(*logical.StorageEntry) error // a write; its error is returned although the write was done; nil: none
	instead   func(*logical.StorageEntry) error // of a write; its error is returned, and nothing is written; nil: none
}

func (s *mortal) alive(op, key string) error {
	if n := s.ops.Add(1); s.dies.Load() > 0 && n >= s.dies.Load() {
		return fmt.Errorf("%s %s: %w", op, key, errBroken)
	}
	if s.before != nil {
		s.before(op + " " + key)
	}
	return nil
}

func (s *mortal) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := s.alive("get", key); err != nil {
		return nil, err
	}
	return s.Storage.Get(ctx, key)
}

func (s *mortal) List(ctx context.Context, prefix string) ([]string, error) {
	if err := s.alive("list", prefix); err != nil {
		return nil, err
	}
	return s.Storage.List(ctx, prefix)
}

func (s *mortal) Put(ctx context.Context, e *logical.StorageEntry) error {
	if err := s.alive("put", e.Key); err != nil {
		return err
	}
	if s.instead != nil {
		if err := s.instead(e); err != nil {
			return err
		}
	}
	if err := s.Storage.Put(ctx, e); err != nil || s.after == nil {
		return err
	}
	return s.after(e)
}

func (s *mortal) Delete(ctx context.Context, key string) error {
	if err := s.alive("delete", key); err != nil {
		return err
	}
	return s.Storage.Delete(ctx, key)
}

// A token that a static role gave up does not count for max_tokens either, not even on a node whose clock is behind, by
// which the token still works.
func TestStaticTokensDoNotCount(t *testing.T) {
	t.Parallel()
	c := new(clock)
	e := mountPrepared(t, new(storage), newSystem(), c.hurried)
	e.write("roles/reader", data{"scopes": "a", "max_tokens": 1})
	e.write("static-roles/kept", data{"role": "reader", "rotation_period": "24h", "overlap": "1h"})
	e.write("rotate-role/kept", nil)
	c.pass(time.Hour + time.Minute)
	e.write("rotate-role/kept", nil) // the overlap of the first token is over
	c.pass(-2 * time.Minute)
	e.creds("reader", nil)
	e.refused(logical.UpdateOperation, "creds/reader", nil, "max_tokens")
}

// A role that has become one of JWTs has no token for a static role any more, and the operator learns why.
func TestStaticRoleOfJWTs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config", data{"issuer": "https://vault.example.com/v1/apitoken"})
		e.write("roles/reader", data{"scopes": "a"})
		e.write("static-roles/kept", data{"role": "reader", "rotation_period": "1h"})
		e.write("roles/reader", data{"token_format": "jwt", "audience": "x"})
		e.refused(logical.UpdateOperation, "rotate-role/kept", nil, `static role "kept" was not rotated: the role issues JWTs now`)
		e.refused(logical.UpdateOperation, "static-roles/kept", data{"overlap": "1m"}, `role: role "reader" has JWTs`)
	})
}
