package backend

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
)

// No text that listings show takes a token, wherever the token is in the text.
func TestNoTokenInNotes(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/r", data{"scopes": "a"})
	e.write("roles/jwt", data{"token_format": "jwt", "scopes": "a", "audience": "api"})
	c := e.creds("r", nil)
	e.report("api-1", 1, data{"token_id": c.id, "refusals": data{"proof_replayed": 1}})
	finding := e.list("findings/", nil)[0]
	for _, secret := range []string{c.token, e.creds("jwt", nil).token} {
		for _, text := range []string{secret, "token=" + secret, "(" + secret + ")", "https://api.example.com/?access_token=" + secret + "&x=1",
			"seen:" + secret + ".", "a/" + secret} {
			for path, d := range map[string]data{
				"suspend": {"token_id": c.id, "note": text}, "resume": {"token_id": c.id, "note": text},
				"findings/" + finding: {"note": text}, "attest/roles/r": {"note": text}, "roles/r": {"owner": text},
			} {
				for field := range d {
					if field != "token_id" && len(text) <= 256 {
						e.refused(logical.UpdateOperation, path, d, field+": contains a token")
					}
				}
			}
		}
	}
}

// A response to a finding that failed is tried again after a restart, as the answer says.
func TestFailedResponseSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/r", data{"scopes": []string{"a:read"}})
		e.write("config/detection", data{"proof_failed": "suspend"})
		c := e.creds("r", nil)
		e.storage.refuse.Store(new(string(ledger.SuspensionsPrefix)))
		e.report("api-1", 1, data{"token_id": c.id, "refusals": data{"proof_replayed": 1}})
		time.Sleep(2 * time.Second)
		list := e.findings(nil)
		if len(list) != 1 || list[0]["response"] != detect.Failed {
			t.Fatalf("found %v", list)
		}
		e.b.Cleanup(context.Background())
		e.storage.refuse.Store(nil)
		next := mountOn(t, e.storage, e.system)
		time.Sleep(time.Minute)
		next.expect("suspended", c.token, nil)
		if list := next.findings(nil); list[0]["response"] != detect.Suspended {
			t.Errorf("after a restart %v", list)
		}
		next.b.Cleanup(context.Background())
	})
}

// Revoking by subject does not pass over the tokens of a role that cannot be read: the role may become readable.
func TestRevokeSubjectOfABrokenRole(t *testing.T) {
	e := newEngine(t)
	e.system.become(entityBob, bob)
	e.write("roles/r", data{"scopes": "a"})
	c := e.credsAs(entityBob, "r", nil)
	entry, err := e.storage.Get(context.Background(), "role/r")
	if err != nil || entry == nil {
		t.Fatal(err)
	}
	e.minute()
	e.spoil("role/r", "noise")
	e = e.restart()
	resp := e.do(logical.UpdateOperation, "revoke", data{"subject": entityBob})
	e.spoil("role/r", string(entry.Value))
	e = e.restart()
	if reason := e.reason(c.token, nil); reason != "revoked" {
		t.Errorf("after %v %q, with the role readable again: %s", resp.Data, resp.Warnings, reason)
	}
}

// Revoking by subject warns if a page of the inventory, which may have tokens of the entity, cannot be read.
func TestRevokeSubjectOfABrokenInventory(t *testing.T) {
	e := newEngine(t)
	e.system.become(entityBob, bob)
	e.write("roles/r", data{"scopes": "a"})
	c := e.credsAs(entityBob, "r", nil)
	e.minute()
	e.b.Cleanup(context.Background())
	for _, key := range e.keysBelow(ledger.InventoryPrefix) {
		e.spoil(key, "noise")
	}
	e = mountOn(t, e.storage, e.system)
	e.warned("revoke", data{"subject": entityBob}, "cannot be read, and may have tokens of the entity")
	e.write("suspend", data{"subject": entityBob})
	e.expect("suspended", c.token, nil)
}

