package console

import (
	"bytes"
	"encoding/csv"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// What policies do not allow is a sentence with the path, in its place on the page.
func TestDenied(t *testing.T) {
	w := newWorld(t)
	w.vault.furnish()
	b := w.browser().signIn("poor")
	for path, texts := range map[string][]string{
		"/": {"read apitoken/report/summary.", "list apitoken/findings.", "list apitoken/tokens."}, "/tokens": {"list apitoken/tokens."},
		"/tokens?sort=uses": {"list apitoken/tokens."}, "/tokens?q=x": {"list apitoken/tokens."}, "/roles": {"list apitoken/roles."},
		"/connections/gitea": {
			"read apitoken/connections/gitea.", "read apitoken/connections/gitea/reconcile.", "read apitoken/report/orphans.",
		},
		"/connections": {"list apitoken/connections."}, "/findings": {"list apitoken/findings."}, "/reports/stale": {"read apitoken/report/stale."},
		"/tokens/" + id(1) + "/revoke": {"read apitoken/tokens/" + id(1)},
	} {
		a := b.get(path)
		if a.StatusCode != 200 {
			t.Errorf("%s: %d", path, a.StatusCode)
		}
		for _, text := range texts {
			a.has(t, "Your Vault policies do not allow you to "+text)
		}
	}
	for _, path := range []string{"/tokens/" + id(1), "/roles/billing", "/findings/" + id(7), "/reports/stale/csv"} {
		a := b.get(path)
		a.has(t, "Your Vault policies do not allow you to read apitoken/")
		if a.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d", path, a.StatusCode)
		}
	}
	a := b.post("/tokens/"+id(1)+"/revoke", url.Values{"csrf": {b.csrf}})
	a.has(t, "Your Vault policies do not allow you to write to apitoken/revoke.")
	if a.StatusCode != http.StatusForbidden {
		t.Error(a.StatusCode)
	}
	if b.get("/reports").StatusCode != 200 {
		t.Error("a refused request ended the session")
	}
}

// The console stays up if Vault does not answer, or answers something else.
func TestUnreachable(t *testing.T) {
	w := newWorld(t)
	b := w.browser().signIn("good")
	w.vault.handle("apitoken/report/summary", func(*http.Request) (int, any) { return 200, map[string]any{"data": 5} })
	w.vault.handle("apitoken/findings", func(*http.Request) (int, any) { return 503, map[string]any{"errors": []string{"Vault is sealed"}} })
	w.vault.handle("apitoken/tokens", func(*http.Request) (int, any) { return 404, map[string]any{"errors": []string{"no handler for route"}} })
	a := b.get("/")
	a.has(t, "Vault could not read apitoken/report/summary", "Vault could not list apitoken/findings: Vault is sealed", "There is no apitoken/tokens.")
	w.vault.Close()
	for _, path := range everyPage {
		if a := b.get(path); a.StatusCode != 200 && a.StatusCode != http.StatusBadGateway && a.StatusCode != 404 {
			t.Errorf("%s: %d", path, a.StatusCode)
		}
	}
	if a := b.get("/"); strings.Contains(a.text, "good") {
		t.Errorf("the page has the Vault token: %s", a.text)
	}
	if a := w.browser().try(url.Values{"method": {"token"}, "token": {"good"}}); a.StatusCode != http.StatusBadGateway {
		t.Error(a.StatusCode)
	}
}

var (
	rowLink  = regexp.MustCompile(`<th scope="row"><a class="id" href="/tokens/([0-9a-f]+)">`)
	nextLink = regexp.MustCompile(`<a href="([^"]+)" rel="next">`)
)

