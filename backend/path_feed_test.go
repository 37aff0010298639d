package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// follower is a verifier that reads the feed.
type follower struct {
	*engine
	epoch  any
	cursor any
}

func (e *engine) follow() *follower {
	at := e.read("feed")
	return &follower{e, at["epoch"], at["cursor"]}
}

// next returns the events since the last call, as "type id".
func (f *follower) next() (events []string, resync bool) {
	f.t.Helper()
	answer := f.do(logical.ReadOperation, "feed", data{"epoch": f.epoch, "cursor": f.cursor}).Data
	f.epoch, f.cursor = answer["epoch"], answer["cursor"]
	for _, e := range answer["events"].([]any) {
		events = append(events, fmt.Sprint(e.(map[string]any)["type"], " ", e.(map[string]any)["id"]))
	}
	return events, answer["resync"].(bool)
}

func (f *follower) expectEvents(want ...string) {
	f.t.Helper()
	if events, resync := f.next(); fmt.Sprint(events) != fmt.Sprint(want) || resync {
		f.t.Errorf("the events are %v (resync %t), want %v", events, resync, want)
	}
}

// Every way in which a live token loses what it was good for is in the feed.
func TestFeed(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/reader", data{"scopes": "a,b", "ttl": "1h", "max_ttl": "4h"})
	e.write("roles/signed", data{"token_format": "jwt", "scopes": "a", "audience": "x"})
	e.write("roles/refreshed", data{"scopes": "a", "refresh": true, "access_ttl": "5m"})
	f := e.follow()
	f.expectEvents()

	leased, byID, byToken, signed := e.creds("reader", nil), e.creds("reader", nil), e.creds("reader", nil), e.creds("signed", nil)
	refreshed := e.creds("refreshed", nil)
	f.expectEvents()
	e.revokeLease(leased)
	e.write("revoke", data{"token_id": byID.id})
	e.write("revoke", data{"token": byToken.token})
	e.revokeLease(signed)
	f.expectEvents("grant "+leased.id, "grant "+byID.id, "grant "+byToken.id, "grant "+signed.id)
	e.do(logical.UpdateOperation, "oauth/revoke", data{"token": refreshed.data["refresh_token"]})
	f.expectEvents("grant " + refreshed.data["grant_id"].(string))

	shortened := e.creds("reader", data{"ttl": "2h"})
	if resp, err := e.renew(shortened, 3*time.Hour); err != nil || resp.IsError() {
		t.Fatal(resp, err)
	}
	f.expectEvents()
	if resp, err := e.renew(shortened, time.Minute); err != nil || resp.IsError() {
		t.Fatal(resp, err)
	}
	f.expectEvents("grant " + shortened.id)

	e.write("roles/reader", data{"scopes": "a"})
	f.expectEvents("role reader")
	e.do(logical.DeleteOperation, "roles/signed", nil)
	f.expectEvents("role signed")
	key := e.write("keys/rotate", nil)["key"].(string)
	f.expectEvents()
	e.do(logical.DeleteOperation, "keys/"+key, nil)
	f.expectEvents("key " + key)

	// What other processes change is not in the feed.
	e.b.InvalidateKey(t.Context(), "role/reader")
	if events, resync := f.next(); len(events) > 0 || !resync {
		t.Errorf("%v, resync %t", events, resync)
	}
	f.expectEvents()
	e.write("config", data{"environment": "production"})
	if events, resync := f.next(); len(events) > 0 || !resync {
		t.Errorf("%v, resync %t", events, resync)
	}
	f.engine = e.restart()
	if events, resync := f.next(); len(events) > 0 || !resync {
		t.Errorf("%v, resync %t", events, resync)
	}
}

