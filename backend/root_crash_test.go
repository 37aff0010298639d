package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// keyRing is a service whose administrators make further keys for themselves, each with a name, as GitLab's do.
type keyRing struct {
	*httptest.Server
	mu   sync.Mutex
	next int
	keys map[string]string // key -> name
}

// keyRingDefinition has FIND where keys can be found by their name.
const keyRingDefinition = `
name: ring
title: Ring
expiry: seconds
credential:
  key: {type: string, secret: true, required: true, description: The key.}
operations:
  create:
    requests:
      - {method: POST, path: /tokens, headers: &auth {authorization: credential.key}, json: '{"name": name}'}
    result: {id: string(response.body.id), token: response.body.token}
FIND
  revoke:
    requests:
      - {method: DELETE, path: '/keys/{id}', headers: *auth, gone: [404]}
  check:
    requests:
      - {method: GET, path: /self, headers: *auth}
  rotate_root:
    requests:
      - {method: POST, path: /keys, headers: *auth, json: '{"name": name}'}
    result: {credential: '{"key": string(response.body.key)}'}
  retire_root:
    requests:
      - {method: DELETE, path: /self, headers: *auth}
`

func newKeyRing(t *testing.T) *keyRing {
	ring := &keyRing{keys: map[string]string{"first": "by hand"}}
	ring.Server = httptest.NewServer(ring)
	t.Cleanup(ring.Close)
	return ring
}

func (ring *keyRing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ring.mu.Lock()
	defer ring.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	key := r.Header.Get("Authorization")
	if _, good := ring.keys[key]; !good {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /self":
		fmt.Fprint(w, "{}")
	case "DELETE /self":
		delete(ring.keys, key)
	case "GET /keys":
		list := []data{}
		for key, name := range ring.keys {
			list = append(list, data{"id": key, "name": name})
		}
		_ = json.NewEncoder(w).Encode(list)
	case "POST /keys":
		var in struct{ Name string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		ring.next++
		key := fmt.Sprintf("key-%d", ring.next)
		ring.keys[key] = in.Name
		_ = json.NewEncoder(w).Encode(data{"key": key})
	default:
		key := strings.TrimPrefix(r.URL.Path, "/keys/")
		if _, there := ring.keys[key]; !there {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		delete(ring.keys, key)
	}
}

func (ring *keyRing) count() int {
	ring.mu.Lock()
	defer ring.mu.Unlock()
	return len(ring.keys)
}

// uncertain reports that the k-th write has failed, which it has not.
type uncertain struct {
	logical.Storage
	writes, fails atomic.Int64
}

func (s *uncertain) failed() error {
	if n := s.writes.Add(1); n == s.fails.Load() {
		return errBroken
	}
	return nil
}

func (s *uncertain) Put(ctx context.Context, e *logical.StorageEntry) error {
	if err := s.Storage.Put(ctx, e); err != nil {
		return err
	}
	return s.failed()
}

func (s *uncertain) Delete(ctx context.Context, key string) error {
	if err := s.Storage.Delete(ctx, key); err != nil {
		return err
	}
	return s.failed()
}

// Wherever a rotation of a credential is cut short, at rest the stored one works and no other of ours is left.
func TestRotateRootCrashes(t *testing.T) {
	t.Parallel()
	find := `  FIND:
    requests:
      - {method: GET, path: /keys, headers: *auth}
    items: response.body`
	for _, name := range []string{"find", "find_root"} {
		definition := strings.Replace(keyRingDefinition, "FIND", strings.Replace(find, "FIND", name, 1), 1)
		onRing := func(t *testing.T) (*keyRing, *engine, *clock) {
			c, ring := new(clock), newKeyRing(t)
			e := mountPrepared(t, new(storage), newSystem(), c.hurried)
			e.write("providers/ring", data{"definition": definition})
			e.write("connections/ring", data{"provider": "ring", "url": ring.URL, "credential": data{"key": "first"}})
			return ring, e, c
		}
		rest := func(t *testing.T, what string, e *engine, ring *keyRing, c *clock) {
			t.Helper()
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
				c.pass(time.Minute)
				resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "connections/ring/check"})
				if err == nil && !resp.IsError() && ring.count() == 1 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s: %v %v, %d keys at the service", what, resp, err, ring.count())
				}
			}
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) { // nothing is left to do
				c.pass(time.Minute)
				resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "rotate-root/ring"})
				if err == nil && !resp.IsError() && ring.count() == 1 {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s: %v %v, %d keys at the service", what, resp, err, ring.count())
				}
			}
		}
		t.Run(name+"/dies", func(t *testing.T) {
			t.Parallel()
			for k := int64(1); ; k++ {
				ring, e, c := onRing(t)
				after, died := e.dying(k, logical.UpdateOperation, "rotate-root/ring", nil)
				rest(t, fmt.Sprintf("operation %d", k), after, ring, c)
				if !died {
					return
				}
			}
		})
		t.Run(name+"/uncertain", func(t *testing.T) {
			t.Parallel()
			for k := int64(1); k < 8; k++ {
				ring, e, c := onRing(t)
				s := &uncertain{Storage: e.storage}
				e.b.Cleanup(t.Context())
				b, err := Factory(t.Context(), &logical.BackendConfig{StorageView: s, System: e.system})
				if err != nil {
					t.Fatal(err)
				}
				c.hurried(b.(*backend))
				if err := b.Initialize(t.Context(), &logical.InitializationRequest{Storage: s}); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { b.Cleanup(context.Background()) })
				e.b = b.(*backend)
				s.fails.Store(s.writes.Load() + k)
				_, _ = b.HandleRequest(t.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: "rotate-root/ring", Storage: s, MountPoint: "apitoken/"})
				rest(t, fmt.Sprintf("write %d", k), e, ring, c)
			}
		})
	}
	t.Run("chosen", func(t *testing.T) { // the shelf has one password, which the engine chooses
		t.Parallel()
		for k := int64(1); ; k++ {
			c, s := new(clock), newShelf(t)
			e := onShelfPrepared(t, s, c.hurried)
			after, died := e.dying(k, logical.UpdateOperation, "rotate-root/shelf", nil)
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
				resp, err := after.request(&logical.Request{Operation: logical.UpdateOperation, Path: "connections/shelf/check"})
				if err == nil && !resp.IsError() {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("operation %d: %v %v", k, resp, err)
				}
			}
			if !died {
				return
			}
		}
	})
}

