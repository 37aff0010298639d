package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// shelf is a small service with an API of its own, which no built-in provider knows. What real services do
// is tested with real ones; this one fails when it is told to.
type shelf struct {
	*httptest.Server
	mu       sync.Mutex
	password string
	next     int
	ends     int64             // what it says of the end of a token; 0: nothing
	tokens   map[string]string // id -> name
	calls    []string          // "POST /tokens", ...
	more     map[string]data   // id -> further members in the listing
	fault    func(http.ResponseWriter, *http.Request, func()) bool
}

const shelfDefinition = `
name: shelf
title: Shelf
expiry: EXPIRY
credential:
  password: {type: string, secret: true, required: true, description: The password.}
params:
  books: {type: list, required: true, description: What may be read.}
operations:
  create:
    requests:
      - {method: POST, path: /tokens, headers: {authorization: credential.password}, json: '{"name": name, "books": params.books, "ends": unix(expires_at)}'}
    result: {id: string(response.body.id), token: response.body.token, granted: '{"books": response.body.books}', expires_at: response.body.ends, data: '{"shelf": "top"}'}
  find:
    requests:
      - {method: GET, path: /tokens, headers: {authorization: credential.password}}
    items: response.body
  revoke:
    requests:
      - {method: DELETE, path: '/tokens/{id}', headers: {authorization: credential.password}, gone: [404]}
  check:
    requests:
      - {method: GET, path: /self, headers: {authorization: credential.password}}
    result: {data: '{"who": response.body.who}'}
  rotate_root:
    requests:
      - {method: PUT, path: /password, headers: {authorization: credential.password}, json: '{"password": generated}'}
    result: {credential: '{"password": generated}'}
`