func TestFeedPages(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"}) // a new role concerns no token
	f := e.follow()
	for range 3 {
		e.write("roles/reader", data{"scopes": "a"})
	}
	answer := e.do(logical.ReadOperation, "feed", data{"epoch": f.epoch, "cursor": f.cursor, "limit": 2}).Data
	if len(answer["events"].([]any)) != 2 || answer["more"] != true {
		t.Error(answer)
	}
	f.cursor = answer["cursor"]
	f.expectEvents("role reader")
	for _, c := range []struct {
		with data
		want string
	}{
		{data{"limit": 0}, "limit: must be between 1 and 10000"},
		{data{"limit": 10001}, "limit: must be between 1 and 10000"},
		{data{"cursor": -1}, "cursor: must not be negative"},
		{data{"cursor": "x"}, "cursor: takes a whole number"},
		{data{"cursor": "99999999999999999999"}, "cursor"},
		{data{"since": "1"}, "since: is not a field"},
	} {
		e.refused(logical.ReadOperation, "feed", c.with, c.want)
	}
}

// An answer has the position in the feed up to which the answer knows all changes.
func TestIntrospectPosition(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	c := e.creds("reader", nil)
	f := e.follow()
	if answer := e.write("introspect", data{"token": c.token, "min_cursor": f.cursor}); answer["epoch"] != f.epoch || answer["cursor"] != f.cursor || answer["active"] != true {
		t.Error(answer, f.epoch, f.cursor)
	}
	e.revokeLease(c)
	f.next()
	if answer := e.write("introspect", data{"token": c.token}); answer["epoch"] != f.epoch || answer["cursor"] != f.cursor || answer["active"] != false {
		t.Error(answer, f.epoch, f.cursor)
	}

	// A standby may be behind: Vault forwards the request if the caller reads the feed.
	e.system.state.Store(uint32(consts.ReplicationPerformanceStandby))
	standby := e.restart()
	if answer := standby.write("introspect", data{"token": c.token}); answer["epoch"] != nil || answer["cursor"] != nil {
		t.Error(answer)
	}
	if _, err := standby.request(&logical.Request{Operation: logical.UpdateOperation, Path: "introspect", Data: data{"token": c.token, "min_cursor": 1}}); !errors.Is(err, logical.ErrReadOnly) {
		t.Error(err)
	}
}

// An answer that calls a token active has a position before the event of its revocation, however the two race.
func TestFeedAgainstIntrospect(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	raced := 0
	for range 2000 {
		c := e.creds("reader", nil)
		var answer *logical.Response
		var err error
		var wg sync.WaitGroup
		wg.Go(func() {
			answer, err = e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "introspect", Data: data{"token": c.token}})
		})
		e.revokeLease(c)
		end := e.read("feed")["cursor"].(int64) // the last event is the revocation
		wg.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if answer.Data["active"] == true {
			raced++
			if answer.Data["cursor"].(int64) >= end {
				t.Fatalf("the token is active at cursor %v, and was revoked at %d", answer.Data["cursor"], end)
			}
		}
	}
	t.Logf("the answer came first %d times of 2000", raced)
}

// unsure is storage that does what it is asked below a prefix, and then says that it failed.
type unsure struct {
	logical.Storage
	prefix string
}

func (u *unsure) said(key string) error {
	if strings.HasPrefix(key, u.prefix) {
		return errors.New("no answer")
	}
	return nil
}

func (u *unsure) Put(ctx context.Context, e *logical.StorageEntry) error {
	return errors.Join(u.Storage.Put(ctx, e), u.said(e.Key))
}

func (u *unsure) Delete(ctx context.Context, key string) error {
	return errors.Join(u.Storage.Delete(ctx, key), u.said(key))
}

func (e *engine) unsure(op logical.Operation, path, prefix string, d data) {
	e.t.Helper()
	resp, err := e.b.HandleRequest(e.t.Context(), &logical.Request{
		Operation: op, Path: path, Data: d, Storage: &unsure{e.storage, prefix}, MountPoint: "apitoken/",
		Connection: &logical.Connection{RemoteAddr: "127.0.0.1"},
	})
	if err == nil && !resp.IsError() {
		e.t.Fatal("the request succeeded")
	}
}

// heard fails if no event or resync has told of a change.
func (f *follower) heard(what string) {
	f.t.Helper()
	if events, resync := f.next(); len(events) == 0 && !resync {
		f.t.Errorf("%s: no event, no resync", what)
	}
}

