package backend

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// hangingUp is storage whose client hangs up while a role is written: whoever has not detached the write from the
// request learns nothing of it, and it is done.
type hangingUp struct {
	logical.Storage
	hangUp func()
}

func (h *hangingUp) reached(key string) {
	if strings.HasPrefix(key, role.Prefix) {
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
			Operation: change.op, Path: change.path, Data: change.data, Storage: &hangingUp{e.storage, cancel}, MountPoint: "apitoken/",
			Connection: &logical.Connection{RemoteAddr: "127.0.0.1"},
		})
		cancel()
		e.expect(change.expected, token, data{"required_scopes": "b"})
		mountOn(t, e.storage, e.system).expect(change.expected, token, data{"required_scopes": "b"})
	}
}