func newShelf(t *testing.T) *shelf {
	s := &shelf{password: "open sesame", tokens: make(map[string]string)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		fault := s.fault
		s.calls = append(s.calls, r.Method+" "+r.URL.Path)
		s.mu.Unlock()
		if fault == nil || !fault(w, r, func() { s.serve(httptest.NewRecorder(), r) }) {
			s.serve(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *shelf) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	say := func(status int, body any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	if r.Header.Get("Authorization") != s.password {
		say(401, data{"message": "the password " + r.Header.Get("Authorization") + " is wrong"})
		return
	}
	var in struct {
		Name     string
		Books    []string
		Password string
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	switch r.Method + " " + r.URL.Path {
	case "GET /self":
		say(200, data{"who": "librarian"})
	case "PUT /password":
		s.password = in.Password
		say(200, data{})
	case "GET /tokens":
		list := []data{}
		for id, name := range s.tokens {
			one := data{"id": id, "name": name}
			maps.Copy(one, s.more[id])
			list = append(list, one)
		}
		say(200, list)
	case "POST /tokens":
		if slices.Contains(in.Books, "forbidden") {
			say(422, data{"message": "no such book"})
			return
		}
		s.next++
		id := fmt.Sprint(s.next)
		s.tokens[id] = in.Name
		books := slices.DeleteFunc(in.Books, func(b string) bool { return b == "rare" })
		say(201, data{"id": s.next, "token": "shelf-token-" + id, "books": books, "ends": s.ends})
	default:
		id := strings.TrimPrefix(r.URL.Path, "/tokens/")
		if _, there := s.tokens[id]; !there || r.Method != http.MethodDelete {
			say(404, data{"message": "not there"})
			return
		}
		delete(s.tokens, id)
		say(200, data{})
	}
}

func (s *shelf) live() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tokens)
}

// works reports whether the service accepts a token.
func (s *shelf) works(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens[strings.TrimPrefix(text, "shelf-token-")] != ""
}

func (s *shelf) setFault(f func(http.ResponseWriter, *http.Request, func()) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// The faults; done does what was asked without an answer.
func reset(w http.ResponseWriter, _ *http.Request, _ func()) bool {
	conn, _, _ := w.(http.Hijacker).Hijack()
	conn.Close()
	return true
}

func resetAfter(w http.ResponseWriter, r *http.Request, done func()) bool {
	done()
	return reset(w, r, done)
}

func truncated(w http.ResponseWriter, _ *http.Request, done func()) bool {
	done()
	w.Header().Set("Content-Length", "1000")
	_, _ = w.Write([]byte(`{"id": 1, "tok`))
	return true
}

func nonsense(w http.ResponseWriter, _ *http.Request, done func()) bool {
	done()
	_, _ = w.Write([]byte(`{"unexpected": [{}]}`))
	return true
}

func failing(w http.ResponseWriter, _ *http.Request, _ func()) bool {
	w.WriteHeader(500)
	return true
}

// once has only the first request of a method fail.
func once(method string, fault func(http.ResponseWriter, *http.Request, func()) bool) func(http.ResponseWriter, *http.Request, func()) bool {
	var used sync.Once
	return func(w http.ResponseWriter, r *http.Request, done func()) (faulty bool) {
		if r.Method == method {
			used.Do(func() { faulty = fault(w, r, done) })
		}
		return faulty
	}
}

// onShelf is an engine with a role "reader" of a connection to the shelf, in a hurry.
func onShelf(t *testing.T, s *shelf) *engine { return onShelfPrepared(t, s, hurry) }

func onShelfPrepared(t *testing.T, s *shelf, prepare func(*backend)) *engine {
	e := mountPrepared(t, new(storage), newSystem(), prepare)
	e.write("providers/shelf", data{"definition": strings.Replace(shelfDefinition, "EXPIRY", "none", 1)})
	e.write("connections/shelf", data{"provider": "shelf", "url": s.URL, "credential": data{"password": "open sesame"}, "timeout": "1s"})
	e.write("roles/reader", data{"connection": "shelf", "params": data{"books": "a,b"}, "ttl": "1h", "max_ttl": "2h"})
	return e
}

// A check of which the provider tells nothing is answered with an empty object, not with null.
func TestCheckOfWhichNothingIsTold(t *testing.T) {
	e := onShelf(t, newShelf(t))
	silent := strings.Replace(shelfDefinition, `    result: {data: '{"who": response.body.who}'}
`, "", 1)
	e.write("providers/shelf", data{"definition": strings.Replace(silent, "EXPIRY", "none", 1)})
	if who, is := e.write("connections/shelf/check", nil)["credential"].(data); !is || who == nil || len(who) != 0 {
		t.Errorf("credential is %#v", who)
	}
}

func hurry(b *backend) {
	b.Statics.Interval = 5 * time.Millisecond
	b.Upstreams.Timings = upstream.Timings{Settle: 0, Grace: time.Second, Interval: 5 * time.Millisecond, Longest: 20 * time.Millisecond, Sync: time.Hour, FirstBackoff: 5 * time.Millisecond, LongestBackoff: 20 * time.Millisecond}
}

// eventually waits until something holds that others bring about, and reports whether it does. The machine may be slow.
func eventually(holds func() bool) bool {
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// settled waits until the queue is empty.
func (e *engine) settled() {
	e.t.Helper()
	var queue map[string]any
	if !eventually(func() bool {
		queue = e.read("connections/shelf")["queue"].(map[string]any)
		return queue["count"] == 0
	}) {
		e.t.Fatalf("the queue is not empty: %v", queue)
	}
}

func TestUpstreamToken(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	if who := e.write("connections/shelf/check", nil)["credential"]; fmt.Sprint(who) != "map[who:librarian]" {
		t.Error(who)
	}
	c := e.creds("reader", data{"ttl": "30m"})
	if c.token != "shelf-token-1" || fmt.Sprint(c.data["upstream"]) != "map[shelf:top]" || c.secret.TTL != 30*time.Minute || !c.secret.Renewable {
		t.Errorf("%v %+v", c.data, c.secret)
	}
	if name := c.data["name"].(string); !strings.HasPrefix(name, "vault-apitoken-reader-") || s.tokens["1"] != name {
		t.Errorf("%s %v", name, s.tokens)
	}
	for _, path := range []string{"connections/shelf", "tokens/" + c.id, "providers/shelf"} {
		if text := fmt.Sprint(e.read(path)); strings.Contains(text, "sesame") || strings.Contains(text, c.token) {
			t.Errorf("a secret is shown at %s", path)
		}
	}
	if row := e.read("tokens/" + c.id); row["state"] != "active" || row["entity_id"] != entityAnn {
		t.Error(row)
	}
	resp, err := e.renew(c, time.Hour)
	if err != nil || resp.IsError() || resp.Secret.TTL != time.Hour {
		t.Fatal(resp, err)
	}
	if e = e.restart(); e.read("connections/shelf")["tokens"] != 1 {
		t.Error("not one live token")
	}
	e.revokeLease(c)
	e.revokeLease(c)
	if s.live() != 0 || e.read("tokens/" + c.id)["state"] != "revoked" {
		t.Error("not ended")
	}
	resp, err = e.renew(c, 0)
	e.saysNo(resp, err, "it is revoked")

	// One that the service ends earlier has a lease that ends then.
	s.ends = time.Now().Add(10 * time.Minute).Unix()
	c = e.creds("reader", nil)
	if c.secret.TTL > 10*time.Minute || c.secret.TTL < 9*time.Minute || len(c.warnings) != 1 || !strings.HasPrefix(c.warnings[0], "ttl: the upstream lets the token live for no longer than") {
		t.Errorf("%s %q", c.secret.TTL, c.warnings)
	}
	e.revokeLease(c)
	s.ends = 0

	// A leaked token is ended by itself, and what was granted less is told.
	e.write("roles/reader", data{"params": data{"books": []any{"a", "rare"}}})
	c = e.creds("reader", nil)
	if len(c.warnings) != 1 || c.warnings[0] != "books: the upstream granted [a], not [a rare] as the role asks for" {
		t.Error(c.warnings)
	}
	if e.write("lookup", data{"token": c.token})["token_id"] != c.id {
		t.Error("not recognised")
	}
	e.write("revoke", data{"token": c.token})
	if s.live() != 0 {
		t.Error("not ended")
	}
}

func TestUpstreamRefuses(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	for _, c := range []struct {
		path string
		d    data
		want string
	}{
		{"creds/reader", data{"scopes": "a"}, `scopes: is for native tokens; role "reader" issues tokens of connection "shelf"`},
		{"creds/reader", data{"ttl": "3h"}, "ttl: 3h is more than max_ttl"},
		{"roles/reader", data{"connection": ""}, `connection: of role "reader" is "shelf" and cannot be changed`},
		{"roles/reader", data{"refresh": true}, "refresh: is for native tokens"},
		{"roles/reader", data{"params": data{"book": "a"}}, "params: book: is not one of: books"},
		{"roles/reader", data{"params": "nonsense"}, "params"},
		{"roles/other", data{"connection": "none"}, `connection: there is no connection "none"`},
		{"connections/x", data{"url": s.URL}, "provider: is needed, one of: "},
		{"connections/x", data{"provider": "none"}, `provider: there is no "none", there are: `},
		{"connections/x", data{"provider": "shelf"}, "credential: password: is needed: The password."},
		{"connections/x", data{"provider": "shelf", "credential": data{"password": "p"}}, "url: is needed"},
		{"connections/shelf", data{"provider": "gitea"}, `provider: is "shelf" and cannot be changed`},
		{"connections/shelf", data{"url": "shelf.example.com", "credential": data{"password": "open sesame"}}, `url: "shelf.example.com" must be such as`},
		{"connections/shelf", data{"url": "https://user:pw@shelf.example.com", "credential": data{"password": "open sesame"}}, "url: must not contain a user or a password"},
		{"connections/shelf", data{"name_template": "vault-{{ .RoleName }}"}, `name_template: gives "vault-role" twice`},
		{"connections/shelf", data{"name_template": "{{ .Nope }}"}, "name_template: "},
		{"connections/shelf", data{"timeout": "1h"}, "timeout: 1h is more than 5m"},
		{"connections/shelf", data{"rate_limit": -1}, "rate_limit: must be requests a second"},
		{"connections/shelf", data{"ca_cert": "x", "credential": data{"password": "open sesame"}}, "ca_cert: has no certificate in PEM"},
		{"connections/shelf", data{"client_cert": "x"}, "client_cert: and client_key belong together"},
		{"connections/shelf", data{"settings": data{"a": "b"}}, "settings: a: is unknown, there are no fields"},
		{"connections/shelf", data{"revoke_on_delete": true}, `revoke_on_delete: provider "shelf" cannot end its credential`},
		{"connections/none/check", nil, `name: there is no connection "none"`},
		{"rotate-root/none", nil, `name: there is no connection "none"`},
		{"providers/gitea", data{"definition": "x"}, `name: "gitea" comes with the engine`},
		{"providers/mine", nil, "definition: is needed"},
		{"providers/mine", data{"definition": strings.Replace(shelfDefinition, "EXPIRY", "none", 1)}, `definition: its name is "shelf", and the path says "mine"`},
		{"providers/shelf", data{"definition": strings.NewReplacer("EXPIRY", "none", "operations:", "  more: {type: int, required: true, description: More.}\noperations:").Replace(shelfDefinition)}, `definition: role "reader" has other params`},
	} {
		e.refused(logical.UpdateOperation, c.path, c.d, c.want)
	}
	e.refused(logical.DeleteOperation, "providers/shelf", nil, `name: connection "shelf" uses provider "shelf"`)
	e.refused(logical.DeleteOperation, "connections/shelf", nil, `connection "shelf" is used by roles ["reader"]`)

	// What the service says of an error reaches the user, and no secret does.
	e.write("roles/reader", data{"params": data{"books": "forbidden"}})
	e.refused(logical.ReadOperation, "creds/reader", nil, `connection "shelf": no token was issued: status 422 Unprocessable Entity: no such book`)
	e.write("connections/shelf", data{"credential": data{"password": "hush"}})
	e.refused(logical.UpdateOperation, "connections/shelf/check", nil, `status 401 Unauthorized: the password [secret] is wrong (the connection's credential is not accepted`)

	// A connection that was deleted by force says what is left behind.
	e.write("connections/shelf", data{"credential": data{"password": "open sesame"}})
	e.write("roles/reader", data{"params": data{"books": "a"}})
	c := e.creds("reader", nil)
	resp := e.do(logical.DeleteOperation, "connections/shelf", data{"force": true})
	if len(resp.Warnings) != 2 || !strings.Contains(resp.Warnings[0], "1 tokens are left behind") || !strings.Contains(resp.Warnings[0], c.data["name"].(string)) {
		t.Error(resp.Warnings)
	}
	e.revokeLease(c)
	e.refused(logical.ReadOperation, "creds/reader", nil, `connection "shelf" was deleted`)
}

// One token for all who ask within reuse; it ends with the last of their leases.
func TestUpstreamReuse(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("roles/reader", data{"reuse": "1h"})
	e.refused(logical.UpdateOperation, "roles/reader", data{"generate_lease": false}, "reuse: needs leases")
	var wg sync.WaitGroup
	leases := make([]*logical.Response, 20)
	for i := range leases {
		wg.Go(func() {
			var err error
			leases[i], err = e.b.HandleRequest(context.Background(), &logical.Request{
				Operation: logical.ReadOperation, Path: "creds/reader", Storage: e.storage, MountPoint: "apitoken/",
			})
			if err != nil || leases[i].IsError() {
				t.Error(leases[i], err)
			}
		})
	}
	wg.Wait()
	if s.live() != 1 {
		t.Fatalf("%d tokens", s.live())
	}
	e = e.restart()
	c := e.creds("reader", nil)
	if fmt.Sprint(c.data["upstream"]) != "map[shelf:top]" {
		t.Error(c.data)
	}
	resp, err := e.renew(c, time.Hour)
	if err != nil || resp.IsError() {
		t.Error(resp, err)
	}
	for _, lease := range leases {
		if lease.Data["token"] != c.token || s.live() != 1 {
			t.Errorf("%v, %d tokens", lease.Data, s.live())
		}
		for range 2 { // Vault may ask twice
			if _, err := e.request(&logical.Request{Operation: logical.RevokeOperation, Path: "creds/reader", Secret: lease.Secret}); err != nil {
				t.Error(err)
			}
		}
	}
	e.settled()
	if s.live() != 1 || e.read("tokens/" + c.id)["state"] != "active" {
		t.Error("it has ended before its last lease")
	}
	e.revokeLease(c)
	e.settled()
	if s.live() != 0 {
		t.Error("it outlives its last lease")
	}

	// Another time, other params: another token.
	first := e.creds("reader", nil)
	e.write("roles/reader", data{"params": data{"books": "a"}})
	second := e.creds("reader", nil)
	e.write("roles/reader", data{"reuse": "1s"})
	time.Sleep(1100 * time.Millisecond)
	third := e.creds("reader", nil)
	if first.token == second.token || second.token == third.token || s.live() != 3 {
		t.Errorf("%d tokens", s.live())
	}
	e.write("revoke", data{"token_id": third.id})
	if fourth := e.creds("reader", nil); fourth.token == third.token {
		t.Error("a token that was revoked is given again")
	}
}

// Whatever becomes of the answer to a create: either there is a token under a lease, or after a while none.
func TestUpstreamCreateFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request, func()) bool{
		"reset": reset, "reset after": resetAfter, "truncated": truncated, "nonsense": nonsense, "500": failing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t)
			e := onShelf(t, s)
			s.setFault(once(http.MethodPost, fault))
			c := e.creds("reader", nil) // under another name
			e.settled()
			if s.live() != 1 {
				t.Errorf("%d tokens, want that of the lease", s.live())
			}
			e.revokeLease(c)

			s.setFault(func(w http.ResponseWriter, r *http.Request, done func()) bool {
				return r.Method == http.MethodPost && fault(w, r, done)
			})
			e.refused(logical.ReadOperation, "creds/reader", nil, "no token was issued")
			e = e.restart()
			e.settled()
			if s.live() != 0 {
				t.Errorf("%d tokens that nobody has", s.live())
			}
		})
	}
}

