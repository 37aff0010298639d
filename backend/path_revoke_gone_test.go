package backend

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// A token whose key is gone is not taken for one whose grant was revoked: either the grant is found, or the answer says
// that it is not.
func TestRevokeByATokenWhoseKeyIsGone(t *testing.T) {
	for _, tokenFormat := range []string{"opaque", "jwt"} {
		for _, refresh := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				e := newIssuer(t)
				role := data{"token_format": tokenFormat, "scopes": "a", "audience": "x", "exchange": true, "refresh": refresh, "max_ttl": "24h", "ttl": "24h"}
				if refresh {
					role["access_ttl"] = "2h"
				}
				e.write("roles/app", role)
				first := e.creds("app", nil)
				time.Sleep(10 * time.Minute)
				e.write("keys/rotate", nil)
				var live []string
				if refresh {
					access, _ := e.mustRefresh(first.data["refresh_token"].(string))
					live = append(live, access)
				}
				_, answer := e.exchange(first.token, data{"ttl": "1h"})
				live = append(live, answer["access_token"].(string))
				made := e.do(logical.ListOperation, "keys/", nil).Data["key_info"].(data)
				for key, about := range made {
					if about.(data)["state"] == "retired" {
						e.do(logical.DeleteOperation, "keys/"+key, nil)
					}
				}
				e.expect("revoked", first.token, nil)
				active := func() bool {
					return slices.ContainsFunc(live, func(text string) bool { return e.reason(text, data{"audience": "x"}) == "active" })
				}
				if !active() {
					t.Fatal("nothing is left of the grant")
				}
				e.refused4xx("oauth/revoke", data{"token": first.token}, refusal.UnsupportedTokenType)
				if !active() {
					t.Error("a text that anybody can write has revoked a grant")
				}
				resp := e.do(logical.UpdateOperation, "revoke", data{"token": first.token})
				warned := resp != nil && len(resp.Warnings) == 1 && strings.Contains(resp.Warnings[0], "may be active")
				if warned == !active() {
					t.Errorf("%s, refresh=%v: active %v, warned %v", tokenFormat, refresh, active(), warned)
				}
				if found := tokenFormat == "jwt" || !refresh; found != !active() {
					t.Errorf("%s, refresh=%v: active %v", tokenFormat, refresh, active())
				}
				e.write("revoke", data{"token_id": first.id})
				if active() {
					t.Errorf("%s, refresh=%v: active after all", tokenFormat, refresh)
				}
			})
		}
	}
}

// Nor is an exchanged token whose key has run out, while its grant lives.
func TestRevokeByATokenWhoseKeyHasRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		e.write("roles/app", data{"scopes": "a", "exchange": true, "ttl": "24h", "max_ttl": "24h"})
		first := e.creds("app", nil)
		e.write("keys/rotate", nil)
		time.Sleep(time.Second)
		_, answer := e.exchange(first.token, data{"ttl": "1m"})
		exchanged := answer["access_token"].(string)
		e.write("keys/rotate", nil)
		time.Sleep(time.Hour)
		e.minute()
		e.expect("expired", exchanged, nil)
		e.expect("active", first.token, nil)
		e.refused4xx("oauth/revoke", data{"token": exchanged}, refusal.UnsupportedTokenType)
		resp := e.do(logical.UpdateOperation, "revoke", data{"token": exchanged})
		if resp == nil || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "may be active") {
			t.Error(resp)
		}
		e.expect("active", first.token, nil)
	})
}
