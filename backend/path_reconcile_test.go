package backend

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// listing is the shelf's definition with a listing.
var listing = strings.NewReplacer("EXPIRY", "none", "  check:\n", `  list:
    requests:
      - {method: GET, path: /tokens, headers: {authorization: credential.password}, query: {whole: '"yes"'}}
    items: response.body
    result:
      id: item.id
      name: item.name
      owner: item[?"owner"].orValue("")
      created_at: item[?"created"]
      last_used_at: item[?"used"]
      expires_at: item[?"ends"]
      scopes: item[?"scopes"]
  check:
`).Replace(shelfDefinition)

// reconciled is an engine whose clock can be set, with a role of a connection that lists tokens.
type reconciled struct {
	*engine
	s     *shelf
	ahead atomic.Int64
}

func onListedShelf(t *testing.T) *reconciled {
	r := &reconciled{s: newShelf(t)}
	r.engine = onShelfPrepared(t, r.s, func(b *backend) {
		hurry(b)
		b.Now = func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) }
		b.Reconciler.Pause = 10 * time.Millisecond
	})
	r.write("providers/shelf", data{"definition": listing})
	return r
}

// put adds a token to the shelf without the engine.
func (r *reconciled) put(id, name string, more data) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.tokens[id] = name
	if r.s.more == nil {
		r.s.more = make(map[string]data)
	}
	r.s.more[id] = more
}

func (r *reconciled) remove(id string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	delete(r.s.tokens, id)
}

// finds reconciles, and wants the numbers of unknown, gone and foreign tokens.
func (r *reconciled) finds(unknown, gone, foreign int) data {
	r.t.Helper()
	got := r.write("connections/shelf/reconcile", nil)
	if got["state"] != "done" || got["unknown_here"] != unknown || got["gone_there"] != gone || got["foreign"] != foreign || got["complete"] != true {
		r.t.Errorf("%v; want %d unknown, %d gone, %d foreign", got, unknown, gone, foreign)
	}
	return got
}

func TestReconcile(t *testing.T) {
	t.Parallel()
	r := onListedShelf(t)
	if got := r.read("connections/shelf/reconcile"); got["state"] != "never" || got["started_at"] != "" || got["next_at"] != "" {
		t.Error(got)
	}
	kept, lost := r.creds("reader", nil), r.creds("reader", nil)
	now := time.Now().UTC()
	r.put("90", "laptop", data{
		"owner": "ann", "created": now.Add(-100 * days).Format(time.RFC3339), "used": now.Add(-3 * days).Format(time.RFC3339), "scopes": []string{"read", "write"},
	})
	r.put("91", "vault-apitoken-reader-abcdef", nil) // of an engine that forgot the token
	r.put("92", r.s.tokens["1"], nil)                // somebody has repeated the request
	r.put("93", "brief", data{"ends": now.Add(time.Hour).Format(time.RFC3339)})
	r.put("94", "expired", data{"ends": now.Add(-time.Hour).Format(time.RFC3339)})
	r.put("95", "robot$VAULT-apitoken-x", data{"ends": now.Add(time.Hour).Format(time.RFC3339)})
	r.put("96", "my-vault-apitoken-copy; rm -rf ~", data{"created": "2020-01-01", "scopes": []string{"$(reboot)"}})
	r.remove("2")
	if got := r.finds(3, 0, 2); got["unconfirmed"] != 1 { // the service may list new tokens late
		t.Error(got)
	}
	r.ahead.Store(int64(time.Minute))
	calls := len(r.s.calls)
	got := r.finds(3, 1, 2)
	if got["listed"] != 8 || got["kept"] != 6 || got["unconfirmed"] != 0 || got["error"] != "" || got["compared_at"] == "" {
		t.Error(got)
	}
	for _, call := range r.s.calls[calls:] {
		if !strings.HasPrefix(call, "GET ") {
			t.Errorf("a reconciliation makes the call %s", call)
		}
	}
	if read := r.read("connections/shelf/reconcile"); fmt.Sprint(read) != fmt.Sprint(got) {
		t.Errorf("%v, want %v", read, got)
	}

	lostName := lost.data["name"].(string)
	want := []string{
		"upstream_token/" + lostName + " gone_there", "upstream_token/laptop foreign", "upstream_token/vault-apitoken-reader-abcdef unknown_here",
		"upstream_token/" + kept.data["name"].(string) + " unknown_here", "upstream_token/robot$VAULT-apitoken-x unknown_here",
		"upstream_token/my-vault-apitoken-copy; rm -rf ~ foreign",
	}
	items := r.reports("orphans", data{"kind": "upstream_token"}, want...)
	for limit := range 6 {
		r.reports("orphans", data{"limit": limit + 1}, want...)
	}
	r.reports("orphans", data{"after": "upstream_token/shelf/"}, want...) // the items of a connection, for its page
	r.reports("orphans", data{"after": "upstream_token/shelg/"})
	laptop := items["upstream_token/laptop"]
	if laptop["owner"] != "ann" || laptop["upstream_id"] != "90" || laptop["connection"] != "shelf" || laptop["last_seen_at"] == nil ||
		fmt.Sprint(laptop["scopes"]) != "[read write]" ||
		laptop["command"] != "vault write apitoken/roles/... connection=shelf params=books=... ttl=..." ||
		!strings.Contains(laptop["detail"].(string), "100 days old, without an expiry, last used on ") {
		t.Errorf("%v", laptop)
	}
	if one := items["upstream_token/"+lostName]; one["command"] != "vault write apitoken/revoke token_id="+lost.id || one["role"] != "reader" || one["entity_id"] != entityAnn {
		t.Errorf("%v", one)
	}
	for name, one := range items {
		command := one["command"].(string)
		if !strings.HasPrefix(command, "# ") && strings.ContainsAny(command, "$;`'\"\n") {
			t.Errorf("%s: a shell would run a text of the service: %s", name, command)
		}
		if text := fmt.Sprint(one); strings.Contains(text, "shelf-token") || strings.Contains(text, "sesame") {
			t.Errorf("a secret is shown: %s", text)
		}
	}

	// The command ends the report of the token that is gone.
	r.write("revoke", data{"token_id": lost.id})
	r.reports("orphans", nil, want[1:]...)
	// Another process begins without results.
	e := r.restart()
	if got := e.read("connections/shelf/reconcile"); got["state"] != "never" {
		t.Error(got)
	}
	e.reports("orphans", nil)
}

