package backend

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// Revoking by subject revokes every token of an entity, of every kind, and no token of another entity.
func TestRevokeSubject(t *testing.T) {
	e := newIssuer(t)
	e.system.become(entityBob, bob)
	e.write("roles/opaque", data{"scopes": "a"})
	e.write("roles/jwt", data{"token_format": "jwt", "scopes": "a", "audience": "api"})
	e.write("roles/mobile", data{"scopes": "a", "refresh": true, "access_ttl": "5m"})
	e.write("roles/static", data{"scopes": "a"})
	e.write("static-roles/bobs", data{"role": "static", "rotation_period": "24h", "entity_id": entityBob})
	static := e.read("static-creds/bobs")["token"].(string)
	var ann, bobs []*creds
	for _, role := range []string{"opaque", "jwt", "mobile"} {
		ann, bobs = append(ann, e.credsAs(entityAnn, role, nil)), append(bobs, e.credsAs(entityBob, role, nil))
	}
	ended := e.credsAs(entityBob, "opaque", nil)
	e.write("revoke", data{"token_id": ended.id})

	resp := e.do(logical.UpdateOperation, "revoke", data{"subject": entityBob})
	if resp.Data["revoked"] != 4 || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], `static role "bobs" makes a new token`) {
		t.Errorf("%v %q", resp.Data, resp.Warnings)
	}
	for range 2 {
		for i, c := range bobs {
			e.expect("revoked", c.token, nil)
			e.expect("active", ann[i].token, nil)
		}
		e.expect("revoked", static, nil)
		e = e.restart()
	}
	if resp := e.do(logical.UpdateOperation, "revoke", data{"subject": "nobody"}); resp.Data["revoked"] != 0 ||
		len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], `Vault has no entity "nobody"`) {
		t.Errorf("%v %q", resp.Data, resp.Warnings)
	}
	e.write("roles/short", data{"token_format": "jwt", "scopes": "a", "audience": "api", "generate_lease": false})
	if resp := e.do(logical.UpdateOperation, "revoke", data{"subject": "nobody"}); !strings.Contains(strings.Join(resp.Warnings, ""), `"short"`) {
		t.Errorf("no warning of JWTs without a lease: %q", resp.Warnings)
	}
	e.refused(logical.UpdateOperation, "revoke", data{"subject": ""}, "subject: is empty")
	e.refused(logical.UpdateOperation, "revoke", data{"subject": strings.Repeat("x", 200)}, "subject: ")
	e.refused(logical.UpdateOperation, "revoke", data{"subject": entityBob, "token_id": ended.id}, "give exactly one of token, token_id and subject")

	c := e.credsAs(entityBob, "opaque", nil)
	e.storage.broken.Store(true)
	if _, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "revoke", Data: data{"subject": entityBob}}); err == nil {
		t.Error("a revocation that is not stored succeeds")
	}
	e.storage.broken.Store(false)
	e.write("revoke", data{"subject": entityBob})
	e.expect("revoked", c.token, nil)
}

// A token of a service ends there, also one that the entity shares with another.
func TestRevokeSubjectUpstream(t *testing.T) {
	s := newShelf(t)
	e := onShelf(t, s)
	e.system.become(entityBob, bob)
	e.write("roles/shared", data{"connection": "shelf", "params": data{"books": "a"}, "ttl": "24h", "reuse": "1h"})
	stays := e.credsAs(entityAnn, "reader", nil)
	e.credsAs(entityBob, "reader", nil)
	e.credsAs(entityAnn, "shared", nil)
	e.credsAs(entityBob, "shared", nil)
	if got := e.write("revoke", data{"subject": entityBob}); got["revoked"] != 2 || s.live() != 1 {
		t.Errorf("%v, %d tokens are left", got, s.live())
	}
	if got := e.write("lookup", data{"token_id": stays.id})["state"]; got != "active" {
		t.Errorf("the token of another is %s", got)
	}
	e.credsAs(entityBob, "reader", nil)
	s.setFault(failing)
	resp := e.do(logical.UpdateOperation, "revoke", data{"subject": entityBob})
	if resp.Data["revoked"] != 1 || !strings.Contains(strings.Join(resp.Warnings, ""), "has not confirmed the revocation") {
		t.Errorf("%v %q", resp.Data, resp.Warnings)
	}
}
