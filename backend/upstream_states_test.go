package backend

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// renewing is the shelf's definition with a call that moves the end of a token.
var renewing = strings.NewReplacer("EXPIRY", "none", "  check:\n", `  renew:
    requests:
      - {method: PUT, path: '/tokens/{id}', headers: {authorization: credential.password}}
  check:
`).Replace(shelfDefinition)

// meanwhile has the first request of a method do something before the answer, and succeed.
func meanwhile(method string, do func()) func(http.ResponseWriter, *http.Request, func()) bool {
	var begun atomic.Bool
	return func(w http.ResponseWriter, r *http.Request, _ func()) bool {
		if r.Method != method || begun.Swap(true) {
			return false
		}
		do()
		return false
	}
}

// A token that is revoked while its end is moved stays revoked.
func TestUpstreamRenewAgainstRevoke(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("providers/shelf", data{"definition": renewing})
	c := e.creds("reader", nil)
	s.setFault(func(w http.ResponseWriter, r *http.Request, _ func()) bool {
		switch {
		case r.Method == http.MethodDelete, r.URL.Path == "/self":
			return failing(w, r, nil)
		case r.Method == http.MethodPut:
			e.revokeLease(c)
			w.WriteHeader(200)
			return true
		}
		return false
	})
	resp, err := e.renew(c, time.Hour)
	e.saysNo(resp, err, "it is revoked")
	s.setFault(nil)
	e.settled()
	if s.live() != 0 {
		t.Errorf("%d tokens, and the lease was revoked", s.live())
	}
}

// Two leases of one token are renewed at once: the token lives as long as the longer lease, whichever renewal the service
// does last.
func TestRenewalsOfASharedTokenAtOnce(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.ends = time.Now().Add(time.Hour).Unix()
	e := onShelf(t, s)
	e.write("providers/shelf", data{"definition": strings.ReplaceAll(renewing, "headers: {authorization: credential.password}}\n  check",
		"headers: {authorization: credential.password}, json: '{\"ends\": unix(expires_at)}'}\n    result: {expires_at: response.body.ends}\n  check")})
	e.write("roles/reader", data{"reuse": "1h", "ttl": "10m", "max_ttl": "5h"})
	short, long := e.creds("reader", nil), e.creds("reader", nil)
	if short.token != long.token {
		t.Fatal("the token is not shared")
	}
	var ends atomic.Int64 // at the service
	done := make(chan error, 1)
	var begun atomic.Bool
	s.setFault(func(w http.ResponseWriter, r *http.Request, _ func()) bool {
		if r.Method != http.MethodPut {
			return false
		}
		var in struct{ Ends int64 }
		_ = json.NewDecoder(r.Body).Decode(&in)
		if !begun.Swap(true) {
			go func() {
				secret := *long.secret
				secret.Increment = 4 * time.Hour
				resp, err := e.b.HandleRequest(context.Background(), &logical.Request{
					Operation: logical.RenewOperation, Path: "creds/x", Secret: &secret, Storage: e.storage, MountPoint: "apitoken/",
				})
				if err == nil && resp.IsError() {
					err = resp.Error()
				}
				done <- err
			}()
			select {
			case err := <-done:
				done <- err
			case <-time.After(200 * time.Millisecond): // the longer renewal waits for the shorter renewal
			}
		}
		ends.Store(in.Ends)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(data{"ends": in.Ends})
		return true
	})
	if resp, err := e.renew(short, time.Hour); err != nil || resp.IsError() {
		t.Fatal(resp, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if left := time.Until(time.Unix(ends.Load(), 0)); left < 3*time.Hour+59*time.Minute {
		t.Errorf("the service ends the token in %s, and a lease lives for four hours", left)
	}
	if end := e.read("tokens/" + long.id)["expires_at"].(string); end < time.Now().Add(3*time.Hour+59*time.Minute).UTC().Format(time.RFC3339) {
		t.Errorf("the token is listed until %s, and a lease lives for four hours", end)
	}
}

// A renewal that waited for another renewal of the token is told how long the lease lives from now on, not from when it
// began to wait: Vault would otherwise keep the lease of a token that the engine has revoked.
func TestARenewalThatWaited(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	var waited atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(waited.Load())) }
	e := onShelfPrepared(t, s, func(b *backend) {
		hurry(b)
		b.Now = clock
	})
	e.write("providers/shelf", data{"definition": renewing})
	e.write("roles/reader", data{"reuse": "1h", "ttl": "10m", "max_ttl": "5h"})
	renew := func(c *creds, ttl time.Duration, asked func()) time.Duration {
		l, err := upstream.ParseLease(c.secret.InternalData)
		if err != nil {
			t.Error(err)
			return 0
		}
		ttl, err = e.b.Upstreams.Renew(context.Background(), &upstream.Renewal{
			ID: l.ID, Hold: l.Hold, Now: clock(), TTL: func(*role.Role) (time.Duration, error) {
				asked()
				return ttl, nil
			},
		})
		if err != nil {
			t.Error(err)
		}
		return ttl
	}
	first, second := e.creds("reader", nil), e.creds("reader", nil)
	begun, done := make(chan bool), make(chan time.Duration, 1)
	var wait, began sync.Once
	s.setFault(func(w http.ResponseWriter, r *http.Request, _ func()) bool {
		if r.Method != http.MethodPut {
			return false
		}
		wait.Do(func() {
			go func() { done <- renew(second, 4*time.Hour, func() { began.Do(func() { close(begun) }) }) }()
			<-begun
			waited.Store(int64(time.Minute))
		})
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}"))
		return true
	})
	renew(first, 3*time.Hour, func() {})
	ttl := <-done
	end, err := time.Parse(time.RFC3339, e.read("tokens/" + second.id)["expires_at"].(string))
	if err != nil {
		t.Fatal(err)
	}
	if lease := clock().Add(ttl); lease.After(end.Add(30 * time.Second)) {
		t.Errorf("the lease lives until %s, and its token until %s", lease, end)
	}
}