// Storage that fails at any write of creds leaves no token behind.
func TestUpstreamCreateSurvivesACrash(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	var puts atomic.Int64
	s.setFault(func(_ http.ResponseWriter, r *http.Request, _ func()) bool {
		if r.Method == http.MethodPost { // the first write has been made
			e.storage.broken.Store(true)
			puts.Add(1)
		}
		return false
	})
	if resp, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: "creds/reader"}); err == nil {
		t.Errorf("%v, and the token is not recorded", resp)
	}
	e.storage.broken.Store(true)
	s.setFault(nil)
	if resp, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: "creds/reader"}); err == nil {
		t.Errorf("%v, and the token is not announced", resp)
	}
	e.storage.broken.Store(false)
	e = e.restart()
	e.settled()
	if puts.Load() != 1 || s.live() != 0 {
		t.Errorf("%d calls, %d tokens", puts.Load(), s.live())
	}

	// The engine is gone right after the service has done it.
	s.setFault(func(_ http.ResponseWriter, r *http.Request, _ func()) bool {
		if r.Method == http.MethodPost || r.Method == http.MethodDelete {
			e.storage.broken.Store(true)
		}
		return false
	})
	_, _ = e.request(&logical.Request{Operation: logical.ReadOperation, Path: "creds/reader"})
	e.storage.broken.Store(false)
	s.setFault(nil)
	e = e.restart()
	e.settled()
	if s.live() != 0 {
		t.Errorf("%d tokens", s.live())
	}
}

