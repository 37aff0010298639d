package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/report"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// reported reads all pages of a report, and returns the items in their order as "kind/name reasons".
func (e *engine) reported(name string, query data) (rows []string, items map[string]data) {
	e.t.Helper()
	items = make(map[string]data)
	d := data{}
	for k, v := range query {
		d[k] = v
	}
	for range 100 {
		resp := e.do(logical.ReadOperation, "report/"+name, d)
		for _, item := range resp.Data["items"].([]any) {
			i := item.(data)
			key := fmt.Sprintf("%s/%s", i["kind"], i["name"])
			rows, items[key] = append(rows, fmt.Sprintf("%s %s", key, strings.Join(i["reasons"].([]string), ","))), i
			if limit, given := d["limit"]; given && len(resp.Data["items"].([]any)) > limit.(int) {
				e.t.Errorf("%d items on a page of %d", len(resp.Data["items"].([]any)), limit)
			}
		}
		next, more := resp.Data["next"]
		if !more {
			return rows, items
		}
		d["after"] = next
	}
	e.t.Fatal("the report does not end")
	return nil, nil
}

func (e *engine) reports(name string, query data, want ...string) map[string]data {
	e.t.Helper()
	got, items := e.reported(name, query)
	if !slices.Equal(got, want) {
		e.t.Errorf("report/%s %v has\n%s\nwant\n%s", name, query, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	return items
}

func (e *engine) connection(name string) {
	e.t.Helper()
	e.write("connections/"+name, data{
		"provider": "gitea", "url": "http://127.0.0.1:1", "credential": data{"username": "admin", "password": "x"},
	})
}

const days = 24 * time.Hour

func TestReportStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		defer func() { e.b.Cleanup(context.Background()) }()
		e.write("roles/busy", data{"scopes": "a", "ttl": "60d"})
		e.write("roles/idle", data{"scopes": "a"})
		e.write("roles/static", data{"scopes": "a"})
		e.connection("unused")
		e.write("static-roles/read", data{"role": "static", "rotation_period": "30d"})
		e.write("static-roles/unread", data{"role": "static", "rotation_period": "30d"})
		e.minute()
		e.reports("stale", data{"unused_for": "1h"})

		never, used, fresh := e.creds("busy", nil), e.creds("busy", nil), e.creds("busy", nil)
		time.Sleep(time.Hour)
		e.expect("active", used.token, nil)
		time.Sleep(46*days - time.Hour)
		e.expect("active", fresh.token, nil)
		e.creds("busy", nil)
		e.read("static-creds/read")
		e.minute()
		tokens := []string{"token/" + never.id + " never_used", "token/" + used.id + " unused"}
		slices.Sort(tokens)
		want := append([]string{
			"connection/unused nothing_issued,no_role", "role/idle nothing_issued", "static_role/unread not_read",
		}, tokens...)
		items := e.reports("stale", nil, want...)
		for i := range 6 {
			e.reports("stale", data{"limit": i + 1}, want...)
		}
		e.reports("stale", data{"kind": "role"}, "role/idle nothing_issued")
		e.reports("stale", data{"unused_for": "47d"})
		if got := items["token/"+used.id]; got["command"] != "vault write apitoken/revoke token_id="+used.id || got["role"] != "busy" ||
			got["entity_id"] != entityAnn || got["last_seen_at"] == nil || items["token/"+never.id]["last_seen_at"] != nil {
			t.Errorf("%v", items)
		}
		for key, item := range items {
			if !strings.HasPrefix(item["command"].(string), "vault ") || item["detail"] == "" {
				t.Errorf("%s: %v", key, item)
			}
		}

		// What was watched is stored: a restart forgets nothing, and a deletion does.
		e = e.restart()
		e.reports("stale", data{"kind": "role"}, "role/idle nothing_issued")
		e.reports("stale", data{"kind": "static_role"}, "static_role/unread not_read")
		e.write("revoke", data{"token_id": never.id})
		e.reports("stale", data{"kind": "token"}, "token/"+used.id+" unused")
		e.do(logical.DeleteOperation, "roles/idle", nil)
		e.write("roles/idle", data{"scopes": "b"})
		e.minute()
		e.reports("stale", data{"kind": "role"})
	})
}

