package backend

import (
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// The list of suspensions has what a resume can undo, in pages, and no more.
func TestSuspendedList(t *testing.T) {
	const entity = "11111111-1111-4111-8111-111111111111"
	e := newIssuer(t)
	e.write("roles/r", data{"scopes": "a", "refresh": true, "access_ttl": "5m"})
	if list := e.list("suspended/", nil); len(list) != 0 {
		t.Errorf("nothing is suspended, and %q is listed", list)
	}
	var want []string
	var all []*creds
	for range 5 {
		c := e.creds("r", nil)
		id, _ := c.data["grant_id"].(string)
		all, want = append(all, c), append(want, id)
		e.write("suspend", data{"token_id": c.id, "note": "a test"})
	}
	e.write("suspend", data{"subject": entity})
	want = append(want, entity)
	slices.Sort(want)
	for i, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
		var paged []string
		for after := ""; ; {
			page := e.list("suspended/", data{"limit": 2, "after": after})
			if paged = append(paged, page...); len(page) < 2 {
				break
			}
			after = page[1]
		}
		if list := e.list("suspended/", nil); !slices.Equal(list, want) || !slices.Equal(paged, want) {
			t.Errorf("listed %q, in pages %q, want %q", list, paged, want)
		}
		info := e.do(logical.ListOperation, "suspended/", nil).Data["key_info"].(data)
		if one := info[all[0].data["grant_id"].(string)].(data); one["kind"] != "token" || one["note"] != "a test" || one["suspended_at"] == nil ||
			i == 0 && one["role"] != "r" { // the other node may not know the row yet
			t.Errorf("a token is listed as %v", one)
		}
		if one := info[entity].(data); one["kind"] != "entity" || one["entity_id"] != entity || one["role"] != nil {
			t.Errorf("an entity is listed as %v", one)
		}
	}
	e.write("resume", data{"token_id": all[0].id})
	e.write("revoke", data{"token_id": all[1].id})
	e.write("resume", data{"subject": entity})
	if list := e.list("suspended/", nil); len(list) != 3 || slices.Contains(list, entity) {
		t.Errorf("after two resumes and a revocation %q is listed", list)
	}
	for want, d := range map[string]data{
		"limit: 1001 is too large, at most 1000": {"limit": 1001},
		"limit: must be at least 1":              {"limit": 0},
		"role: is not a field of this path":      {"role": "r"},
	} {
		e.refused(logical.ListOperation, "suspended/", d, want)
	}
}