// Tokens that are made and revoked while the tokens are listed are not reported.
func TestReconcileWhileThingsChange(t *testing.T) {
	t.Parallel()
	r := onListedShelf(t)
	old := r.creds("reader", nil)
	r.ahead.Store(int64(15 * time.Minute))
	first := func(do func(w http.ResponseWriter, req *http.Request) bool) {
		t.Helper()
		var begun atomic.Bool
		r.s.setFault(func(w http.ResponseWriter, req *http.Request, _ func()) bool {
			if req.URL.Query().Get("whole") == "" || begun.Swap(true) {
				return false
			}
			return do(w, req)
		})
		r.finds(0, 0, 0)
		r.s.setFault(nil)
		if !begun.Load() {
			t.Error("the tokens were not listed")
		}
	}
	first(func(http.ResponseWriter, *http.Request) bool { r.creds("reader", nil); return false })
	first(func(http.ResponseWriter, *http.Request) bool { r.revokeLease(old); return false })
	first(func(w http.ResponseWriter, req *http.Request) bool {
		c := r.creds("reader", nil)
		r.s.serve(w, req) // the listing has the token
		r.revokeLease(c)  // and the engine has forgotten the token
		return true
	})
	// The names say nothing of who has made the tokens.
	r.write("connections/shelf", data{"name_template": "{{ random 20 }}"})
	first(func(w http.ResponseWriter, req *http.Request) bool {
		c := r.creds("reader", nil)
		r.s.serve(w, req)
		r.revokeLease(c)
		return true
	})
	r.settled()
}

// A token that the listing omits, and that exists, is not gone. Without an answer, it is not known.
func TestReconcileConfirms(t *testing.T) {
	t.Parallel()
	r := onListedShelf(t)
	c := r.creds("reader", nil)
	r.ahead.Store(int64(15 * time.Minute))
	omit := func(w http.ResponseWriter, req *http.Request, _ func()) bool {
		if req.URL.Query().Get("whole") == "" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("[]"))
		return true
	}
	r.s.setFault(omit)
	r.finds(0, 0, 0)
	r.s.setFault(func(w http.ResponseWriter, req *http.Request, done func()) bool {
		if req.URL.Query().Get("whole") == "" {
			return nonsense(w, req, done)
		}
		return omit(w, req, done)
	})
	if got := r.finds(0, 0, 0); got["unconfirmed"] != 1 {
		t.Error(got)
	}
	// A provider that cannot search has two listings.
	r.s.setFault(omit)
	without := strings.Replace(listing[:strings.Index(listing, "  find:")]+listing[strings.Index(listing, "  revoke:"):], "expiry: none", "expiry: seconds", 1)
	r.write("providers/shelf", data{"definition": without})
	r.finds(0, 1, 0)
	r.s.setFault(nil)
	r.finds(0, 0, 0)
	r.remove(strings.TrimPrefix(c.token, "shelf-token-"))
	r.finds(0, 1, 0)
	// The listing of another address says nothing of a token.
	other := httptest.NewServer(http.HandlerFunc(r.s.serve))
	t.Cleanup(other.Close)
	r.write("connections/shelf", data{"url": other.URL, "credential": data{"password": "open sesame"}})
	r.finds(0, 0, 0)
}

