package backend

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func TestTokens(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a,b"})
	e.write("roles/writer", data{"scopes": "c"})
	issued := make(map[string]string)
	for i := range 25 {
		role := []string{"reader", "writer"}[i%2]
		issued[e.creds(role, nil).id] = role
	}

	for _, e := range []*engine{e, e.restart()} { // a clean stop loses nothing
		seen := make(map[string]string)
		after := ""
		for {
			resp := e.do(logical.ListOperation, "tokens/", data{"limit": 10, "after": after})
			keys, _ := resp.Data["keys"].([]string)
			for _, id := range keys {
				seen[id] = resp.Data["key_info"].(data)[id].(data)["role"].(string)
				after = id
			}
			if (len(resp.Warnings) > 0) != (len(seen) < len(issued)) {
				t.Errorf("%d of %d listed, warnings %q", len(seen), len(issued), resp.Warnings)
			}
			if len(keys) < 10 {
				break
			}
		}
		if fmt.Sprint(seen) != fmt.Sprint(issued) {
			t.Errorf("listed %v\nissued %v", seen, issued)
		}
		if n := len(e.list("tokens/", data{"role": "writer"})); n != 12 {
			t.Errorf("%d tokens of writer", n)
		}
	}
	if e.read("tokens/000000000000000000000000") != nil {
		t.Error("a token is known that was never issued")
	}
	e.refused(logical.ReadOperation, "tokens/xyz", nil, "token_id: must be 24")
	e.refused(logical.ListOperation, "tokens/", data{"after": "xyz"}, "after: must be 24")
	e.refused(logical.ListOperation, "tokens/", data{"limit": "-3"}, "limit: must be at least 1")
	e.refused(logical.ListOperation, "tokens/", data{"limit": 1001}, "limit: 1001 is too large, at most 1000 is allowed")
	e.list("tokens/", data{"limit": 1000})
	e.refused(logical.ListOperation, "tokens/", data{"page": "3"}, "page: is not a field")
}

// A page is at most some MiB, whatever the rows hold, and pages go on where the last one ended.
func TestPagesOfLongRows(t *testing.T) {
	e := newEngine(t)
	const rows = 1200
	long := strings.Repeat(strings.Repeat("s", 128)+" ", 100)
	for n := range rows {
		e.b.Loaded().Inventory.Add(ledger.Row{
			ID: token.ID{byte(n >> 8), byte(n), 1}, IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
			Holder: ledger.Holder{Role: "reader", Scopes: long},
		})
	}
	seen := 0
	for after := ""; seen < rows; {
		resp := e.do(logical.ListOperation, "tokens/", data{"after": after})
		keys := resp.Data["keys"].([]string)
		encoded, err := json.Marshal(resp.Data)
		if err != nil || len(encoded) > 3<<19 || len(keys) == 0 {
			t.Fatalf("a page of %d rows and %d bytes, %v", len(keys), len(encoded), err)
		}
		seen, after = seen+len(keys), keys[len(keys)-1]
		if (len(resp.Warnings) > 0) != (seen < rows) {
			t.Errorf("%d rows listed, warnings %q", seen, resp.Warnings)
		}
	}
}

func TestTokensThatHaveEndedAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "max_ttl": "5h"})
		e.creds("reader", nil)
		renewed, revoked := e.creds("reader", nil), e.creds("reader", nil)
		if _, err := e.renew(renewed, 3*time.Hour); err != nil {
			t.Fatal(err)
		}
		e.revokeLease(revoked)
		if row := e.read("tokens/" + revoked.id); row["state"] != "revoked" {
			t.Errorf("%v", row)
		}
		time.Sleep(time.Hour)
		e.minute()
		if ids := e.list("tokens/", nil); len(ids) != 1 || ids[0] != renewed.id {
			t.Errorf("%q are listed", ids)
		}
		time.Sleep(3 * time.Hour)
		e.minute()
		if ids := e.list("tokens/", nil); len(ids) != 0 {
			t.Errorf("%q are listed", ids)
		}
	})
}

// A row leaves when nothing of its token can be valid any more, whatever became of the token, and says so before.
func TestEveryRowLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "max_ttl": "5h"})
		e.write("roles/jwt", data{"token_format": "jwt", "scopes": "a", "audience": "api", "ttl": "1h"})
		e.write("roles/mobile", data{"scopes": "a", "ttl": "1h", "refresh": true, "access_ttl": "5m"})
		e.write("roles/gone", data{"scopes": "a", "ttl": "1h"})
		states := make(map[string]string)
		states[e.creds("reader", nil).id] = "active" // the answer is lost, and no lease ends it
		states[e.creds("jwt", nil).id] = "active"
		states[e.creds("gone", nil).id] = "role_deleted"
		leaked := e.creds("reader", nil)
		e.write("revoke", data{"token_id": leaked.id})
		states[leaked.id] = "revoked"
		grant := e.creds("mobile", nil)
		e.write("revoke", data{"token_id": grant.data["grant_id"]})
		states[grant.data["grant_id"].(string)] = "revoked"
		e.do(logical.DeleteOperation, "roles/gone", nil)
		for at, want := range []string{"", "expired"} {
			time.Sleep(time.Duration(at) * time.Hour)
			for id, state := range states {
				if row := e.read("tokens/" + id); row["state"] != state && row["state"] != want {
					t.Errorf("after %dh: %v, want %s", at, row, state)
				}
			}
		}
		e.minute()
		if ids := e.list("tokens/", nil); len(ids) != 0 {
			t.Errorf("%q are listed", ids)
		}
		time.Sleep(time.Hour)
		e.minute()
		if keys := e.keysBelow(ledger.DeviationsPrefix); len(keys) > 0 {
			t.Errorf("%q are left", keys)
		}
	})
}