// While the service is down Vault's leases end; its tokens end when it is back, also after a restart.
func TestUpstreamRevocationIsQueued(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	var leases []*creds
	for range 5 {
		leases = append(leases, e.creds("reader", nil))
	}
	s.setFault(failing)
	for _, c := range leases {
		e.revokeLease(c)
	}
	e = e.restart()
	var queue map[string]any
	eventually(func() bool {
		queue = e.read("connections/shelf")["queue"].(map[string]any)
		return queue["last_error"] != nil && queue["last_error"] != ""
	})
	if queue["count"] != 5 || queue["last_error"] != "status 500 Internal Server Error" || queue["oldest"] == nil {
		t.Error(queue)
	}
	e.refused(logical.DeleteOperation, "connections/shelf", nil, "is used by roles")
	s.setFault(nil)
	e.settled()
	if s.live() != 0 {
		t.Errorf("%d tokens are left", s.live())
	}

	// Storage that cannot take the revocation makes Vault try again.
	c := e.creds("reader", nil)
	s.setFault(failing)
	e.storage.broken.Store(true)
	if _, err := e.request(&logical.Request{Operation: logical.RevokeOperation, Path: "creds/reader", Secret: c.secret}); err == nil {
		t.Error("revoked, says the engine, and has it nowhere")
	}
	e.storage.broken.Store(false)
	s.setFault(nil)
	e.revokeLease(c)
	e.settled()
	if s.live() != 0 {
		t.Error("not ended")
	}
}