func TestTokens(t *testing.T) {
	w := newWorld(t)
	b := w.browser().signIn("good")
	rows := func(a *answered) (ids []string) {
		t.Helper()
		for _, m := range rowLink.FindAllStringSubmatch(a.text, -1) {
			ids = append(ids, m[1])
		}
		return ids
	}
	nextOf := func(a *answered) string {
		if m := nextLink.FindStringSubmatch(a.text); m != nil {
			return strings.ReplaceAll(m[1], "&amp;", "&")
		}
		return ""
	}
	ids := func(from, to int) (list []string) {
		for i := from; i < to; i++ {
			list = append(list, id(i))
		}
		return list
	}
	w.vault.tokenRows(120, nil)
	a := b.get("/tokens?role=billing&use=unused&for=30d")
	if got := rows(a); !slices.Equal(got, ids(0, 50)) {
		t.Errorf("%v", got)
	}
	asked := w.vault.to("apitoken/tokens")
	q, _ := url.ParseQuery(asked[len(asked)-1].query)
	if q.Get("role") != "billing" || q.Get("unused_for") != "30d" || q.Get("limit") != "50" || q.Get("list") != "true" {
		t.Errorf("the engine was asked %v", q)
	}
	a = b.get(nextOf(a))
	a = b.get(nextOf(a))
	if got := rows(a); !slices.Equal(got, ids(100, 120)) || nextOf(a) != "" {
		t.Errorf("%v, next %q", got, nextOf(a))
	}
	b.get("/tokens?use=used&for=2h")
	asked = w.vault.to("apitoken/tokens")
	if q, _ = url.ParseQuery(asked[len(asked)-1].query); q.Get("used_since") != "2026-03-04T10:00:00Z" {
		t.Errorf("%v", q)
	}

	// A search goes on where it stopped, and finds all.
	w.vault.tokenRows(scanBound+2500, func(i int, row map[string]any) {
		if i%100 == 7 {
			row["display_name"] = "Needle"
		}
	})
	var found []string
	for path := "/tokens?q=needle"; path != ""; path = nextOf(a) {
		a = b.get(path)
		found = append(found, rows(a)...)
	}
	if len(found) != (scanBound+2500)/100 || slices.Compact(slices.Clone(found))[0] != id(7) {
		t.Errorf("%d found", len(found))
	}
	if a = b.get("/tokens?q=nothing-has-this"); nextOf(a) == "" {
		t.Error("the search ends before the end")
	}
	a.has(t, count(scanBound)+" tokens were searched", "None of these tokens matches.")

	// An order is that of what was examined, and says so.
	a = b.get("/tokens?sort=uses")
	if got := rows(a); len(got) != 50 || got[0] != id(scanBound-1) {
		t.Errorf("%v", got)
	}
	a.has(t, "among the first "+count(scanBound)+" tokens")
	if got := rows(b.get(nextOf(a))); got[0] != id(scanBound-51) {
		t.Errorf("%v", got)
	}
	w.vault.tokenRows(60, func(i int, row map[string]any) {
		if i < 5 {
			row["state"] = "suspended"
		}
	})
	if got := rows(b.get("/tokens?state=suspended&sort=holder")); len(got) != 5 {
		t.Errorf("%v", got)
	}
	if a = b.get("/tokens?q=" + id(3)); a.Header.Get("Location") != "/tokens/"+id(3) {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	w.vault.tokenRows(0, nil)
	b.get("/tokens").has(t, "No token matches.")
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"45d": 45 * 24 * time.Hour, "12h": 12 * time.Hour, "90m": 90 * time.Minute, "30s": 30 * time.Second, "60": time.Minute,
	} {
		if got := duration(text); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
	if d := duration("999999999d"); d <= 0 {
		t.Errorf("%s", d)
	}
}

func TestTimeline(t *testing.T) {
	w := newWorld(t)
	w.vault.set("apitoken/tokens/"+id(1), map[string]any{
		"token_id": id(1), "role": "billing", "role_version": 2, "display_name": "ann", "state": "suspended", "detail": "suspended: odd",
		"issued_at": "2026-03-01T00:00:00Z", "expires_at": "2026-04-01T00:00:00Z",
		"usage": map[string]any{"uses": 9, "first_used_at": "2026-03-01T01:00:00Z", "last_used_at": "2026-03-02T00:00:00Z", "last_ip": "192.0.2.7",
			"refusals": map[string]any{"suspended": 4}},
	})
	finding := func(of string) map[string]any {
		return map[string]any{"id": id(7), "rule": "impossible_travel", "severity": "high", "state": "open", "count": 2, "token_id": of, "role": "billing",
			"summary": "too fast", "first_seen_at": "2026-03-01T12:00:00Z", "last_seen_at": "2026-03-01T13:00:00Z", "response": "suspended"}
	}
	w.vault.set("apitoken/findings", map[string]any{"keys": []string{id(7), id(8)}, "key_info": map[string]any{id(7): finding(id(1)), id(8): finding(id(2))}})
	a := w.browser().signIn("good").get("/tokens/" + id(1))
	last := -1
	for _, text := range []string{
		"<h2 id=\"timeline\">", "<strong>Suspended</strong>", "<strong>Expires</strong>", "<strong>Last use</strong>", "Again: impossible travel",
		"Finding: impossible travel", "<strong>First use</strong>", "<strong>Issued</strong>",
	} {
		at := strings.Index(a.text, text)
		if at <= last {
			t.Errorf("%q is at %d, after %d:\n%s", text, at, last, a.text)
		}
		last = at
	}
	if strings.Count(a.text, "Finding: impossible travel") != 1 {
		t.Error("the timeline has the finding of another token")
	}
	if q, _ := url.ParseQuery(w.vault.to("apitoken/findings")[0].query); q.Get("role") != "billing" {
		t.Errorf("%v", q)
	}
}

func TestFindings(t *testing.T) {
	w := newWorld(t)
	b := w.browser().signIn("good")
	w.vault.furnish()
	b.get("/findings?rule=shared&role=billing")
	sent := w.vault.to("apitoken/findings")
	if q, _ := url.ParseQuery(sent[0].query); q.Get("state") != "open" || q.Get("rule") != "shared" || q.Get("role") != "billing" {
		t.Errorf("%v", q)
	}
	b.get("/findings?state=")
	sent = w.vault.to("apitoken/findings")
	if q, _ := url.ParseQuery(sent[1].query); q.Has("state") {
		t.Errorf("%v", q)
	}
	w.vault.handle("apitoken/findings/"+id(7), func(r *http.Request) (int, any) { return 200, map[string]any{} })
	a := b.post("/findings/"+id(7), url.Values{"csrf": {b.csrf}, "note": {" a load test "}})
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/findings/"+id(7) {
		t.Errorf("%d %s", a.StatusCode, a.text)
	}
	if sent := w.vault.to("apitoken/findings/" + id(7)); sent[0].body != `{"note":"a load test"}` {
		t.Errorf("%+v", sent)
	}
}