func TestReportErrors(t *testing.T) {
	e := newEngine(t)
	for _, c := range []struct {
		path  string
		query data
		want  string
	}{
		{"report/stale", data{"limit": 0}, "limit: must be between 1 and 1000"},
		{"report/stale", data{"limit": 1001}, "limit: must be between 1 and 1000"},
		{"report/stale", data{"after": "x"}, "after: must be the next of the previous page"},
		{"report/stale", data{"after": "token/x"}, "after: must be the next of the previous page"},
		{"report/stale", data{"kind": "lease"}, `kind: "lease" is not a kind of this report, which has connection, role`},
		{"report/stale", data{"kind": ""}, "kind: is empty"},
		{"report/stale", data{"unused_for": "0"}, "unused_for: must be at least 1s"},
		{"report/stale", data{"unused_for": "soon"}, "unused_for: takes a duration"},
		{"report/stale", data{"page": "2"}, "page: is not a field of this path"},
		{"report/broad", data{"checks": "unbound,size"}, `checks: "size" is not one of: privileged_scope, `},
		{"report/broad", data{"max_life": "0"}, "max_life: must be at least 1s"},
		{"report/broad", data{"kind": "connection"}, `kind: "connection" is not a kind of this report, which has role, token`},
		{"report/right-size", data{"role": "none"}, `role: there is no role "none"`},
		{"report/right-size", data{"watched_for": "-1s"}, "watched_for: must not be negative"},
	} {
		e.refused(logical.ReadOperation, c.path, c.query, c.want)
	}
}

// A page examines a bounded number of tokens, reads no storage, and goes on where the last page ended.
func TestReportIsBounded(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": "a"})
	id := e.b.Loaded().Roles.Get("r").ID
	const rows = 250_000
	issued := time.Now().Add(-50 * days)
	for n := range rows {
		var tokenID token.ID
		tokenID[0], tokenID[1], tokenID[2], tokenID[11] = byte(n>>16), byte(n>>8), byte(n), 1
		row := ledger.Row{ID: tokenID, IssuedAt: issued, ExpiresAt: time.Now().Add(days), Holder: ledger.Holder{Role: "r", RoleID: id, RoleVersion: 1}}
		if n < rows-1 {
			row.IssuedAt = time.Now()
		}
		e.b.Loaded().Inventory.Add(row)
	}
	reads := e.storage.reads.Load()
	found, pages := 0, 0
	d := data{"kind": report.KindToken}
	for more := true; more; pages++ {
		resp := e.do(logical.ReadOperation, "report/stale", d)
		found += len(resp.Data["items"].([]any))
		d["after"], more = resp.Data["next"]
	}
	if found != 1 || pages != 3 {
		t.Errorf("%d items on %d pages", found, pages)
	}
	if read := e.storage.reads.Load() - reads; read != 0 {
		t.Errorf("%d reads of storage", read)
	}
}

// An entry that cannot be read hides nothing else, and can be deleted.
func TestReportRemembersDamage(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": "a"})
	e.creds("r", nil)
	e = e.restart()
	keys := e.keysBelow(report.Prefix)
	if len(keys) != 1 {
		t.Fatalf("%q are stored", keys)
	}
	if err := e.storage.Put(context.Background(), &logical.StorageEntry{Key: keys[0], Value: []byte("{damaged")}); err != nil {
		t.Fatal(err)
	}
	e = mountOn(t, e.storage, e.system)
	e.reports("stale", nil)
	if got := e.list("broken/", nil); !slices.Equal(got, keys) {
		t.Errorf("broken lists %q", got)
	}
	e.do(logical.DeleteOperation, "broken/"+keys[0], nil)
	if got := e.list("broken/", nil); len(got) != 0 {
		t.Errorf("broken lists %q", got)
	}
}