// The deletion of a role was done by storage, and the answer was lost. The retry makes an event.
func TestFeedRoleDeletionRetried(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	c := e.creds("reader", nil)
	f := e.follow()
	e.unsure(logical.DeleteOperation, "roles/reader", role.Prefix, nil)
	f.next()                         // the verifier drops its answer ...
	e.expect("active", c.token, nil) // ... and keeps this answer
	e.do(logical.DeleteOperation, "roles/reader", nil)
	e.expect("role_deleted", c.token, nil)
	f.heard("the role is deleted")
}

// A role was tightened in storage, the answer was lost. A refused write makes the change known, with an event.
func TestFeedRoleWriteLearned(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a,b"})
	c := e.creds("reader", nil)
	f := e.follow()
	e.unsure(logical.UpdateOperation, "roles/reader", role.Prefix, data{"scopes": "a"})
	f.next()
	e.expect("active", c.token, data{"required_scopes": "b"})
	e.refused(logical.UpdateOperation, "roles/reader", data{"scopes": "a b c!\x01"}, "scopes")
	e.expect("insufficient_scope", c.token, data{"required_scopes": "b"})
	f.heard("the role is tightened")
}

// The destruction of a key was done by storage, the answer was lost. Maintain notices, with an event.
func TestFeedKeyDestructionNoticed(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	c := e.creds("reader", nil)
	key := e.b.Loaded().Sealing.Keys().Current().Name
	f := e.follow()
	e.unsure(logical.DeleteOperation, "keys/"+key, native.SealingPrefix+"-destroyed/", nil)
	f.next()
	e.expect("active", c.token, nil)
	e.minute()
	e.expect("revoked", c.token, nil)
	f.heard("the key is destroyed")
}

// A replaced node revokes. The active node learns of it by its own work, with an event.
func TestFeedForeign(t *testing.T) {
	for what, c := range map[string]struct {
		revoke func(replaced *engine, c *creds) // at the replaced node
		learn  func(e *engine)                  // what has the active node read storage again
		reason string
	}{
		"a key is destroyed: noticed within a minute": {
			func(replaced *engine, _ *creds) {
				replaced.do(logical.DeleteOperation, "keys/"+replaced.b.Loaded().Sealing.Keys().Current().Name, nil)
			},
			(*engine).minute, "revoked",
		},
		"a role is deleted: learned by the deletion at the active node": {
			func(replaced *engine, _ *creds) { replaced.do(logical.DeleteOperation, "roles/reader", nil) },
			func(e *engine) { e.do(logical.DeleteOperation, "roles/reader", nil) }, "role_deleted",
		},
		"a token is revoked: learned when the page is read again": {
			func(replaced *engine, c *creds) { replaced.write("revoke", data{"token_id": c.id}) },
			func(e *engine) {
				if err := e.b.Loaded().Deviations.Load(t.Context(), e.storage, e.b.Now()); err != nil {
					t.Fatal(err)
				}
			}, "revoked",
		},
	} {
		t.Run(what, func(t *testing.T) {
			e := newEngine(t)
			e.write("roles/reader", data{"scopes": "a"})
			issued := e.creds("reader", nil)
			replaced := mountOn(t, e.storage, e.system)
			f := e.follow()
			e.expect("active", issued.token, nil)
			c.revoke(replaced, issued)
			c.learn(e)
			e.expect(c.reason, issued.token, nil)
			f.heard(what)
		})
	}
}

// until is when the tokens would have been valid at the latest.
func TestFeedUntilOfRenewed(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "max_ttl": "8h"})
	for _, by := range []string{"token", "token_id"} {
		c := e.creds("reader", nil)
		if resp, err := e.renew(c, 6*time.Hour); err != nil || resp.IsError() {
			t.Fatal(resp, err)
		}
		f := e.follow()
		exp := e.write("introspect", data{"token": c.token})["exp"].(int64)
		e.write("revoke", data{by: map[string]string{"token": c.token, "token_id": c.id}[by]})
		answer := e.do(logical.ReadOperation, "feed", data{"epoch": f.epoch, "cursor": f.cursor}).Data
		until, err := time.Parse(time.RFC3339, answer["events"].([]any)[0].(map[string]any)["until"].(string))
		if err != nil {
			t.Fatal(err)
		}
		if until.Unix() < exp {
			t.Errorf("by %s: until %s, and the token was valid until %s", by, until, time.Unix(exp, 0).UTC())
		}
	}
}
