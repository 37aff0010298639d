package backend

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
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
	e.refused(logical.ListOperation, "tokens/", data{"page": "3"}, "page: is not a field")
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
