package backend

import (
	"crypto/rand"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// Vault goes on with a mount that could not be initialized: what works in the background begins as soon as storage can
// be read.
func TestBackgroundBeginsLate(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("static-roles/kept", data{"role": "reader", "rotation_period": "1h"})
	c := e.creds("reader", nil)
	s.setFault(func(w http.ResponseWriter, r *http.Request, _ func()) bool {
		return r.Method == http.MethodDelete && failing(w, r, nil)
	})
	e.revokeLease(c)
	e.b.Cleanup(t.Context())
	s.setFault(nil)
	e.storage.silent.Store(true)

	b, err := Factory(t.Context(), &logical.BackendConfig{StorageView: e.storage, System: e.system})
	if err != nil {
		t.Fatal(err)
	}
	hurry(b.(*backend))
	t.Cleanup(func() { b.Cleanup(t.Context()) })
	if err := b.Initialize(t.Context(), &logical.InitializationRequest{Storage: e.storage}); err == nil {
		t.Fatal("no error")
	}
	e.storage.silent.Store(false)
	late := &engine{t: t, b: b.(*backend), storage: e.storage, system: e.system}
	late.settled()
	late.write("revoke", data{"token_id": late.read("static-roles/kept")["token_id"]})
	for deadline := time.Now().Add(10 * time.Second); s.live() != 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d tokens: the static role was not rotated", s.live())
		}
	}
}

// A token that another process has made for a static role is not taken for one that nothing holds.
func TestStaticRotatedElsewhere(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("static-roles/kept", data{"role": "reader", "rotation_period": "1h"})
	other := mountPrepared(t, e.storage, e.system, hurry) // is not told of what the first does
	first := e.read("static-roles/kept")["token_id"]
	e.write("revoke", data{"token_id": first})
	for deadline := time.Now().Add(10 * time.Second); e.read("static-roles/kept")["token_id"] == first || s.live() != 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not rotated")
		}
	}
	e.b.Cleanup(t.Context())
	if err := other.b.Upstreams.Tokens.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // longer than Grace
	if s.live() != 1 {
		t.Errorf("%d tokens", s.live())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if text := other.read("static-creds/kept")["token"].(string); s.tokens[strings.TrimPrefix(text, "shelf-token-")] == "" {
		t.Error("the static role has a token that does not work:", text)
	}
}

// onKeyRing is an engine with a connection to a key ring that refuses to end a key while it is stuck.
func onKeyRing(t *testing.T) (e *engine, ring *keyRing, stuck *atomic.Bool) {
	ring, stuck = newKeyRing(t), new(atomic.Bool)
	ring.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if stuck.Load() && r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusConflict)
			return
		}
		ring.ServeHTTP(w, r)
	})
	e = mountPrepared(t, new(storage), newSystem(), hurry)
	e.write("providers/ring", data{"definition": strings.Replace(keyRingDefinition, "FIND", "  find:\n    requests:\n      - {method: GET, path: /keys, headers: *auth}\n    items: response.body", 1)})
	e.write("connections/ring", data{"provider": "ring", "url": ring.URL, "credential": data{"key": "first"}})
	return e, ring, stuck
}

func (ring *keyRing) add(key string) {
	ring.mu.Lock()
	defer ring.mu.Unlock()
	ring.keys[key] = "by hand"
}

// rootSettled waits until rotations have left nothing to do.
func (e *engine) rootSettled() {
	e.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); e.read("connections/ring")["queue"].(data)["root"] != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.t.Fatal("not settled")
		}
	}
}

// A credential that a rotation has made, and that an operator replaces, is known to nobody, and does not stay.
func TestReplacedRootIsRevoked(t *testing.T) {
	t.Parallel()
	e, ring, _ := onKeyRing(t)
	e.write("rotate-root/ring", nil)
	ring.add("second")
	e.write("connections/ring", data{"credential": data{"key": "second"}})
	e.rootSettled()
	if ring.count() != 1 {
		t.Errorf("%d keys", ring.count())
	}
	ring.add("third")
	e.write("connections/ring", data{"credential": data{"key": "third"}}) // the second is the operator's
	e.rootSettled()
	if ring.count() != 2 {
		t.Errorf("%d keys", ring.count())
	}
	e.write("connections/ring/check", nil)
}

// A credential that only the engine knows is not left behind without a word.
func TestDeleteTellsOfMadeCredential(t *testing.T) {
	t.Parallel()
	e, ring, _ := onKeyRing(t)
	e.write("rotate-root/ring", nil)
	resp := e.do(logical.DeleteOperation, "connections/ring", nil)
	if resp == nil || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "left behind at "+ring.URL) {
		t.Error(resp)
	}
}

// A process that remembers a credential as replaced does not revoke it once another has taken it back.
func TestRootTakenBackElsewhere(t *testing.T) {
	t.Parallel()
	e, ring, stuck := onKeyRing(t)
	stuck.Store(true)
	e.do(logical.UpdateOperation, "rotate-root/ring", nil)
	other := mountPrepared(t, e.storage, e.system, hurry) // is not told of what the first does
	e.write("connections/ring", data{"credential": data{"key": "first"}})
	time.Sleep(time.Second) // a call that the other has begun before is answered by then
	stuck.Store(false)
	other.b.Upstreams.Retry(e.b.Loaded().Connections.Get("ring").ID)
	other.rootSettled()
	e.rootSettled()
	e.write("connections/ring/check", nil)
	if ring.count() != 1 {
		t.Errorf("%d keys", ring.count())
	}
}

// A token that another process has asked for, whose clock is behind, is looked for as long as it may still be made.
func TestLateCreationOfSlowClock(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	st := e.b.Loaded()
	c, r := st.Connections.Get("shelf"), st.Roles.Get("reader")
	id, err := token.NewID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	entry, err := logical.StorageEntryJSON(upstream.Prefix+id.String(), &upstream.Token{
		ID: id, State: upstream.Creating, Connection: "shelf", ConnectionID: c.ID, URL: c.URL, Role: "reader", RoleID: r.ID,
		Name: "late", Params: r.Params, CreatedAt: now.Add(-10 * time.Minute), EndsAt: now.Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.storage.Put(t.Context(), entry); err != nil {
		t.Fatal(err)
	}
	e.b.InvalidateKey(t.Context(), entry.Key)
	e.read("connections/shelf")
	time.Sleep(300 * time.Millisecond) // many looks, and less than the timeout of a call
	s.mu.Lock()
	s.tokens["late"] = "late"
	s.mu.Unlock()
	e.settled()
	if s.live() != 0 {
		t.Errorf("%d tokens are left behind", s.live())
	}
}

// A replaced process issues a token of a service. The active process has not read the token, and revokes it by its text.
func TestRevokeATokenThatAReplacedProcessIssued(t *testing.T) {
	t.Parallel()
	for _, door := range []string{"revoke", "oauth/revoke"} {
		t.Run(door, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t)
			replaced := onShelf(t, s)
			e := mountOn(t, replaced.storage, replaced.system)
			c := replaced.creds("reader", nil)
			e.write(door, data{"token": c.token})
			if !eventually(func() bool { return !s.works(c.token) }) {
				t.Error("the token works at the service")
			}
		})
	}
}