// A role or connection that is deleted while a token is made leaves none behind.
func TestUpstreamDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	known := func() int {
		keys, err := e.storage.List(t.Context(), upstream.Prefix)
		if err != nil {
			t.Fatal(err)
		}
		return len(keys)
	}
	for path, with := range map[string]data{"roles/reader": nil, "connections/shelf": {"force": true}} {
		e.write("connections/shelf", data{"provider": "shelf", "url": s.URL, "credential": data{"password": "open sesame"}})
		e.write("roles/reader", data{"connection": "shelf", "params": data{"books": "a,b"}})
		s.setFault(once(http.MethodPost, func(w http.ResponseWriter, r *http.Request, _ func()) bool {
			s.serve(w, r)
			e.do(logical.DeleteOperation, path, with)
			return true
		}))
		e.refused(logical.ReadOperation, "creds/reader", nil, "was deleted meanwhile")
		if s.live() != 0 || known() != 0 {
			t.Errorf("%s: %d tokens are left, %d known", path, s.live(), known())
		}
	}

	// Cut short between the connection and its tokens.
	e.write("connections/shelf", data{"provider": "shelf", "url": s.URL, "credential": data{"password": "open sesame"}})
	e.write("roles/reader", data{"connection": "shelf", "params": data{"books": "a,b"}})
	e.creds("reader", nil)
	if err := e.storage.Delete(t.Context(), upstream.ConnectionsPrefix+"shelf"); err != nil {
		t.Fatal(err)
	}
	e.restart()
	for deadline := time.Now().Add(20 * time.Second); known() != 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d tokens are known", known())
		}
	}
}

