package backend

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
)

// A request that has begun before memory is read again may change something after that: later requests see the change.
func TestAChangeOutlivesAReload(t *testing.T) {
	told := func(e *engine) { // of the writes of another node
		e.b.Mount.Invalidate(native.ConfigKey)
		e.b.Mount.Invalidate(native.SealingPrefix + "/1")
	}
	accepted := func(e *engine) { e.write("roles/other", data{"scopes": "a"}) } // the first write after a rejected one
	for name, outdate := range map[string]func(*engine){"one key": told, "everything": accepted} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			e.write("roles/reader", data{"scopes": "a"})
			token := e.creds("reader", nil)
			key := e.list("keys/", nil)[0]
			view := &deposable{Storage: e.storage}
			view.refuse(logical.ErrReadOnly)
			if _, err := e.ask(view, logical.UpdateOperation, "config", data{"status_list_ttl": "2m"}); err == nil {
				t.Fatal("changed without a write")
			}
			e.read("config")

			st, s := e.b.Loaded(), e.b.Fence.Request(e.storage) // of a request that begins now
			outdate(e)
			epoch := e.read("feed")["epoch"]
			environment := "production"
			if _, err := st.ChangeConfig(t.Context(), s, &native.ConfigChange{Environment: &environment}, "apitoken/"); err != nil {
				t.Fatal(err)
			}
			if got := e.read("config")["environment"]; got != environment {
				t.Errorf("environment %q", got)
			}
			if e.read("feed")["epoch"] == epoch {
				t.Error("verifiers are not told of the change")
			}
			if _, err := st.DestroyKey(t.Context(), s, key); err != nil {
				t.Fatal(err)
			}
			e.expect("revoked", token.token, nil)
		})
	}
}