// A token that is being revoked is given to nobody any more.
func TestUpstreamReuseAgainstRevoke(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("roles/reader", data{"reuse": "1h"})
	first := e.creds("reader", nil)
	var second *creds
	s.setFault(meanwhile(http.MethodDelete, func() { second = e.creds("reader", nil) }))
	e.write("revoke", data{"token_id": first.id})
	if second == nil || second.token == first.token || s.live() != 1 {
		t.Errorf("a token that is being revoked was given again, %d tokens are left", s.live())
	}
}

// A token that is revoked while a lease comes to hold it does not come back.
func TestUpstreamHoldAgainstRevoke(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("roles/reader", data{"reuse": "1h"})
	first := e.creds("reader", nil)
	m := &mortal{Storage: e.storage}
	var begun atomic.Bool
	revoked := make(chan struct{})
	m.before = func(op string) {
		if !strings.HasPrefix(op, "put ") || strings.Contains(op, "ledger") || begun.Swap(true) {
			return
		}
		go func() {
			defer close(revoked)
			_, _ = e.b.HandleRequest(context.Background(), &logical.Request{
				Operation: logical.UpdateOperation, Path: "revoke", Data: data{"token_id": first.id}, Storage: e.storage, MountPoint: "apitoken/",
			})
		}()
		select {
		case <-revoked:
		case <-time.After(200 * time.Millisecond): // it waits for this write
		}
	}
	e.b.Cleanup(t.Context())
	e = mountPrepared(t, e.storage, e.system, nil)
	b, err := Factory(t.Context(), &logical.BackendConfig{StorageView: m, System: e.system})
	if err != nil {
		t.Fatal(err)
	}
	e.b.Cleanup(t.Context())
	hurry(b.(*backend))
	e.b = b.(*backend)
	if err := b.Initialize(t.Context(), &logical.InitializationRequest{Storage: m}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Cleanup(context.Background()) })
	if _, err := b.HandleRequest(t.Context(), &logical.Request{
		Operation: logical.ReadOperation, Path: "creds/reader", Storage: m, MountPoint: "apitoken/",
	}); err != nil {
		t.Fatal(err)
	}
	if !begun.Load() {
		t.Fatal("no write")
	}
	<-revoked
	e.settled()
	if tokens := e.read("connections/shelf")["tokens"]; tokens != s.live() {
		t.Errorf("%v tokens are stored as live, %d are", tokens, s.live())
	}
	if c := e.creds("reader", nil); c.token == first.token {
		t.Error("a revoked token is given")
	}
}