// A second listing that is cut short does not say that a token is gone.
func TestReconcileSecondLookCutShort(t *testing.T) {
	t.Parallel()
	r := onListedShelf(t)
	r.creds("reader", nil)
	r.ahead.Store(int64(15 * time.Minute))
	r.write("providers/shelf", data{"definition": strings.Replace(listing[:strings.Index(listing, "  find:")]+
		listing[strings.Index(listing, "  revoke:"):], "expiry: none", "expiry: seconds", 1)})
	many := "[" + strings.TrimSuffix(strings.Repeat(`{"id":"9","name":"b"},`, 100_001), ",") + "]"
	var looks atomic.Int32
	r.s.setFault(func(w http.ResponseWriter, req *http.Request, _ func()) bool {
		if req.URL.Query().Get("whole") == "" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		if looks.Add(1) == 1 {
			_, _ = w.Write([]byte("[]"))
		} else {
			_, _ = w.Write([]byte(many))
		}
		return true
	})
	got := r.write("connections/shelf/reconcile", nil)
	if got["state"] != "done" || got["gone_there"] != 0 || got["unconfirmed"] != 1 || got["complete"] != false || looks.Load() != 2 {
		t.Error(got, looks.Load())
	}
}

// The credential that a rotation has made is not unknown.
func TestReconcileKnowsRoots(t *testing.T) {
	t.Parallel()
	r := onListedShelf(t)
	r.write("providers/shelf", data{"definition": strings.Replace(listing, `json: '{"password": generated}'}
    result: {credential: '{"password": generated}'}`, `json: '{"password": "pw " + name}'}
    result: {credential: '{"password": "pw " + name}'}
  find_root:
    requests:
      - {method: GET, path: /tokens, headers: {authorization: credential.password}}
    items: response.body`, 1)})
	r.write("rotate-root/shelf", nil)
	r.put("50", strings.TrimPrefix(r.s.password, "pw "), nil)
	r.finds(0, 0, 0)
	r.write("rotate-root/shelf", nil)
	r.finds(1, 0, 0)
	r.remove("50")
	r.finds(0, 0, 0)
}

func TestReconcileIsBounded(t *testing.T) {
	t.Parallel()
	r := onListedShelf(t)
	for i := range 3000 {
		r.put(fmt.Sprint(1000+i), fmt.Sprintf("laptop-%d", i), data{"owner": strings.Repeat("o", 400), "scopes": slices.Repeat([]string{strings.Repeat("s", 100)}, 5)})
	}
	r.put("9", "vault-apitoken-x-1", nil)
	if got := r.finds(1, 0, 3000); got["kept"] != 1000 {
		t.Error(got)
	}
	rows, items := r.reported("orphans", nil)
	if len(rows) != 1000 || items["upstream_token/vault-apitoken-x-1"] == nil {
		t.Errorf("%d rows", len(rows))
	}
}

// What is beyond the bounds of the report is counted.
func TestReconcileCountsAllUnknown(t *testing.T) {
	t.Parallel()
	r := onListedShelf(t)
	c := r.creds("reader", nil)
	for i := range 2500 {
		r.put(fmt.Sprint(1000+i), fmt.Sprintf("vault-apitoken-x-%d", i), data{"scopes": []string{"read"}})
	}
	if got := r.finds(2500, 0, 0); got["kept"] != 1000 {
		t.Error(got)
	}
	for i := range 2500 { // repeated requests
		r.put(fmt.Sprint(1000+i), r.s.tokens[strings.TrimPrefix(c.token, "shelf-token-")], nil)
	}
	if got := r.finds(2500, 0, 0); got["kept"] != 1000 {
		t.Error(got)
	}
}

