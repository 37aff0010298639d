package backend

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
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
	if err := other.b.upstreams.Tokens.Sync(t.Context()); err != nil {
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