func TestReview(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a synctest bubble begins on 2000-01-01
		e := newEngine(t)
		defer func() { e.b.Cleanup(context.Background()) }()
		e.write("roles/bare", data{"scopes": "a"})
		e.write("roles/owned", data{"scopes": "a", "owner": "team-a", "review_by": "2000-01-31"})
		e.write("static-roles/kept", data{"role": "owned", "rotation_period": "30d", "owner": "team-b", "review_by": "2000-02-29"})
		e.connection("gitea")
		e.write("connections/gitea", data{"owner": "team-c", "review_by": "2000-01-02"})
		for _, path := range []string{"roles/owned", "connections/gitea", "static-roles/kept"} {
			if got := e.read(path); !strings.HasPrefix(got["owner"].(string), "team-") || !strings.HasPrefix(got["review_by"].(string), "2000-") || got["attested"] != nil {
				t.Errorf("%s: %v", path, got)
			}
		}
		e.reports("unowned", nil, "role/bare no_owner,no_review_by")

		time.Sleep(31 * days) // 2000-02-01
		items := e.reports("unowned", data{"limit": 1}, "connection/gitea review_overdue", "role/bare no_owner,no_review_by", "role/owned review_overdue")
		if got := items["role/bare"]["command"]; got != "vault write apitoken/roles/bare owner=... review_by=..." {
			t.Errorf("the command settles not all reasons: %v", got)
		}
		if got := items["role/owned"]; got["owner"] != "team-a" || got["review_by"] != "2000-01-31" ||
			got["command"] != "vault write apitoken/attest/roles/owned note=..." {
			t.Errorf("%v", got)
		}

		// Without enforce_review nothing stops; with it, creds, and what depends on the role.
		e.creds("owned", nil)
		e.write("config", data{"enforce_review": true})
		if e.read("config")["enforce_review"] != true {
			t.Error("config does not show enforce_review")
		}
		const overdue = `role "owned" was to be reviewed by team-a until 2000-01-31`
		e.refused(logical.ReadOperation, "creds/owned", nil, overdue)
		e.refused(logical.ReadOperation, "static-creds/kept", nil, overdue)
		e.write("roles/of-gitea", data{"connection": "gitea", "params": data{"scopes": []string{"read:user"}}, "owner": "x"})
		e.refused(logical.ReadOperation, "creds/of-gitea", nil, `connection "gitea" was to be reviewed by team-c until 2000-01-02`)
		e.creds("bare", nil)

		answer := e.write("attest/roles/owned", data{"note": "needed"})
		if answer["review_by"] != "2000-05-01" || answer["owner"] != "team-a" || answer["attested"].(data)["note"] != "needed" {
			t.Errorf("%v", answer)
		}
		version := e.read("roles/owned")["version"]
		e.creds("owned", nil)
		e.read("static-creds/kept")
		e.write("attest/connections/gitea", data{"review_by": "2000-03-31"})
		time.Sleep(30 * days) // 2000-03-02
		e.refused(logical.ReadOperation, "static-creds/kept", nil, `static role "kept" was to be reviewed by team-b until 2000-02-29`)
		e.write("attest/static-roles/kept", nil)
		e = e.restart()
		e.read("static-creds/kept")
		e.reports("unowned", nil, "role/bare no_owner,no_review_by", "role/of-gitea no_review_by")
		if got := e.read("roles/owned"); got["version"] != version || got["attested"].(data)["at"] != "2000-02-01T00:00:00Z" {
			t.Errorf("%v", got)
		}
		e.write("roles/owned", data{"owner": "", "review_by": ""})
		e.reports("unowned", data{"kind": "role"}, "role/bare no_owner,no_review_by", "role/of-gitea no_review_by", "role/owned no_owner,no_review_by")

		resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "attest/roles/bare", EntityID: entityAnn, DisplayName: "ldap-ann"})
		if err != nil || resp.Data["attested"].(data)["by"] != "ldap-ann" || resp.Data["attested"].(data)["entity_id"] != entityAnn {
			t.Errorf("%v %v", resp, err)
		}
	})
}

