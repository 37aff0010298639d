package console

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// upstreamItem is an item that a comparison has found.
func upstreamItem(connection, id string) map[string]any {
	return map[string]any{
		"kind": "upstream_token", "name": "<script>" + id + "</script>", "upstream_id": id, "connection": connection,
		"reasons": []string{"unknown_here"}, "detail": "nobody revokes the token", "command": "# revoke token", "owner": "ann",
		"scopes": []string{"read:user", "write:<b>"}, "last_seen_at": "2026-03-02T10:11:12Z",
	}
}

// The page of a connection has the numbers of the last comparison, and the items of this connection alone.
func TestConnection(t *testing.T) {
	w := newWorld(t)
	b := w.browser().signIn("good")
	w.vault.set("apitoken/connections/gitea", map[string]any{"provider": "gitea", "url": "https://gitea.example.com", "tokens": 7})
	w.vault.set("apitoken/connections/gitea/reconcile", map[string]any{
		"state": "failed", "compared_at": "2026-03-03T01:02:03Z", "listed": 1200, "unknown_here": 31, "gone_there": 32, "foreign": 33,
		"unconfirmed": 34, "complete": false, "error": "the service is away <now>",
	})
	w.vault.handle("apitoken/report/orphans", func(r *http.Request) (int, any) {
		q := r.URL.Query()
		if q.Get("kind") != "upstream_token" {
			t.Errorf("%v", q)
		}
		data := map[string]any{}
		switch q.Get("after") {
		case "upstream_token/gitea/":
			data["items"], data["next"] = []any{upstreamItem("gitea", "a1")}, "upstream_token/gitea/a1"
		case "upstream_token/gitea/a1":
			data["items"], data["next"] = []any{upstreamItem("gitea", "a2"), upstreamItem("vault", "v1")}, "upstream_token/vault/v1"
		case "upstream_token/none/":
		default:
			t.Errorf("%v", q)
		}
		return 200, map[string]any{"data": data}
	})
	a := b.get("/connections/gitea")
	a.has(t, "https://gitea.example.com", "1,200", "<dd>31</dd>", "<dd>32</dd>", "<dd>33</dd>", "<dd>34</dd>", "not all tokens", "2026-03-03 01:02:03",
		"The last comparison failed: the service is away &lt;now&gt; The numbers are those of the comparison before.", "Compare now")
	a.has(t, "&lt;script&gt;a1&lt;/script&gt;", "ID a1", "unknown here</span>", "nobody revokes", "# revoke token", "<td>ann</td>",
		"read:user, write:&lt;b&gt;", "2026-03-02 10:11:12")
	m := nextLink.FindStringSubmatch(a.text)
	if m == nil {
		t.Fatalf("no next page: %s", a.text)
	}
	a = b.get(strings.ReplaceAll(m[1], "&amp;", "&"))
	a.has(t, "ID a2", `href="/connections/gitea">First page`)
	if strings.Contains(a.text, "ID v1") || nextLink.MatchString(a.text) {
		t.Errorf("the page has items of another connection: %s", a.text)
	}
	if a = b.get("/connections/none"); a.StatusCode != http.StatusNotFound {
		t.Errorf("%d", a.StatusCode)
	}

	// Before the first comparison there are no numbers.
	w.vault.set("apitoken/connections/gitea/reconcile", map[string]any{"state": "never", "started_at": "", "compared_at": ""})
	if a = b.get("/connections/gitea"); strings.Contains(a.text, "unconfirmed") || !strings.Contains(a.text, "never") {
		t.Errorf("%s", a.text)
	}
}

