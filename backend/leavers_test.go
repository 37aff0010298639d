package backend

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

const entityBob = "0c5a2b1e-1111-4f0a-9e0b-3a8f0a1b2c3d"

var (
	bob    = &logical.Entity{ID: entityBob, Name: "bob"}
	bobOff = &logical.Entity{ID: entityBob, Name: "bob", Disabled: true}
)

// Who verifies JWTs offline is told of an entity that is disabled, by the status list and for good; an opaque token,
// of which only the engine is asked, is good again once the entity is enabled.
func TestLeaversJWT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		e.write("roles/signed", data{"scopes": "a", "token_format": "jwt", "audience": "https://x"})
		e.system.become(entityBob, bob)
		e.write("roles/opaque", data{"scopes": "a"})
		stays, leaves := e.credsAs(entityAnn, "signed", nil), e.credsAs(entityBob, "signed", nil)
		opaque := e.credsAs(entityBob, "opaque", nil)
		nobody := e.credsAs("", "signed", nil)
		e.b.Flush(t.Context())

		e.system.fall(errors.New("Vault is busy"))
		time.Sleep(3 * time.Minute)
		e.system.fall(nil)
		time.Sleep(3 * time.Minute)
		for _, token := range []string{stays.token, leaves.token, nobody.token} {
			if e.listedAsRevoked(token) {
				t.Error("revoked, though Vault does not say that the entity is disabled")
			}
		}

		e.system.become(entityBob, bobOff)
		time.Sleep(2*time.Minute + 2*time.Second)
		if !e.listedAsRevoked(leaves.token) {
			t.Error("the status list does not show the JWT of a disabled entity")
		}
		if e.listedAsRevoked(stays.token) || e.listedAsRevoked(nobody.token) {
			t.Error("the status list shows others")
		}
		e.expect("subject_disabled", opaque.token, nil)

		e.system.become(entityBob, bob)
		time.Sleep(2*time.Minute + 2*time.Second)
		e.expect("active", opaque.token, nil)
		if !e.listedAsRevoked(leaves.token) {
			t.Error("a revoked JWT revives")
		}
		e = e.restart()
		if !e.listedAsRevoked(leaves.token) {
			t.Error("a revoked JWT revives by a restart")
		}

		// What Vault said a minute ago is enough to refuse, and not to revoke for good.
		time.Sleep(3 * time.Minute)
		e.system.become(entityBob, bobOff)
		e.expect("subject_disabled", opaque.token, nil)
		e.system.become(entityBob, bob)
		again := e.credsAs(entityBob, "signed", nil)
		time.Sleep(3 * time.Minute)
		if e.listedAsRevoked(again.token) {
			t.Error("the JWT of an entity that is enabled again is revoked")
		}
	})
}

// The token of a static role ends with its entity, and the next comes when the entity is enabled again.
func TestLeaversStaticRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.system.become(entityBob, bob)
		e.write("roles/reader", data{"scopes": "a"})
		e.refused(logical.UpdateOperation, "static-roles/bobs", data{"role": "reader", "rotation_period": "24h", "entity_id": "none"}, `entity_id: Vault entity "none" is disabled or deleted`)
		e.write("static-roles/bobs", data{"role": "reader", "rotation_period": "24h", "overlap": "1h", "entity_id": entityBob})
		before := e.read("static-creds/bobs")["token"].(string)
		e.write("rotate-role/bobs", nil)
		token := e.read("static-creds/bobs")["token"].(string)
		if got := e.write("introspect", data{"token": token})["sub"]; got != entityBob {
			t.Errorf("the token is for %v", got)
		}

		e.system.become(entityBob, nil)
		time.Sleep(2*time.Minute + 2*time.Second)
		e.expect("revoked", token, nil)
		e.expect("revoked", before, nil)
		e.refused(logical.ReadOperation, "static-creds/bobs", nil, `entity_id: Vault entity "`+entityBob+`" is disabled or deleted`)
		if last, _ := e.read("static-roles/bobs")["last_error"].(string); !strings.Contains(last, "is disabled or deleted") {
			t.Errorf("last_error %q", last)
		}
		e.refused(logical.UpdateOperation, "rotate-role/bobs", nil, "is disabled or deleted")

		e.system.become(entityBob, bob)
		time.Sleep(10 * time.Minute)
		e.expect("active", e.read("static-creds/bobs")["token"].(string), nil)
		e.expect("revoked", token, nil)

		// Whose it is, the token says.
		e.write("static-roles/bobs", data{"entity_id": entityAnn})
		time.Sleep(2 * time.Second)
		if got := e.write("introspect", data{"token": e.read("static-creds/bobs")["token"]})["sub"]; got != entityAnn {
			t.Errorf("the token is for %v", got)
		}
	})
}

// A service is told of an entity that is disabled, also where Vault knows of no lease, and while it is down.
func TestLeaversUpstream(t *testing.T) {
	t.Parallel()
	c := new(clock)
	s := newShelf(t)
	e := onShelfPrepared(t, s, c.hurried)
	e.system.become(entityBob, bob)
	e.write("roles/shared", data{"connection": "shelf", "params": data{"books": "a"}, "ttl": "24h", "reuse": "1h"})
	e.write("roles/leaseless", data{"connection": "shelf", "params": data{"books": "a"}, "ttl": "24h", "generate_lease": false})
	e.write("static-roles/bobs", data{"role": "reader", "rotation_period": "24h", "entity_id": entityBob})
	stays := e.credsAs(entityAnn, "reader", data{"ttl": "2h"})
	e.credsAs(entityBob, "reader", data{"ttl": "2h"})
	e.credsAs(entityAnn, "shared", nil)
	leaves := e.credsAs(entityBob, "shared", nil)
	if resp, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: "creds/leaseless", EntityID: entityBob}); err != nil || resp.IsError() {
		t.Fatal(resp, err)
	}
	look := func() {
		t.Helper()
		for range 4 { // one entity at a time, and rounds are a minute apart
			c.pass(time.Minute)
			e.b.Leavers.Wake()
			time.Sleep(20 * time.Millisecond)
		}
	}
	look()
	if s.live() != 5 {
		t.Fatalf("%d tokens", s.live())
	}
	s.setFault(failing)
	e.system.become(entityBob, bobOff)
	queued := func() int { return e.read("connections/shelf")["queue"].(map[string]any)["count"].(int) }
	for rounds := 0; queued() != 4; rounds++ {
		if rounds == 1000 {
			t.Fatalf("%d tokens are to be revoked", queued())
		}
		if rounds%50 == 0 {
			c.pass(time.Minute)
		}
		e.b.Leavers.Wake()
		time.Sleep(20 * time.Millisecond)
	}
	e = e.restart()
	s.setFault(nil)
	e.settled()
	if s.live() != 1 {
		t.Errorf("%d tokens", s.live())
	}
	if got := e.write("lookup", data{"token_id": stays.id})["state"]; got != "active" {
		t.Errorf("the token of another is %s", got)
	}
	if got := e.write("lookup", data{"token_id": leaves.id})["state"]; got != "revoked" {
		t.Errorf("the shared token of a leaver is %s", got)
	}
	e.system.become(entityBob, bob)
	look()
	e.settled()
	if got := e.write("lookup", data{"token_id": leaves.id})["state"]; got != "revoked" && got != "unknown" {
		t.Errorf("the token revives: %s", got)
	}
}