func TestReviewErrors(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": "a"})
	e.connection("c")
	for _, c := range []struct {
		path string
		d    data
		want string
	}{
		{"roles/r", data{"review_by": "soon"}, `review_by: "soon" is not a day such as 2027-03-31`},
		{"roles/r", data{"owner": "a\nb"}, "owner: has a character that cannot be printed"},
		{"roles/r", data{"owner": strings.Repeat("x", 257)}, "owner: is 257 bytes long, at most 256 are allowed"},
		{"connections/c", data{"review_by": "2027-02-30"}, "review_by: "},
		{"static-roles/s", data{"role": "r", "rotation_period": "1h", "review_by": "x"}, "review_by: "},
		{"attest/roles/none", nil, `name: there is no "none" in roles`},
		{"attest/connections/none", nil, `name: there is no "none" in connections`},
		{"attest/static-roles/none", nil, `name: there is no "none" in static-roles`},
		{"roles/r", data{"owner": "..."}, `owner: is "...", which stands for`},
		{"roles/r", data{"scopes": "..."}, `scopes: has "...", which stands for`},
		{"attest/roles/r", data{"note": "..."}, `note: is "...", which stands for`},
		{"attest/roles/r", data{"review_by": "2001-01-01"}, "review_by: 2001-01-01 has passed"},
		{"attest/roles/r", data{"review_by": ""}, "review_by: "},
		{"attest/roles/r", data{"note": "leaked: " + e.creds("r", nil).token}, "note: contains a token"},
		{"attest/roles/r", data{"note": strings.Repeat("x", 513)}, "note: is 513 bytes long, at most 512 are allowed"},
		{"attest/roles/r", data{"by": "me"}, "by: is not a field of this path"},
		{"config", data{"enforce_review": "perhaps"}, "enforce_review: takes true or false"},
	} {
		e.refused(logical.UpdateOperation, c.path, c.d, c.want)
	}
	for path, d := range map[string]data{
		"roles/r": {}, "connections/c": {}, "static-roles/s": {"role": "r", "rotation_period": "1h"},
	} {
		d["review_by"] = "2001-01-01"
		e.warned(path, d, "review_by 2001-01-01 has passed")
	}
	e.refused(logical.ReadOperation, "report/unowned", data{"kind": "token"}, `kind: "token" is not a kind of this report, which has connection, role, static_role`)
}

