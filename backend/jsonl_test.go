package backend

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// lines reads an answer in JSON Lines: its items, and next.
func (e *engine) lines(op logical.Operation, path string, d data) (items []data, next string) {
	e.t.Helper()
	all := data{"format": "jsonl"}
	for name, value := range d {
		all[name] = value
	}
	status, media, cache, body := e.raw(op, path, all)
	if status != 200 || media != "application/jsonl" || cache != "no-store" {
		e.t.Errorf("%s: %d, %s, %s", path, status, media, cache)
	}
	if body == nil {
		e.t.Errorf("%s: the body is nil, which Vault answers with 500", path)
	}
	for scanner := bufio.NewScanner(bytes.NewReader(body)); scanner.Scan(); {
		var item data
		if err := json.Unmarshal(scanner.Bytes(), &item); err != nil {
			e.t.Fatalf("%s: %v in %q", path, err, scanner.Text())
		}
		if after, is := item["next"]; is {
			if len(item) != 1 || next != "" {
				e.t.Errorf("%s: the line of next is %v", path, item)
			}
			next = after.(string)
			continue
		}
		if next != "" {
			e.t.Errorf("%s: an item follows next: %v", path, item)
		}
		items = append(items, item)
	}
	if len(body) > 0 && body[len(body)-1] != '\n' {
		e.t.Errorf("%s: the last line is not complete", path)
	}
	return items, next
}

// asJSON returns a value as a client decodes the value.
func asJSON(t *testing.T, v any) (decoded any) {
	t.Helper()
	encoded, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(encoded, &decoded)
	}
	if err != nil {
		t.Fatal(err)
	}
	return decoded
}

// A report in JSON Lines has the items of all pages, with the same members.
func TestReportLines(t *testing.T) {
	e := newEngine(t)
	for i := range 25 {
		e.write(fmt.Sprintf("roles/r%02d", i), data{"scopes": "c:read,d:*", "ttl": "1h"})
	}
	for _, report := range []string{"broad", "unowned", "stale", "orphans", "right-size"} {
		var want []any
		d := data{"limit": 10}
		for {
			page := e.do(logical.ReadOperation, "report/"+report, d).Data
			want = append(want, asJSON(t, page["items"]).([]any)...)
			next, more := page["next"]
			if !more {
				break
			}
			d["after"] = next
		}
		if report == "broad" && len(want) < 25 {
			t.Fatalf("the report has %d items", len(want))
		}
		got, next := e.lines(logical.ReadOperation, "report/"+report, nil)
		if fmt.Sprint(got) != fmt.Sprint(want) || next != "" {
			t.Errorf("%s: %d lines, next %q; want %d\n%v\n%v", report, len(got), next, len(want), got, want)
		}
		// In parts.
		var parts []data
		for after, rounds := "", 0; rounds == 0 || after != ""; rounds++ {
			q := data{"limit": 7}
			if after != "" {
				q["after"] = after
			}
			var part []data
			if part, after = e.lines(logical.ReadOperation, "report/"+report, q); len(part) > 7 || rounds > 10 {
				t.Fatalf("%s: a part of %d lines", report, len(part))
			}
			parts = append(parts, part...)
		}
		if fmt.Sprint(parts) != fmt.Sprint(got) {
			t.Errorf("%s: in parts %v, want %v", report, parts, got)
		}
	}
	summary, _ := e.lines(logical.ReadOperation, "report/summary", nil)
	if len(summary) != 1 || summary[0]["roles"] != 25.0 || summary[0]["as_of"] == nil {
		t.Errorf("summary: %v", summary)
	}
	if kinds, _ := e.lines(logical.ReadOperation, "report/broad", data{"kind": "token"}); len(kinds) != 0 {
		t.Errorf("%v", kinds)
	}
}

// The whole of a report fits into one answer, beyond the limit of a page.
func TestReportLinesGoBeyondAPage(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": "a:*"})
	for range 1100 {
		e.do(logical.ReadOperation, "creds/r", nil)
	}
	if got, next := e.lines(logical.ReadOperation, "report/broad", data{"kind": "token"}); len(got) != 1100 || next != "" {
		t.Errorf("%d lines, next %q", len(got), next)
	}
	got, next := e.lines(logical.ReadOperation, "report/broad", data{"kind": "token", "limit": 1050})
	if len(got) != 1050 || next != "token/"+got[1049]["name"].(string) {
		t.Errorf("%d lines, next %q", len(got), next)
	}
}

// Findings in JSON Lines are the listed findings.
func TestFindingsLines(t *testing.T) {
	e := newEngine(t)
	if got, next := e.lines(logical.ListOperation, "findings/", nil); len(got) != 0 || next != "" {
		t.Errorf("without findings: %v, %q", got, next)
	}
	e.write("roles/r", data{"scopes": []string{"a:read"}})
	var rows []any
	for range 5 {
		rows = append(rows, data{"token_id": e.creds("r", nil).id, "refusals": data{"host_not_allowed": 20}})
	}
	e.report("api-1", 1, rows...)
	e.write("findings/"+e.list("findings/", nil)[2], data{"note": "a load test"})
	want := asJSON(t, e.findings(nil)).([]any)
	got, next := e.lines(logical.ListOperation, "findings/", nil)
	if fmt.Sprint(got) != fmt.Sprint(want) || next != "" || len(got) != 5 {
		t.Errorf("%v, next %q, want %v", got, next, want)
	}
	part, next := e.lines(logical.ListOperation, "findings/", data{"limit": 2})
	if len(part) != 2 || next != part[1]["id"] {
		t.Fatalf("%v, next %q", part, next)
	}
	rest, end := e.lines(logical.ListOperation, "findings/", data{"after": next})
	if fmt.Sprint(slices.Concat(part, rest)) != fmt.Sprint(got) || end != "" {
		t.Errorf("in parts: %v and %v", part, rest)
	}
	if open, _ := e.lines(logical.ListOperation, "findings/", data{"state": "open"}); len(open) != 4 {
		t.Errorf("%d open findings", len(open))
	}
}

func TestLinesErrors(t *testing.T) {
	e := newEngine(t)
	for path, op := range map[string]logical.Operation{
		"report/stale": logical.ReadOperation, "report/summary": logical.ReadOperation, "findings/": logical.ListOperation,
	} {
		e.refused(op, path, data{"format": "csv"}, `format: "csv" is not one of: json, jsonl`)
		e.refused(op, path, data{"format": ""}, `format: "" is not one of: json, jsonl`)
		if path == "report/summary" {
			continue
		}
		e.refused(op, path, data{"format": "jsonl", "limit": 10001}, "limit: must be between 1 and 10000 with format=jsonl")
		e.refused(op, path, data{"format": "jsonl", "limit": 0}, "limit: must be between 1 and 10000 with format=jsonl")
		e.refused(op, path, data{"format": "jsonl", "after": "x"}, "after: ")
	}
	e.refused(logical.ReadOperation, "report/stale", data{"format": "jsonl", "kind": "x"}, `kind: "x" is not a kind of this report`)
	e.refused(logical.ReadOperation, "report/stale", data{"format": "json", "limit": 1001}, "limit: must be between 1 and 1000")
	e.refused(logical.ListOperation, "findings/", data{"format": "jsonl", "rule": "x"}, `rule: "x" is no rule`)
}
