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
	} {
		e.refused(logical.ReadOperation, c.path, c.query, c.want)
	}
}

// A page examines a bounded number of tokens, reads no storage, and goes on where the last page ended.
func TestReportIsBounded(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": "a"})
	id := e.b.Loaded().Roles.Get("r").ID
	const rows = 450_000
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