// A token that another process has given up while it was being created is not given to anybody.
func TestUpstreamCreateAgainstFailover(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	s.setFault(meanwhile(http.MethodPost, func() {
		ids, err := e.storage.List(t.Context(), "upstream/")
		if err != nil || len(ids) != 1 {
			t.Error(ids, err)
		}
		for _, id := range ids { // the other process searched for the token and found none
			if err := e.storage.Delete(t.Context(), "upstream/"+id); err != nil {
				t.Error(err)
			}
		}
	}))
	e.refused(logical.ReadOperation, "creds/reader", nil, "no token was issued")
	e.settled()
	if s.live() != 0 {
		t.Errorf("%d tokens that nobody has", s.live())
	}
}

// Reuse never gives a token that ends before the ttl does, and a lease says when its token ends.
func TestUpstreamReuseEnds(t *testing.T) {
	t.Parallel()
	c := new(clock)
	s := newShelf(t)
	e := onShelfPrepared(t, s, c.hurried)
	e.write("roles/reader", data{"reuse": "1h", "ttl": "30m"})
	end := func() int64 { return c.now().Add(40 * time.Minute).Unix() }
	s.ends = end()
	first := e.creds("reader", nil)
	if again := e.creds("reader", nil); again.token != first.token {
		t.Error("not given again")
	}
	c.pass(11 * time.Minute) // it is good for 29 more
	s.ends = end()
	second := e.creds("reader", nil)
	if second.token == first.token || second.secret.TTL != 30*time.Minute {
		t.Errorf("%s for %s", second.token, second.secret.TTL)
	}
	// A service that gives less than the ttl gives to each what there is.
	s.ends = c.now().Add(10 * time.Minute).Unix()
	e.write("roles/reader", data{"params": data{"books": "a"}})
	third := e.creds("reader", nil)
	if third.secret.TTL > 10*time.Minute || len(third.warnings) == 0 {
		t.Errorf("%s, %q", third.secret.TTL, third.warnings)
	}
	resp, err := e.renew(third, time.Hour)
	if err == nil && !resp.IsError() && resp.Secret.TTL > 10*time.Minute {
		t.Errorf("renewed for %s beyond what the service says", resp.Secret.TTL)
	}
	c.pass(11 * time.Minute)
	resp, err = e.request(&logical.Request{Operation: logical.ReadOperation, Path: "creds/reader", EntityID: entityAnn})
	e.saysNo(resp, err, "no token was issued") // s.ends is past
}

// Tokens that a service refuses to revoke do not keep the queue from the others, nor is the connection down.
func TestUpstreamQueueIsFair(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelfPrepared(t, s, func(b *backend) {
		hurry(b)
		slowBackoff(b)
	})
	var all []*creds
	for range 40 {
		all = append(all, e.creds("reader", nil))
	}
	refused := make(map[string]bool)
	for _, c := range all[:30] { // the oldest
		refused["/tokens/"+strings.TrimPrefix(c.token, "shelf-token-")] = true
	}
	s.setFault(failing)
	for _, c := range all {
		e.revokeLease(c)
	}
	s.setFault(func(w http.ResponseWriter, r *http.Request, _ func()) bool {
		if refused[r.URL.Path] {
			w.WriteHeader(http.StatusForbidden)
		}
		return refused[r.URL.Path]
	})
	e.write("connections/shelf/check", nil) // tries the queue again
	deadline := time.Now().Add(3 * time.Second)
	for ; s.live() > 30; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d good tokens wait behind those that are refused: %v", s.live()-30, e.read("connections/shelf")["queue"])
		}
	}
	for {
		queue := e.read("connections/shelf")["queue"].(map[string]any)
		if queue["count"] == 30 && queue["next_try"] == nil && strings.Contains(fmt.Sprint(queue["last_error"]), "403") {
			return
		}
		if time.Sleep(5 * time.Millisecond); time.Now().After(deadline) {
			t.Fatal(queue)
		}
	}
}

