package backend

import (
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// Wherever the process dies in a change of a static role, at rest there is one current token that works, the one
// before until its overlap ends, and no other; or none, where there is no static role.
func TestStaticCrashes(t *testing.T) {
	t.Parallel()
	changes := []struct {
		name  string
		op    logical.Operation
		path  string
		d     data
		fresh bool // there is no static role before
	}{
		{"create", logical.UpdateOperation, "static-roles/kept", data{"rotation_period": "24h", "overlap": "1h"}, true},
		{"rotate", logical.UpdateOperation, "rotate-role/kept", nil, false},
		{"delete", logical.DeleteOperation, "static-roles/kept", nil, false},
		{"change", logical.UpdateOperation, "static-roles/kept", data{"rotation_period": "1h", "overlap": "0s"}, false},
	}
	for _, role := range []string{"native", "reader"} {
		for _, change := range changes {
			t.Run(role+"/"+change.name, func(t *testing.T) {
				t.Parallel()
				for k := int64(1); ; k++ {
					if k > 100 {
						t.Fatal("no end of it")
					}
					c := new(clock)
					s := newShelf(t)
					e := onShelfPrepared(t, s, c.hurried)
					e.write("roles/native", data{"scopes": "a"})
					var before []string // tokens, the current one last
					if !change.fresh {
						e.write("static-roles/kept", data{"role": role, "rotation_period": "24h", "overlap": "1h"})
						for range 2 {
							before = append(before, e.read("static-creds/kept")["token"].(string))
							e.write("rotate-role/kept", nil)
							c.pass(time.Minute)
						}
						before = append(before, e.read("static-creds/kept")["token"].(string))
					}
					d := change.d
					if change.fresh {
						d = data{"role": role, "rotation_period": "24h", "overlap": "1h"}
					}
					e, died := e.dying(k, change.op, change.path, d)
					if died {
						e.survives(c, s, before, change.name)
						continue
					}
					if exists := e.read("static-roles/kept") != nil; exists == (change.name == "delete") {
						t.Errorf("after %s: there is one: %v", change.name, exists)
					}
					e.survives(c, s, before, change.name)
					return
				}
			})
		}
	}
}

// dying makes a request in a process that dies before the k-th operation on storage, and starts another. It reports
// whether the process died before it answered.
func (e *engine) dying(k int64, op logical.Operation, path string, d data) (*engine, bool) {
	e.t.Helper()
	s := &mortal{Storage: e.storage}
	e.b.Cleanup(e.t.Context())
	b, err := Factory(e.t.Context(), &logical.BackendConfig{StorageView: s, System: e.system})
	if err != nil {
		e.t.Fatal(err)
	}
	e.prepare(b.(*backend))
	b.(*backend).Statics.Interval = time.Hour // it has to come about with what the request does
	if err := b.Initialize(e.t.Context(), &logical.InitializationRequest{Storage: s}); err != nil {
		e.t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
	s.dies.Store(s.ops.Load() + k)
	resp, err := b.HandleRequest(e.t.Context(), &logical.Request{
		Operation: op, Path: path, Data: d, Storage: s, MountPoint: "apitoken/", Connection: &logical.Connection{RemoteAddr: "127.0.0.1"},
	})
	if resp.IsError() {
		e.t.Fatal(resp)
	}
	s.dies.Store(1)
	b.Cleanup(e.t.Context())
	return mountPrepared(e.t, e.storage, e.system, e.prepare), err != nil
}

// survives checks what is there at rest.
func (e *engine) survives(c *clock, s *shelf, before []string, change string) {
	e.t.Helper()
	native := s.live() == 0 && len(before) > 0 && before[0][:5] != "shelf"
	c.pass(time.Minute)
	e.settled()
	current := ""
	if e.read("static-roles/kept") != nil {
		current = e.keptToken("kept")
	}
	works := func(token string) bool {
		if len(token) > 12 && token[:12] == "shelf-token-" {
			s.mu.Lock()
			defer s.mu.Unlock()
			_, there := s.tokens[token[12:]]
			return there
		}
		return e.reason(token, nil) == "active"
	}
	if current != "" && !works(current) {
		e.t.Errorf("%s: the current token does not work", change)
	}
	if n := len(before); n > 0 && current != "" && current != before[n-1] && change == "rotate" && !works(before[n-1]) {
		e.t.Errorf("%s: the token before does not work for the overlap", change)
	}
	if n := len(before); n > 0 && current == before[n-1] && change == "rotate" && !works(before[n-2]) {
		e.t.Errorf("%s: nothing was rotated, and the token before does not work for the overlap", change)
	}
	c.pass(time.Hour)
	e.settled()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if current != "" {
			current = e.keptToken("kept")
		}
		left := slices.DeleteFunc(slices.Clone(before), func(token string) bool { return token == current || !works(token) })
		upstream := s.live()
		if current != "" && !native && works(current) && current[:5] == "shelf" {
			upstream--
		}
		if len(left) == 0 && upstream == 0 {
			return
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("%s: %d tokens before and %d at the service still work", change, len(left), upstream)
		}
	}
}