// The report has what a comparison has found: which service, which ID, whose, what for, when.
func TestUpstreamTokens(t *testing.T) {
	w := newWorld(t)
	b := w.browser().signIn("good")
	nameless := upstreamItem("gitea", "a2")
	nameless["name"] = ""
	w.vault.set("apitoken/report/orphans", map[string]any{"items": []any{upstreamItem("gitea", "a1"), nameless, upstreamItem("../x", "a3")}})
	a := b.get("/reports/orphans?kind=upstream_token")
	a.has(t, `<a href="/connections/gitea">gitea</a>`, "&lt;script&gt;a1&lt;/script&gt;", "ID a1", "unnamed", "<td>ann</td>", "read:user, write:&lt;b&gt;",
		"2026-03-02 10:11:12", "unknown here</span>", "# revoke token")
	if strings.Contains(a.text, `href="/connections/..`) {
		t.Error("a name leads elsewhere")
	}
	b.get("/reports/orphans/csv").has(t, ",upstream_id\n", ",a1\n")
}

// The button starts a comparison. The answer of Vault is on the page that follows, or in place of the page.
func TestCompare(t *testing.T) {
	w := newWorld(t)
	b := w.browser().signIn("good")
	path := "/connections/gitea/reconcile"
	press := func(b *browser) *answered { return b.post(path, url.Values{"csrf": {b.csrf}}) }
	for state, want := range map[string]string{
		"done": "The tokens of the connection gitea were compared.", "running": "The comparison of the connection gitea goes on.",
	} {
		w.vault.set("apitoken"+path, map[string]any{"state": state})
		if a := press(b); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/connections/gitea" {
			t.Errorf("%d %s", a.StatusCode, a.text)
		}
		b.get("/reports").has(t, want)
	}
	if sent := w.vault.to("apitoken" + path); len(sent) != 2 || sent[0].method != http.MethodPut && sent[0].method != http.MethodPost {
		t.Errorf("%+v", sent)
	}
	w.vault.handle("apitoken"+path, func(*http.Request) (int, any) {
		return 400, map[string]any{"errors": []string{"connection \"gitea\": <script>"}}
	})
	if a := press(b); a.StatusCode != 400 || !strings.Contains(a.text, "Vault refused the request: connection &#34;gitea&#34;: &lt;script&gt;") {
		t.Errorf("%d %s", a.StatusCode, a.text)
	}
	if a := b.get(path); a.StatusCode != http.StatusMethodNotAllowed && a.StatusCode != http.StatusNotFound {
		t.Errorf("a GET answers %d", a.StatusCode)
	}
	poor := w.browser().signIn("poor")
	if a := press(poor); a.StatusCode != http.StatusForbidden ||
		!strings.Contains(a.text, "Your Vault policies do not allow you to write to apitoken"+path+".") {
		t.Errorf("%d %s", a.StatusCode, a.text)
	}
}

// deadlines keeps the time limit of the last request to Vault.
type deadlines struct {
	http.RoundTripper
	left time.Duration
}

func (d *deadlines) RoundTrip(r *http.Request) (*http.Response, error) {
	at, _ := r.Context().Deadline()
	d.left = time.Until(at)
	return d.RoundTripper.RoundTrip(r)
}

// A comparison has the time that the engine takes for its answer, and the browser waits for longer.
func TestCompareTime(t *testing.T) {
	limit := &deadlines{RoundTripper: http.DefaultTransport}
	w := newWorld(t, func(c *Config) {
		conf := api.DefaultConfig()
		conf.Address, conf.MaxRetries, conf.HttpClient.Transport = c.Vault.Address(), 0, limit
		client, err := api.NewClient(conf)
		if err != nil {
			t.Fatal(err)
		}
		client.SetClientTimeout(0)
		c.Vault = client
	})
	b := w.browser().signIn("good")
	w.vault.set("apitoken/connections/gitea/reconcile", map[string]any{"state": "done"})
	if a := b.post("/connections/gitea/reconcile", url.Values{"csrf": {b.csrf}}); a.Header.Get("Location") != "/connections/gitea" {
		t.Fatalf("%d %s", a.StatusCode, a.text)
	}
	if limit.left < 50*time.Second || limit.left >= writeTimeout {
		t.Errorf("the time limit is %s", limit.left)
	}
}