// A connection is neither given another credential nor deleted while a rotation is on its way.
func TestRotateRootAgainstChanges(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	e := onShelf(t, s)
	e.do(logical.DeleteOperation, "roles/reader", nil)
	s.setFault(meanwhile(http.MethodPut, func() {
		e.refused(logical.UpdateOperation, "connections/shelf", data{"credential": data{"password": "another"}}, "is being rotated, try again")
		e.refused(logical.DeleteOperation, "connections/shelf", nil, "is being rotated already, try again")
		e.refused(logical.UpdateOperation, "rotate-root/shelf", nil, "is being rotated already")
		e.write("connections/shelf", data{"description": "meanwhile"})
	}))
	e.write("rotate-root/shelf", nil)
	e.write("connections/shelf/check", nil)
	if s.password == "open sesame" || e.read("connections/shelf")["description"] != "meanwhile" {
		t.Error("not rotated, or written over what was changed")
	}
}

// What a rotation has left at a service is finished before its connection is deleted, and not sent elsewhere.
func TestRotateRootLeavesNothing(t *testing.T) {
	t.Parallel()
	definition := strings.Replace(keyRingDefinition, "FIND", "  find:\n    requests:\n      - {method: GET, path: /keys, headers: *auth}\n    items: response.body", 1)
	ring, elsewhere := newKeyRing(t), newKeyRing(t)
	stuck := new(atomic.Bool)
	var seen sync.Map // credentials that were sent elsewhere
	ring.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if stuck.Load() && r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusConflict)
			return
		}
		ring.ServeHTTP(w, r)
	})
	elsewhere.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("Authorization"), true)
		elsewhere.ServeHTTP(w, r)
	})
	e := mountPrepared(t, new(storage), newSystem(), hurry)
	e.write("providers/ring", data{"definition": definition})
	e.write("connections/ring", data{"provider": "ring", "url": ring.URL, "credential": data{"key": "first"}})
	stuck.Store(true)
	if resp := e.do(logical.UpdateOperation, "rotate-root/ring", nil); len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "the old one is not revoked at the service yet") {
		t.Error(resp)
	}
	if root := e.read("connections/ring")["queue"].(map[string]any)["root"]; !strings.HasPrefix(fmt.Sprint(root), "credentials that were replaced and are not revoked yet: 1") {
		t.Error(root)
	}
	e.refused(logical.DeleteOperation, "connections/ring", nil, "a rotation of the credential is not finished")
	stuck.Store(false)
	e.do(logical.DeleteOperation, "connections/ring", nil)
	if ring.count() != 1 {
		t.Errorf("%d keys", ring.count())
	}

	stuck.Store(true)
	ring.mu.Lock()
	ring.keys["again"] = "by hand"
	ring.mu.Unlock()
	e.write("connections/ring", data{"provider": "ring", "url": ring.URL, "credential": data{"key": "again"}})
	e.do(logical.UpdateOperation, "rotate-root/ring", nil)
	resp := e.do(logical.UpdateOperation, "connections/ring", data{"url": elsewhere.URL, "credential": data{"key": "first"}})
	if resp == nil || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "a credential may be left behind at "+ring.URL) {
		t.Error(resp)
	}
	e.write("connections/ring/check", nil)
	time.Sleep(50 * time.Millisecond)
	seen.Range(func(key, _ any) bool {
		if key != "first" {
			t.Errorf("%s was sent elsewhere", key)
		}
		return true
	})
}