func TestReportBroad(t *testing.T) {
	e := newEngine(t)
	bound := data{"audience": "api", "token_bound_cidrs": "10.0.0.0/8", "bound_regions": "DE", "max_ttl": "20d"}
	write := func(name string, more data) {
		d := data{}
		for _, fields := range []data{bound, more} {
			for k, v := range fields {
				d[k] = v
			}
		}
		e.write("roles/"+name, d)
	}
	write("fine", data{"scopes": "invoices:read"})
	write("admin", data{"scopes": "admin:users", "allow_privileged": true})
	write("wild", data{"scopes": "invoices:read", "allowed_scopes": "invoices:*"})
	write("long", data{"scopes": "a", "max_ttl": "40d", "ttl": "35d"})
	e.write("roles/loose", data{"scopes": "a", "max_ttl": "1h"})
	e.write("roles/here", data{"scopes": "a", "max_ttl": "1h", "bound_regions": "DE"})
	e.creds("fine", nil)
	e.creds("wild", nil)
	wild, long, admin := e.creds("wild", data{"scopes": "invoices:*"}), e.creds("long", nil), e.creds("admin", nil)
	tokens := []string{"token/" + wild.id + " wildcard_scope", "token/" + long.id + " long_life", "token/" + admin.id + " privileged_scope"}
	slices.Sort(tokens)
	items := e.reports("broad", nil, append([]string{
		"role/admin privileged_scope", "role/long long_life", "role/loose unbound", "role/wild wildcard_scope",
	}, tokens...)...)
	for key, want := range map[string]string{
		"role/admin":       "vault write apitoken/roles/admin scopes=...",
		"role/long":        "vault write apitoken/roles/long max_ttl=720h ttl=720h",
		"role/loose":       "vault write apitoken/roles/loose audience=... token_bound_cidrs=...",
		"token/" + wild.id: "vault write apitoken/revoke token_id=" + wild.id,
	} {
		if got := items[key]["command"]; got != want {
			t.Errorf("%s: %v, want %s", key, got, want)
		}
	}
	e.reports("broad", data{"kind": "role", "checks": "no_region,no_audience"}, "role/here no_audience", "role/loose no_audience,no_region")
	e.reports("broad", data{"kind": "role", "checks": "long_life", "max_life": "30m"}, "role/admin long_life", "role/fine long_life",
		"role/here long_life", "role/long long_life", "role/loose long_life", "role/wild long_life")

	// A tightened role tightens its live tokens: the report judges what a token may do today.
	e.write("roles/wild", data{"allowed_scopes": "invoices:read"})
	e.reports("broad", data{"checks": "wildcard_scope"})

	e.connection("gitea")
	e.write("roles/of-gitea", data{"connection": "gitea", "params": data{"scopes": []string{"read:user"}}})
	e.reports("broad", data{"checks": "unbound,no_region,long_life,privileged_scope", "kind": "role"}, "role/admin privileged_scope",
		"role/long long_life", "role/loose unbound,no_region", "role/of-gitea long_life")
}

func TestReportRightSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		defer func() { e.b.Cleanup(context.Background()) }()
		e.write("roles/wide", data{"scopes": "invoices:*,users:read,mail:send", "ttl": "24h", "max_ttl": "48h"})
		e.write("roles/tight", data{"scopes": "a:read", "token_bound_cidrs": "192.0.2.7", "bound_regions": "DE", "ttl": "1h", "max_ttl": "1h"})
		e.write("roles/unused", data{"scopes": "a"})
		e.minute()
		first := e.creds("wide", nil)
		time.Sleep(3 * time.Hour)
		e.expect("active", first.token, data{"client_ip": "192.0.2.7", "region": "DE", "required_scopes": "invoices:read"})
		time.Sleep(20 * days) // the first token has left the inventory, and its use is remembered
		e.minute()
		if e.read("tokens/"+first.id) != nil {
			t.Fatal("the token is in the inventory")
		}
		e = e.restart()
		e.minute() // storage may have kept the row
		second, tight := e.creds("wide", nil), e.creds("tight", nil)
		e.creds("unused", nil)
		e.expect("active", second.token, data{"client_ip": "2001:db8::1:2", "required_scopes": "users:read"})
		e.expect("active", tight.token, data{"client_ip": "192.0.2.7", "region": "DE", "required_scopes": "a:read"})

		items := e.reports("right-size", nil, "role/wide unneeded_scopes,few_addresses,few_regions,short_use")
		got := items["role/wide"]
		const want = "vault write apitoken/roles/wide scopes=invoices:read,users:read token_bound_cidrs=192.0.2.7/32,2001:db8::/64 bound_regions=DE max_ttl=4h ttl=4h"
		if got["command"] != want || fmt.Sprint(got["unneeded_scopes"]) != "[invoices:* mail:send]" || got["longest_use"] != int64(3*3600) ||
			!strings.Contains(got["detail"].(string), "watched for 20 days") {
			t.Errorf("%v\nwant %s", got, want)
		}
		e.reports("right-size", data{"role": "tight"})
		e.reports("right-size", data{"watched_for": "21d"})

		// The command does what it says: afterwards the report has nothing more to say.
		fields := data{}
		for _, word := range strings.Fields(want)[3:] {
			name, value, _ := strings.Cut(word, "=")
			fields[name] = value
		}
		e.write("roles/wide", fields)
		e.reports("right-size", nil)
	})
}