// Dropping a broken finding does not delete the finding that was found again meanwhile.
func TestBrokenFindingFoundAgain(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": []string{"a:read"}})
	c := e.creds("r", nil)
	reports := 0
	found := func() string {
		reports++
		e.report("api-1", reports, data{"token_id": c.id, "refusals": data{"proof_replayed": 1}})
		id := e.list("findings/", nil)[0]
		e.write("findings/"+id, data{"note": "x"})
		return id
	}
	id := found()
	e.minute()
	e.b.Cleanup(context.Background()) // a process that stops may write its findings once more
	e.spoil(detect.Prefix+"finding/"+id, "noise")
	e = mountOn(t, e.storage, e.system)
	if got := e.list("broken/", nil); len(got) != 1 {
		t.Fatalf("broken: %q", got)
	}
	found()
	if got := e.list("broken/", nil); len(got) != 0 {
		t.Errorf("the entry was written again, and is listed as broken: %q", got)
		e.do(logical.DeleteOperation, "broken/"+got[0], nil)
	}
	if e.restart().read("findings/"+id) == nil {
		t.Error("the finding is lost")
	}
}

// A suspended entity gets no token, also not the token of a static role.
func TestSuspendedEntityReadsNoStaticToken(t *testing.T) {
	e := newEngine(t)
	e.system.become(entityBob, bob)
	e.write("roles/r", data{"scopes": "a"})
	e.write("static-roles/s", data{"role": "r", "rotation_period": "24h"})
	e.write("suspend", data{"subject": entityBob})
	resp, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: "static-creds/s", EntityID: entityBob})
	e.saysNo(resp, err, "is suspended")
	if codeOf(err) != http.StatusForbidden {
		t.Errorf("%v is no 403", err)
	}
	e.read("static-creds/s")
	e.write("resume", data{"subject": entityBob})
	if resp, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: "static-creds/s", EntityID: entityBob}); err != nil || resp.IsError() {
		t.Errorf("after a resume: %v %v", resp, err)
	}
}

// A client from an address that may not read the token learns nothing of the review.
func TestReviewAfterAddress(t *testing.T) {
	e := newEngine(t)
	e.write("config", data{"enforce_review": true})
	e.write("roles/r", data{"scopes": "a", "request_bound_cidrs": "10.0.0.0/8"})
	e.write("static-roles/s", data{"role": "r", "rotation_period": "24h", "owner": "billing", "review_by": "2020-01-01"})
	resp, err := e.request(&logical.Request{
		Operation: logical.ReadOperation, Path: "static-creds/s", Connection: &logical.Connection{RemoteAddr: "192.0.2.1"},
	})
	if resp.IsError() {
		err = resp.Error()
	}
	if err == nil || strings.Contains(err.Error(), "billing") {
		t.Errorf("%v", err)
	}
}

// A late report of a revoked token does not make a finding that calls the token suspended.
func TestFindingOfARevokedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/r", data{"scopes": []string{"a:read"}})
		e.write("config/detection", data{"proof_failed": "suspend"})
		c := e.creds("r", nil)
		e.write("revoke", data{"token_id": c.id})
		e.report("api-1", 1, data{"token_id": c.id, "refusals": data{"proof_replayed": 1}})
		time.Sleep(2 * time.Second)
		if list := e.findings(nil); len(list) != 1 || list[0]["response"] != detect.Revoked {
			t.Errorf("found %v", list)
		}
		e.b.Cleanup(context.Background())
	})
}

// The refusals of a suspended token are the operator's doing: no rule revokes the token for them, so that resume is possible.
func TestRefusalsOfASuspendedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/r", data{"scopes": []string{"a:read"}})
		e.write("config/detection", data{"refused_burst": "revoke"})
		c, other := e.creds("r", nil), e.creds("r", nil)
		e.write("suspend", data{"token_id": c.id})
		e.report("api-1", 1, data{"token_id": c.id, "last_ip": "192.0.2.1", "refusals": data{"suspended": 5000}},
			data{"token_id": other.id, "refusals": data{"suspended": 5000, "insufficient_scope": 5000}})
		time.Sleep(5 * time.Second)
		e.expect("suspended", c.token, nil)
		e.expect("revoked", other.token, nil)
		if list := e.findings(nil); len(list) != 1 || list[0]["token_id"] != other.id {
			t.Errorf("found %v", list)
		}
		e.write("resume", data{"token_id": c.id})
		e.expect("active", c.token, nil)
		e.b.Cleanup(context.Background())
	})
}