// What the active node writes of tokens at services is seen by its standbys.
func TestUpstreamInvalidate(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	active := onShelf(t, s)
	standby := mountOn(t, active.storage, active.system)
	told := func() {
		t.Helper()
		active.b.Flush(t.Context())
		keys, err := logical.CollectKeys(t.Context(), active.storage)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			standby.b.InvalidateKey(t.Context(), key)
		}
	}
	c := active.creds("reader", nil)
	key := upstream.Prefix + c.id
	active.write("static-roles/box", data{"role": "reader", "rotation_period": "1h"})
	told()
	if state := standby.write("lookup", data{"token": c.token})["state"]; state != "active" {
		t.Error(state)
	}
	if box := standby.read("static-creds/box"); box["token"] != active.read("static-creds/box")["token"] {
		t.Error(box)
	}
	active.revokeLease(c)
	standby.b.InvalidateKey(t.Context(), key)
	if state := standby.write("lookup", data{"token": c.token})["state"]; state != "malformed" { // as any text that is no token of the engine's own
		t.Error(state)
	}
}

// Without a lease the engine ends the token itself; and with one that Vault has lost, too.
func TestUpstreamTokensEndByThemselves(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("roles/reader", data{"ttl": "1s", "generate_lease": false})
	resp := e.do(logical.ReadOperation, "creds/reader", nil)
	if resp.Secret != nil || s.live() != 1 {
		t.Fatal(resp, s.live())
	}
	e.write("roles/leased", data{"connection": "shelf", "params": data{"books": "a"}, "ttl": "1s"})
	e.creds("leased", nil)
	e = e.restart()
	for deadline := time.Now().Add(20 * time.Second); s.live() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d tokens are left", s.live())
		}
	}
	e.write("roles/reader", data{"ttl": "1h"})
	id := e.read("creds/reader")["token_id"]
	e.write("revoke", data{"token_id": id})
	if s.live() != 0 {
		t.Error("not ended")
	}
	e.read("creds/reader")
	e.do(logical.DeleteOperation, "roles/reader", nil)
	e.settled()
	if s.live() != 0 {
		t.Error("the role's tokens outlive it")
	}
}