func TestReportRightSizeOfManyAddresses(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": "a", "max_ttl": "1h"})
	use := func(format string, from, to int) {
		for n := from; n < to; n++ {
			e.expect("active", e.creds("r", nil).token, data{"client_ip": fmt.Sprintf(format, n)})
		}
	}
	use("192.0.2.%d", 0, 20)
	items := e.reports("right-size", data{"watched_for": "0s"}, "role/r few_addresses")
	if got := items["role/r"]["command"]; got != "vault write apitoken/roles/r token_bound_cidrs=192.0.2.0/24" {
		t.Errorf("%v", got)
	}
	use("10.1.%d.1", 0, 40) // more than are kept
	e.reports("right-size", data{"watched_for": "0s"})
}

func TestReportOrphans(t *testing.T) {
	e := newIssuer(t)
	e.system.become(entityBob, bob)
	e.write("roles/r", data{"scopes": "a"})
	e.write("roles/gone", data{"scopes": "a"})
	e.write("roles/static", data{"scopes": "a"})
	e.write("static-roles/bobs", data{"role": "static", "rotation_period": "30d", "entity_id": entityBob})
	e.credsAs(entityAnn, "r", nil)
	bobs, ended, deleted := e.credsAs(entityBob, "r", nil), e.credsAs(entityBob, "r", nil), e.credsAs(entityAnn, "gone", nil)
	e.write("revoke", data{"token_id": ended.id})
	e.reports("orphans", nil)

	e.system.become(entityBob, nil)
	e.do(logical.DeleteOperation, "roles/gone", nil)
	e = e.restart() // forgets what Vault said a moment ago
	want := []string{"token/" + bobs.id + " entity_gone", "token/" + deleted.id + " role_gone"}
	slices.Sort(want)
	want = append([]string{"static_role/bobs entity_gone"}, want...)
	e.reports("orphans", nil, want...)
	for i := range 3 {
		e.reports("orphans", data{"limit": i + 1}, want...)
	}
	e.system.fall(errBroken)
	e = e.restart()
	items := e.reports("orphans", data{"kind": "static_role"}, "static_role/bobs entity_unknown")
	if detail := items["static_role/bobs"]["detail"].(string); strings.Contains(detail, errBroken.Error()) {
		t.Errorf("the report shows an internal error: %s", detail)
	}
}

// A page asks Vault about a bounded number of entities, and the pages together about all.
func TestReportOrphansAsksLittle(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": "a"})
	id := e.b.Loaded().Roles.Get("r").ID
	const rows = 2500
	for n := range rows {
		e.b.Loaded().Inventory.Add(ledger.Row{
			ID: token.ID{byte(n >> 8), byte(n), 1}, IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
			Holder: ledger.Holder{Role: "r", RoleID: id, RoleVersion: 1, Subject: fmt.Sprintf("entity-%d", n)},
		})
	}
	found, d := 0, data{}
	for more := true; more; {
		before := e.system.asked.Load()
		resp := e.do(logical.ReadOperation, "report/orphans", d)
		if asked := e.system.asked.Load() - before; asked > 1000 {
			t.Errorf("%d questions for one page", asked)
		}
		found += len(resp.Data["items"].([]any))
		d["after"], more = resp.Data["next"]
	}
	if found != rows {
		t.Errorf("%d orphans", found)
	}
}