// Tokens whose creation was cut short are looked for together.
func TestUpstreamSearchIsShared(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	s.setFault(func(w http.ResponseWriter, r *http.Request, done func()) bool {
		if r.Method == http.MethodPost {
			return resetAfter(w, r, done)
		}
		return failing(w, r, done)
	})
	for range 20 {
		e.refused(logical.ReadOperation, "creds/reader", nil, "no token was issued")
	}
	lost := s.live()
	s.mu.Lock()
	s.calls, s.fault = nil, nil
	s.mu.Unlock()
	e.write("connections/shelf/check", nil)
	eventually(func() bool { return s.live() == 0 })
	listings := 0
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, call := range s.calls {
		if call == "GET /tokens" {
			listings++
		}
	}
	if len(s.tokens) != 0 || lost < 20 || lost > 20*3 || listings > 10 { // a request tries three times
		t.Errorf("%d listings for %d tokens, %d are left", listings, lost, len(s.tokens))
	}
}

// A proxy repeats a call whose answer was lost, and the second token is made after the first was found and revoked.
func TestUpstreamCreationRepeated(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	made := make(map[string]string)
	s.setFault(func(w http.ResponseWriter, r *http.Request, done func()) bool {
		if r.Method != http.MethodPost {
			return false
		}
		done()
		s.mu.Lock()
		maps.Copy(made, s.tokens)
		s.mu.Unlock()
		return reset(w, r, done)
	})
	e.refused(logical.ReadOperation, "creds/reader", nil, "no token was issued")
	s.setFault(nil)
	e.write("connections/shelf/check", nil)
	if !eventually(func() bool { return s.live() == 0 }) || len(made) == 0 {
		t.Fatal(made)
	}
	s.mu.Lock()
	for id, name := range made {
		s.tokens["1"+id] = name
	}
	s.mu.Unlock()
	e.settled()
	if s.live() != 0 {
		t.Errorf("%d tokens are left behind", s.live())
	}
}

// What is not there at another URL may be there at the one where the token was minted.
func TestUpstreamGoneElsewhere(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	c := e.creds("reader", nil)
	elsewhere := newShelf(t)
	elsewhere.setFault(func(w http.ResponseWriter, _ *http.Request, _ func()) bool {
		w.WriteHeader(http.StatusNotFound)
		return true
	})
	password := data{"password": "open sesame"}
	e.write("connections/shelf", data{"url": elsewhere.URL, "credential": password})
	e.revokeLease(c)
	queue := e.read("connections/shelf")["queue"].(map[string]any)
	if queue["count"] != 1 {
		t.Fatal(queue)
	}
	for deadline := time.Now().Add(time.Minute); !strings.Contains(fmt.Sprint(queue["last_error"]), s.URL); time.Sleep(5 * time.Millisecond) {
		if queue = e.read("connections/shelf")["queue"].(map[string]any); time.Now().After(deadline) {
			t.Fatal(queue)
		}
	}
	e.write("connections/shelf", data{"url": s.URL, "credential": password})
	e.settled()
	if s.live() != 0 {
		t.Error("not revoked")
	}

	// It is gone where a check says that this is the service.
	c = e.creds("reader", nil)
	elsewhere.setFault(nil)
	e.write("connections/shelf", data{"url": elsewhere.URL, "credential": password})
	e.revokeLease(c)
	e.settled()
}