// Whatever goes wrong in a rotation, the engine has a credential that works afterwards.
func TestRotateRoot(t *testing.T) {
	t.Parallel()
	works := func(t *testing.T, e *engine, s *shelf) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "connections/shelf/check"})
			if err == nil && !resp.IsError() {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the credential does not work", resp, err)
			}
		}
		c := e.creds("reader", nil)
		e.revokeLease(c)
	}
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request, func()) bool{
		"none":  func(http.ResponseWriter, *http.Request, func()) bool { return false },
		"reset": reset, "reset after": resetAfter, "truncated": truncated, "500": failing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t)
			e := onShelf(t, s)
			s.setFault(once(http.MethodPut, fault))
			resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "rotate-root/shelf"})
			if good := err == nil && !resp.IsError(); good != (name == "none") {
				t.Errorf("%v, %v", resp, err)
			}
			works(t, e, s)
			e = e.restart()
			works(t, e, s)
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "rotate-root/shelf"})
				if err == nil && !resp.IsError() {
					break
				}
				e.saysNo(resp, err, "an earlier rotation is not settled yet")
				if time.Now().After(deadline) {
					t.Fatal("the earlier rotation is never settled")
				}
			}
			works(t, e.restart(), s)
			if s.password == "open sesame" || e.read("connections/shelf")["rotated_at"] == "" {
				t.Error("not rotated")
			}
		})
	}
	// It is taken, and the proof of that fails: not for good.
	t.Run("no proof", func(t *testing.T) {
		t.Parallel()
		s := newShelf(t)
		e := onShelf(t, s)
		s.setFault(once(http.MethodGet, nonsense))
		e.refused(logical.UpdateOperation, "rotate-root/shelf", nil, "the credential was not rotated")
		works(t, e, s)
		works(t, e.restart(), s)
		if s.password == "open sesame" {
			t.Error("the service did not take it")
		}
	})
	// While it is not known yet what has become of it, tokens are issued and ended.
	t.Run("undecided", func(t *testing.T) {
		t.Parallel()
		s := newShelf(t)
		e := onShelfPrepared(t, s, func(b *backend) {
			hurry(b)
			b.Upstreams.Timings.Settle = time.Hour
		})
		s.setFault(once(http.MethodPut, reset))
		e.refused(logical.UpdateOperation, "rotate-root/shelf", nil, "the credential was not rotated")
		c := e.creds("reader", nil)
		s.setFault(failing)
		e.revokeLease(c)
		s.setFault(nil)
		e.settled()
		if s.live() != 0 {
			t.Errorf("%d tokens are left", s.live())
		}
		e.refused(logical.UpdateOperation, "rotate-root/shelf", nil, "is not settled yet")
	})
	for _, at := range []string{http.MethodPut, http.MethodGet} {
		t.Run("storage fails at "+at, func(t *testing.T) {
			s := newShelf(t)
			e := onShelf(t, s)
			s.setFault(once(at, func(http.ResponseWriter, *http.Request, func()) bool {
				e.storage.broken.Store(true)
				return false
			}))
			if resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "rotate-root/shelf"}); err == nil {
				t.Errorf("rotated, and not stored: %v", resp)
			}
			e.storage.broken.Store(false)
			works(t, e.restart(), s)
		})
	}
}