func TestReportOrphansOfServices(t *testing.T) {
	s := newShelf(t)
	e := onShelf(t, s)
	left := e.creds("reader", nil)
	e.reports("orphans", nil)
	e.do(logical.DeleteOperation, "connections/shelf", data{"force": true})
	items := e.reports("orphans", nil, "token/"+left.id+" connection_gone")
	if got := items["token/"+left.id]; got["connection"] != "shelf" || s.live() != 1 {
		t.Errorf("%v, %d tokens", got, s.live())
	}
}

func TestReportSummary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		defer func() { e.b.Cleanup(context.Background()) }()
		e.write("roles/a", data{"scopes": "a", "owner": "team", "review_by": "2000-01-10"})
		e.write("roles/b", data{"scopes": "admin:users", "allow_privileged": true, "ttl": "12h"})
		e.write("config", data{"issuer": "https://vault.example.com/v1/apitoken"})
		e.write("roles/jwt", data{"token_format": "jwt", "scopes": "a", "audience": "api", "ttl": "10d"})
		e.connection("gitea")
		used := e.creds("a", data{"ttl": "60d"})
		e.creds("a", data{"ttl": "60d"})
		e.expect("active", used.token, nil)
		e.expect("insufficient_scope", used.token, data{"required_scopes": "b"})
		ended := e.creds("a", nil)
		e.write("revoke", data{"token_id": ended.id})
		e.creds("jwt", nil)
		e.creds("b", nil)
		check := func(want data) {
			t.Helper()
			got := e.read("report/summary")
			for name, value := range want {
				if fmt.Sprint(got[name]) != fmt.Sprint(value) {
					t.Errorf("%s is %v, want %v", name, got[name], value)
				}
			}
		}
		check(data{
			"as_of": "2000-01-01T00:00:00Z", "roles": 3, "connections": 1, "static_roles": 0, "live_tokens": 4, "live_opaque": 3, "live_jwt": 1,
			"live_of_services": 0, "issued_last_day": 5, "expire_next_day": 1, "used_last_day": 1, "never_used": 3, "stale_tokens": 0, "uses": 1,
			"refusals": 1, "revocation_queue": 0, "unreadable_entries": 0, "unowned": 3, "overdue_reviews": 0, "privileged_roles": 1,
			"top_roles": []data{{"live_tokens": 2, "role": "a"}, {"live_tokens": 1, "role": "b"}, {"live_tokens": 1, "role": "jwt"}},
		})
		time.Sleep(46 * days)
		e.minute()
		check(data{
			"live_tokens": 2, "issued_last_day": 0, "expire_next_day": 0, "used_last_day": 0, "never_used": 1, "stale_tokens": 2,
			"overdue_reviews": 1, "top_roles": []data{{"live_tokens": 2, "role": "a"}},
		})
	})
}

func BenchmarkReports(b *testing.B) {
	e := newEngine(b)
	e.write("roles/r", data{"scopes": "a"})
	id := e.b.Loaded().Roles.Get("r").ID
	for n := range 1_000_000 {
		tokenID := token.ID{byte(n), byte(n >> 8), byte(n >> 16), 1}
		e.b.Loaded().Inventory.Add(ledger.Row{
			ID: tokenID, IssuedAt: time.Now(), ExpiresAt: time.Now().Add(10 * time.Hour),
			Holder: ledger.Holder{Role: "r", RoleID: id, RoleVersion: 1, Scopes: "a"},
		})
		if n%2 == 0 {
			e.b.Usage.Introspected(tokenID, time.Now().Add(time.Hour), time.Now().Add(time.Hour), new(access.Use), access.Good)
		}
	}
	for _, report := range []string{"stale", "broad", "right-size", "orphans", "unowned"} {
		b.Run(report, func(b *testing.B) {
			for b.Loop() {
				e.read("report/" + report)
			}
		})
	}
	b.Run("summary", func(b *testing.B) {
		for b.Loop() {
			st := e.b.Loaded()
			e.b.Report(st, "").Summary(0)
		}
	})
}
