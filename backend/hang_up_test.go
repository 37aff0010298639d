package backend

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// hangingUp is storage whose client hangs up while a key below a prefix is written. A caller that has not detached the write from
// the request gets an error, although storage took the write.
type hangingUp struct {
	logical.Storage
	prefix string
	hangUp func()
}

func (h *hangingUp) reached(key string) {
	if strings.HasPrefix(key, h.prefix) {
		h.hangUp()
	}
}

func (h *hangingUp) Put(ctx context.Context, e *logical.StorageEntry) error {
	h.reached(e.Key)
	if err := h.Storage.Put(context.WithoutCancel(ctx), e); err != nil {
		return err
	}
	return ctx.Err()
}

func (h *hangingUp) Delete(ctx context.Context, key string) error {
	h.reached(key)
	if err := h.Storage.Delete(context.WithoutCancel(ctx), key); err != nil {
		return err
	}
	return ctx.Err()
}

// What storage holds is what is known, also where the client has hung up while it was written.
func TestAWriteWhoseClientHangsUpIsKnown(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a,b"})
	token := e.creds("reader", nil).token
	for _, change := range []struct {
		op       logical.Operation
		path     string
		data     data
		expected string
	}{
		{logical.UpdateOperation, "roles/reader", data{"scopes": "a"}, "insufficient_scope"},
		{logical.DeleteOperation, "roles/reader", nil, "role_deleted"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		_, _ = e.b.HandleRequest(ctx, &logical.Request{
			Operation: change.op, Path: change.path, Data: change.data, Storage: &hangingUp{e.storage, role.Prefix, cancel}, MountPoint: "apitoken/",
			Connection: &logical.Connection{RemoteAddr: "127.0.0.1"},
		})
		cancel()
		e.expect(change.expected, token, data{"required_scopes": "b"})
		mountOn(t, e.storage, e.system).expect(change.expected, token, data{"required_scopes": "b"})
	}
}

// A deletion of a connection whose client hangs up is completed, and another connection of the same name hands out no
// token of the deleted connection.
func TestADeletionOfAConnectionWhoseClientHangsUpIsCompleted(t *testing.T) {
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("roles/reader", data{"reuse": "1h"})
	first := e.creds("reader", nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, _ = e.b.HandleRequest(ctx, &logical.Request{
		Operation: logical.DeleteOperation, Path: "connections/shelf", Data: data{"force": true}, MountPoint: "apitoken/",
		Storage: &hangingUp{e.storage, upstream.ConnectionsPrefix, cancel}, Connection: &logical.Connection{RemoteAddr: "127.0.0.1"},
	})
	if ctx.Err() == nil || e.b.Upstreams.Connections.Has("shelf") {
		t.Fatal("the connection was not deleted, or the client has not hung up")
	}
	e.write("connections/shelf", data{"provider": "shelf", "url": s.URL, "credential": data{"password": "open sesame"}})
	if second := e.creds("reader", nil); second.token == first.token {
		t.Error("a token of the deleted connection was issued again")
	}
	if !eventually(func() bool { return len(e.b.Upstreams.Tokens.Where(func(*upstream.Token) bool { return true })) == 1 }) {
		t.Error("the token of the deleted connection is still stored")
	}
}

// A client that hangs up during rotate delays no rotation of the static role.
func TestAClientThatHangsUpDelaysNoRotation(t *testing.T) {
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("static-roles/box", data{"role": "reader", "rotation_period": "1h"})
	e.keptToken("box")
	ctx, cancel := context.WithCancel(t.Context())
	s.setFault(once(http.MethodPost, func(http.ResponseWriter, *http.Request, func()) bool {
		cancel()
		return false
	}))
	if resp, err := e.b.HandleRequest(ctx, &logical.Request{
		Operation: logical.UpdateOperation, Path: "rotate-role/box", Storage: e.storage, MountPoint: "apitoken/",
		Connection: &logical.Connection{RemoteAddr: "127.0.0.1"},
	}); err == nil && !resp.IsError() {
		t.Fatalf("the client that hung up got %v", resp)
	}
	if failed := e.read("static-roles/box")["last_error"]; failed != nil && failed != "" {
		t.Errorf("the static role waits after %v", failed)
	}
}