// Many at once, with and without faults: the ledger and the service agree.
func TestUpstreamConcurrency(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	n := 0
	s.setFault(func(w http.ResponseWriter, r *http.Request, done func()) bool {
		s.mu.Lock()
		n++
		nth := n
		s.mu.Unlock()
		return nth%7 == 0 && []func(http.ResponseWriter, *http.Request, func()) bool{reset, resetAfter, failing}[nth%3](w, r, done)
	})
	var wg sync.WaitGroup
	var mu sync.Mutex
	held := 0
	for range 8 {
		wg.Go(func() {
			for i := range 25 {
				resp, err := e.b.HandleRequest(context.Background(), &logical.Request{
					Operation: logical.ReadOperation, Path: "creds/reader", Storage: e.storage, MountPoint: "apitoken/",
				})
				if err != nil || resp.IsError() {
					continue
				}
				if i%2 == 0 {
					if _, err := e.b.HandleRequest(context.Background(), &logical.Request{
						Operation: logical.RevokeOperation, Path: "creds/reader", Storage: e.storage, Secret: resp.Secret,
					}); err != nil {
						t.Error(err)
					}
					continue
				}
				mu.Lock()
				held++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	e.settled()
	if tokens := e.read("connections/shelf")["tokens"]; s.live() != held || tokens != held || held == 0 {
		t.Errorf("%d tokens at the service, %v in the ledger, %d leases", s.live(), tokens, held)
	}
}

// A connection is not deleted while a token is live that another process has made: only the connection can revoke it.
func TestADeletionSeesTheTokensOfAnotherProcess(t *testing.T) {
	s := newShelf(t)
	e := onShelf(t, s)
	other := mountOn(t, e.storage, e.system)
	other.creds("reader", nil)
	e.do(logical.DeleteOperation, "roles/reader", nil)
	e.write("roles/other", data{"scopes": "a"})
	e.refused(logical.DeleteOperation, "connections/shelf", nil, "has minted 1 tokens that are not ended yet")
}

// The last lease of a shared token is revoked while the service is down: the token still works at the service.
func TestASharedTokenThatIsBeingRevokedIsRevoked(t *testing.T) {
	s := newShelf(t)
	clock := new(clock)
	e := onShelfPrepared(t, s, clock.hurried)
	e.write("roles/reader", data{"reuse": "1m", "ttl": "1h"})
	c := e.creds("reader", nil)
	end := e.read("tokens/" + c.id)["expires_at"]
	clock.pass(10 * time.Minute)
	s.setFault(failing)
	e.revokeLease(c)
	got := e.write("lookup", data{"token_id": c.id})
	if got["state"] != "revoked" {
		t.Errorf("the lease was revoked 50m before its end %v: state %v, expires_at %v, issued_at %v", end, got["state"], got["expires_at"], got["issued_at"])
	}
}

// The lease of a shared token ends: the token has expired, and its row goes soon.
func TestASharedTokenWhoseLeaseEnds(t *testing.T) {
	s := newShelf(t)
	clock := new(clock)
	e := onShelfPrepared(t, s, clock.hurried)
	e.write("roles/reader", data{"reuse": "24h", "ttl": "1h"})
	c := e.creds("reader", nil)
	end := e.read("tokens/" + c.id)["expires_at"]
	clock.pass(time.Hour + time.Second)
	e.revokeLease(c)
	e.settled()
	got := e.write("lookup", data{"token_id": c.id})
	if got["state"] != "expired" {
		t.Errorf("the lease ended at %v: state %v, expires_at %v", end, got["state"], got["expires_at"])
	}
	clock.pass(20 * time.Minute)
	if err := e.b.Maintain(t.Context(), e.storage); err != nil {
		t.Fatal(err)
	}
	if ids := e.list("tokens/", nil); len(ids) != 0 {
		t.Errorf("20m after its end the token is still listed: %v", ids)
	}
}