// A wrong value in an address is the console's refusal: Vault was not asked.
func TestWrongValue(t *testing.T) {
	w := newWorld(t)
	b := w.browser().signIn("good")
	b.get("/findings?state=x").has(t, "The console refused the request: state: the value is not one of: open, acknowledged")
	if len(w.vault.to("apitoken/findings")) != 0 {
		t.Error("Vault was asked")
	}
}

func TestCSV(t *testing.T) {
	w := newWorld(t)
	b := w.browser().signIn("good")
	fail := false
	w.vault.handle("apitoken/report/stale", func(r *http.Request) (int, any) {
		q := r.URL.Query()
		if q.Get("unused_for") != "30d" || q.Get("kind") != "token" || q.Get("limit") != "1000" {
			t.Errorf("%v", q)
		}
		if q.Get("after") == "" {
			return 200, map[string]any{"data": map[string]any{"next": "more", "items": []any{map[string]any{
				"kind": "token", "name": id(1), "reasons": []string{"unused", "x"}, "detail": `=HYPERLINK("http://evil")`, "owner": "+1", "display_name": "@a,\"b\"",
				"issued_at": "2026-03-01T00:00:00Z",
			}}}}
		}
		if fail {
			return 500, map[string]any{"errors": []string{"no"}}
		}
		return 200, map[string]any{"data": map[string]any{"items": []any{map[string]any{"kind": "token", "name": id(2), "detail": "-x"}}}}
	})
	a := b.get("/reports/stale/csv?unused_for=30d&kind=token")
	if a.Header.Get("Content-Disposition") != `attachment; filename="stale-2026-03-04.csv"` || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/csv") {
		t.Errorf("%v", a.Header)
	}
	rows, err := csv.NewReader(strings.NewReader(a.text)).ReadAll()
	if err != nil || len(rows) != 3 || !slices.Equal(rows[0], csvHeader) {
		t.Fatalf("%v %v", rows, err)
	}
	for column, want := range map[string]string{
		"name": id(1), "reasons": "unused x", "detail": `'=HYPERLINK("http://evil")`, "owner": "'+1", "display_name": `'@a,"b"`, "issued_at": "2026-03-01T00:00:00Z",
		"expires_at": "",
	} {
		if got := rows[1][slices.Index(csvHeader, column)]; got != want {
			t.Errorf("%s is %q", column, got)
		}
	}
	if got := rows[2][3]; got != "'-x" {
		t.Errorf("%q", got)
	}

	// A download that cannot be completed is not taken for a whole one.
	fail = true
	resp, err := b.Client.Do(b.request(http.MethodGet, "/reports/stale/csv?unused_for=30d&kind=token", nil))
	if err == nil {
		defer resp.Body.Close()
		_, err = new(bytes.Buffer).ReadFrom(resp.Body)
	}
	if err == nil {
		t.Error("the download seems complete")
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -100: "-100"} {
		if got := count(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
	for n, want := range map[int64]string{9999: "9,999", 12345: "12k", 1_250_000: "1.2M", 25_000_000: "25M"} {
		if got := short(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

func TestChart(t *testing.T) {
	c := columnsChart("x", "X", []string{"a", "b"}, []column{{"one", []int64{1, 3}}, {"two", []int64{0, 2}}})
	if len(c.Bars) != 3 || c.Bars[0].H*3 != c.Bars[1].H || c.Bars[1].Y != columnTop || c.Empty {
		t.Errorf("%+v", c)
	}
	if c := columnsChart("x", "X", []string{"a"}, nil); !c.Empty {
		t.Errorf("%+v", c)
	}
	if c := rowsChart("x", "X", []label{{"one", 2}, {strings.Repeat("ü", 100), 4}}); c.Bars[0].W*2 != c.Bars[1].W || len(c.Texts) != 4 {
		t.Errorf("%+v", c)
	}
}

func TestFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-listen 0.0.0.0:8250":                 "-listen: 0.0.0.0:8250 is not loopback: give -tls-cert and -tls-key",
		"-listen :8250":                        "-listen: :8250 is not loopback: give -tls-cert and -tls-key",
		"-listen console.example.com:8250":     "is not loopback",
		"-listen 8250":                         `-listen: "8250" is not an address and a port`,
		"-tls-cert a.pem":                      "give both -tls-cert and -tls-key",
		"-tls-cert none.pem -tls-key none.pem": "-tls-cert, -tls-key: open none.pem",
		"-mount ../sys":                        `-mount: "../sys" is not a path`,
		"-mount /":                             "-mount",
		"-oidc-path a//b":                      "-oidc-path",
		"-idle 5s":                             "-idle: 5s is not allowed: 1m to 24h",
		"-max-session 48h":                     "-max-session",
		"-idle 5":                              `invalid value "5" for flag -idle: parse error; see -help`,
		"extra":                                `"extra" is not a flag`,
		"-listen 127.0.0.1:99999":              "-listen",
		"-listen 0.0.0.0:0 -tls-cert x -tls-key x":    "-tls-cert, -tls-key",
		"-password-path auth/../x -listen [::1]:8250": "-password-path",
	} {
		var stderr bytes.Buffer
		if code := Run(t.Context(), strings.Fields(args), nil, &bytes.Buffer{}, &stderr); code == 0 || !strings.Contains(stderr.String(), want) ||
			strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%s: %d %s", args, code, stderr.String())
		}
	}
	for _, args := range []string{"", "-listen localhost:1", "-listen [::1]:1", "-mount team/apitoken/", "-oidc-path= -password-path="} {
		if _, err := parse(strings.Fields(args), &bytes.Buffer{}); err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
	var stdout bytes.Buffer
	if code := Run(t.Context(), []string{"-help"}, nil, &stdout, nil); code != 0 || !strings.Contains(stdout.String(), "-tls-cert") {
		t.Errorf("%d %s", code, stdout.String())
	}
}