// A service that has no listing, such as at a wrong address or without a right, says nothing of the tokens.
func TestReconcileWithoutListing(t *testing.T) {
	t.Parallel()
	r := onListedShelf(t)
	r.creds("reader", nil)
	r.ahead.Store(int64(15 * time.Minute))
	without := listing[:strings.Index(listing, "  find:")] + listing[strings.Index(listing, "  revoke:"):]
	r.write("providers/shelf", data{"definition": strings.Replace(without, "expiry: none", "expiry: seconds", 1)})
	r.finds(0, 0, 0)
	r.s.setFault(func(w http.ResponseWriter, req *http.Request, _ func()) bool {
		if req.URL.Query().Get("whole") == "" {
			return false
		}
		w.WriteHeader(http.StatusNotFound)
		return true
	})
	r.refused(logical.UpdateOperation, "connections/shelf/reconcile", nil, `connection "shelf": the tokens were not compared: status 404`)
}

func TestReconcileErrors(t *testing.T) {
	t.Parallel()
	r := onListedShelf(t)
	r.creds("reader", nil)
	r.refused(logical.UpdateOperation, "connections/none/reconcile", nil, `name: there is no connection "none"`)
	if resp, err := r.request(&logical.Request{Operation: logical.ReadOperation, Path: "connections/none/reconcile"}); resp != nil || err != nil {
		t.Error(resp, err)
	}
	r.refused(logical.UpdateOperation, "connections/shelf/reconcile", data{"wait": "1s"}, "wait: is not a field of this path")
	for period, want := range map[string]string{"59m": "reconcile_period: must be at least 1h", "-1h": "reconcile_period: must", "soon": "reconcile_period: takes a duration"} {
		r.refused(logical.UpdateOperation, "connections/shelf", data{"reconcile_period": period}, want)
	}
	r.finds(0, 0, 0)
	r.s.setFault(failing)
	r.refused(logical.UpdateOperation, "connections/shelf/reconcile", nil, `connection "shelf": the tokens were not compared: status 500`)
	if got := r.read("connections/shelf/reconcile"); got["state"] != "failed" || got["listed"] != 1 || !strings.HasPrefix(got["error"].(string), "status 500") {
		t.Error(got)
	}
	r.s.setFault(nil)
	r.storage.silent.Store(true)
	r.refused(logical.UpdateOperation, "connections/shelf/reconcile", nil, "the storage is broken")
	r.storage.silent.Store(false)
	r.finds(0, 0, 0)
	r.write("providers/shelf", data{"definition": strings.Replace(shelfDefinition, "EXPIRY", "none", 1)})
	r.refused(logical.UpdateOperation, "connections/shelf/reconcile", nil, `name: provider "shelf" cannot list the tokens of the service`)
	r.refused(logical.UpdateOperation, "connections/shelf", data{"reconcile_period": "1h"}, `reconcile_period: provider "shelf" cannot list`)
}

// With a period, connections are compared by themselves: soon after the start, and then each period.
func TestReconcileByItself(t *testing.T) {
	t.Parallel()
	r := onListedShelf(t)
	r.write("connections/shelf", data{"reconcile_period": "1h"})
	if got := r.read("connections/shelf"); got["reconcile_period"] != int64(3600) {
		t.Error(got["reconcile_period"])
	}
	run := func(ahead time.Duration, want string) {
		t.Helper()
		r.ahead.Store(int64(ahead))
		wait := r.b.Reconciler.Run(context.Background())
		got := r.read("connections/shelf/reconcile")
		if got["state"] != want || wait <= 0 || wait > time.Minute || got["next_at"] == "" {
			t.Errorf("%s: %v, again in %s", ahead, got, wait)
		}
	}
	run(time.Minute, "never")
	run(3*time.Minute, "done")
	first := r.read("connections/shelf/reconcile")["started_at"]
	run(60*time.Minute, "done")
	if again := r.read("connections/shelf/reconcile")["started_at"]; again != first {
		t.Errorf("compared at %v and at %v", first, again)
	}
	run(64*time.Minute, "done")
	if again := r.read("connections/shelf/reconcile")["started_at"]; again == first {
		t.Errorf("not compared again since %v", first)
	}
	r.write("connections/shelf", data{"reconcile_period": 0})
	if got := r.read("connections/shelf/reconcile"); got["next_at"] != "" {
		t.Error(got)
	}
	// A deleted connection leaves nothing.
	r.do(logical.DeleteOperation, "connections/shelf", data{"force": true})
	r.b.Reconciler.Run(context.Background())
	r.reports("orphans", data{"kind": "upstream_token"})
}