// A credential that is kept is not sent to where nobody has sent it.
func TestConnectionElsewhere(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	stranger := newShelf(t)
	tls := httptest.NewTLSServer(nil)
	defer tls.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw}))
	for field, value := range map[string]string{"url": stranger.URL, "proxy_url": stranger.URL, "ca_cert": ca} {
		e.refused(logical.UpdateOperation, "connections/shelf", data{field: value}, field+`: a change of it sends the credential elsewhere: give credential "password" again`)
	}
	e.write("connections/shelf", data{"url": s.URL, "description": "the same"}) // not a change
	e.write("connections/shelf", data{"url": stranger.URL, "credential": data{"password": "open sesame"}})
	stranger.mu.Lock()
	defer stranger.mu.Unlock()
	if len(stranger.calls) != 0 {
		t.Error(stranger.calls)
	}
}

// A token that its service cannot revoke is shown until it ends, and keeps nobody else from the queue.
func TestUpstreamUnrevocable(t *testing.T) {
	t.Parallel()
	c := new(clock)
	s := newShelf(t)
	e := onShelfPrepared(t, s, c.hurried)
	e.write("providers/shelf", data{"definition": strings.NewReplacer("EXPIRY", "seconds",
		"params:\n", "settings:\n  final: {type: bool, description: Nothing is revoked.}\nparams:\n", "{method: DELETE", "{when: '!settings.final', method: DELETE").Replace(shelfDefinition)})
	e.write("connections/shelf", data{"settings": data{"final": true}})
	e.write("roles/reader", data{"ttl": "1h"})
	s.ends = c.now().Add(2 * time.Hour).Unix()
	one := e.creds("reader", nil)
	resp := e.do(logical.UpdateOperation, "revoke", data{"token_id": one.id})
	if resp == nil || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "cannot revoke the token. The token works there until "+time.Unix(s.ends, 0).UTC().Format(time.RFC3339)) {
		t.Fatal(resp)
	}
	e.revokeLease(one)
	queue := e.read("connections/shelf")["queue"].(map[string]any)
	if s.live() != 1 || queue["count"] != 1 || queue["unrevocable"] != 1 || queue["next_try"] != nil {
		t.Error(s.live(), queue)
	}
	e = e.restart()
	c.pass(2*time.Hour + time.Minute)
	e.settled()
}

// Deleting a role ends its tokens, also where it is cut short.
func TestUpstreamRoleDeletedAndCrashed(t *testing.T) {
	t.Parallel()
	for k := int64(1); ; k++ {
		s := newShelf(t)
		e := onShelf(t, s)
		for range 3 {
			e.creds("reader", nil)
		}
		e, died := e.dying(k, logical.DeleteOperation, "roles/reader", nil)
		gone := e.read("roles/reader") == nil
		for deadline := time.Now().Add(time.Minute); gone == (s.live() > 0); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("operation %d: the role is gone: %v, %d tokens are left", k, gone, s.live())
			}
		}
		if !died {
			return
		}
	}
}

// A standby knows of the leases of a shared token what the active node has stored.
func TestUpstreamHoldsOnStandby(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	active := onShelf(t, s)
	active.write("roles/reader", data{"reuse": "1h"})
	standby := mountOn(t, active.storage, active.system)
	first, second := active.creds("reader", nil), active.creds("reader", nil)
	keys, err := logical.CollectKeys(t.Context(), active.storage)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		standby.b.InvalidateKey(t.Context(), key)
	}
	standby.read("connections/shelf")
	active.b.Cleanup(t.Context())
	for _, c := range []*creds{first, second} {
		if s.live() != 1 {
			t.Error("revoked before its last lease")
		}
		standby.revokeLease(c)
	}
	standby.settled()
	if s.live() != 0 {
		t.Error("it outlives its last lease")
	}
}
