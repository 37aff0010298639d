package backend

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
)

// engine is a mount under test, asked as Vault asks it.
type engine struct {
	t       testing.TB
	b       *backend
	storage *storage
	system  *system
	prepare func(*backend) // before it is initialized; nil: nothing
}

// storage counts what it is asked, and refuses to change while it is broken.
type storage struct {
	logical.InmemStorage
	reads, writes atomic.Int64
	broken        atomic.Bool
	silent        atomic.Bool            // it cannot be read
	refuse        atomic.Pointer[string] // keys with this prefix cannot be written; nil: all can
}

var errBroken = errors.New("the storage is broken")

func (s *storage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.reads.Add(1)
	if s.silent.Load() {
		return nil, errBroken
	}
	return s.InmemStorage.Get(ctx, key)
}

func (s *storage) List(ctx context.Context, prefix string) ([]string, error) {
	s.reads.Add(1)
	if s.silent.Load() {
		return nil, errBroken
	}
	return s.InmemStorage.List(ctx, prefix)
}

func (s *storage) Put(ctx context.Context, e *logical.StorageEntry) error {
	s.writes.Add(1)
	if prefix := s.refuse.Load(); s.broken.Load() || prefix != nil && strings.HasPrefix(e.Key, *prefix) {
		return errBroken
	}
	return s.InmemStorage.Put(ctx, e)
}

func (s *storage) Delete(ctx context.Context, key string) error {
	if s.broken.Load() {
		return errBroken
	}
	return s.InmemStorage.Delete(ctx, key)
}

// system is Vault as the engine asks it.
type system struct {
	logical.StaticSystemView
	asked atomic.Int64  // about entities
	state atomic.Uint32 // of replication
	most  atomic.Int64  // the mount's longest TTL

	mu       sync.Mutex
	entities map[string]*logical.Entity
	silent   error // Vault cannot say; nil: it can
}

func (s *system) ReplicationState() consts.ReplicationState {
	return consts.ReplicationState(s.state.Load())
}

func (s *system) MaxLeaseTTL() time.Duration { return time.Duration(s.most.Load()) }

// become changes an entity; nil: it is deleted.
func (s *system) become(id string, entity *logical.Entity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entities[id] = entity
}

// fall has Vault not answer about entities, or answer again.
func (s *system) fall(silent error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = silent
}

func (s *system) EntityInfo(id string) (*logical.Entity, error) {
	s.asked.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entities[id], s.silent
}

func (s *system) PluginEnv(context.Context) (*logical.PluginEnvironment, error) {
	return &logical.PluginEnvironment{VaultVersion: "1.21.1"}, nil
}

const (
	mountDefaultTTL = 32 * 24 * time.Hour
	mountMaxTTL     = 64 * 24 * time.Hour

	entityAnn = "8d4b4a3e-8c4f-4f0a-9e0b-3a8f0a1b2c3d"
)

func newEngine(t testing.TB) *engine { return mountOn(t, new(storage), newSystem()) }

func newSystem() *system {
	s := &system{
		StaticSystemView: logical.StaticSystemView{DefaultLeaseTTLVal: mountDefaultTTL},
		entities:         map[string]*logical.Entity{entityAnn: {ID: entityAnn, Name: "ann", Metadata: map[string]string{"team": "billing"}}},
	}
	s.most.Store(int64(mountMaxTTL))
	return s
}

// mountOn starts an engine on storage that another one may have used.
func mountOn(t testing.TB, s *storage, sys *system) *engine {
	t.Helper()
	return mountPrepared(t, s, sys, nil)
}

func mountPrepared(t testing.TB, s *storage, sys *system, prepare func(*backend)) *engine {
	t.Helper()
	b, err := Factory(context.Background(), &logical.BackendConfig{StorageView: s, System: sys, Logger: nil})
	if err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(b.(*backend))
	}
	if err := b.Initialize(context.Background(), &logical.InitializationRequest{Storage: s}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Cleanup(context.Background()) })
	return &engine{t: t, b: b.(*backend), storage: s, system: sys, prepare: prepare}
}

// restart is the engine in a new process.
func (e *engine) restart() *engine {
	e.t.Helper()
	e.b.Cleanup(context.Background())
	return mountPrepared(e.t, e.storage, e.system, e.prepare)
}

type data = map[string]any

// request makes a request and checks a good answer against the schema that the path promises.
func (e *engine) request(req *logical.Request) (*logical.Response, error) {
	e.t.Helper()
	req.Storage, req.MountPoint = e.storage, "apitoken/"
	if req.Connection == nil {
		req.Connection = &logical.Connection{RemoteAddr: "127.0.0.1"}
	}
	resp, err := e.b.HandleRequest(context.Background(), req)
	if t, ok := e.t.(*testing.T); ok && err == nil && !resp.IsError() {
		switch req.Operation {
		case logical.RenewOperation, logical.RevokeOperation, logical.RollbackOperation, logical.HelpOperation:
		default:
			raw := resp != nil && resp.Data[logical.HTTPRawBody] != nil
			if !raw && (resp != nil || req.Operation != logical.ReadOperation) {
				schema.ValidateResponse(t, schema.GetResponseSchema(t, e.b.Route(req.Path), req.Operation), resp, true)
			}
		}
	}
	return resp, err
}

// do makes a request that must succeed.
func (e *engine) do(op logical.Operation, path string, d data) *logical.Response {
	e.t.Helper()
	resp, err := e.request(&logical.Request{Operation: op, Path: path, Data: d})
	if err != nil || resp.IsError() {
		e.t.Fatalf("%s %s %.300v: %v, %v", op, path, d, resp, err)
	}
	return resp
}

func (e *engine) read(path string) data {
	e.t.Helper()
	resp := e.do(logical.ReadOperation, path, nil)
	if resp == nil {
		return nil
	}
	return resp.Data
}

func (e *engine) write(path string, d data) data {
	e.t.Helper()
	resp := e.do(logical.UpdateOperation, path, d)
	if resp == nil {
		return nil
	}
	return resp.Data
}

func (e *engine) list(path string, d data) []string {
	e.t.Helper()
	resp := e.do(logical.ListOperation, path, d)
	keys, _ := resp.Data["keys"].([]string)
	return keys
}

// refused makes a request that must be answered with an error for the user that contains want.
func (e *engine) refused(op logical.Operation, path string, d data, want string) {
	e.t.Helper()
	resp, err := e.request(&logical.Request{Operation: op, Path: path, Data: d})
	e.saysNo(resp, err, want)
}

func (e *engine) saysNo(resp *logical.Response, err error, want string) {
	e.t.Helper()
	switch {
	case resp != nil && resp.IsError():
		if text := resp.Error().Error(); !strings.Contains(text, want) {
			e.t.Errorf("the error %q does not say %q", text, want)
		} else if len(text) > 600 {
			e.t.Errorf("an error of %d bytes: %.100s...", len(text), text)
		}
	case err != nil:
		if !strings.Contains(err.Error(), want) {
			e.t.Errorf("the error %q does not say %q", err, want)
		}
	default:
		e.t.Errorf("accepted, want the error %q", want)
	}
}

// creds issues a token; its lease comes back from Vault as JSON.
type creds struct {
	token, id string
	data      data
	secret    *logical.Secret
	warnings  []string
}

func (e *engine) creds(role string, narrow data) *creds {
	e.t.Helper()
	return e.credsAs(entityAnn, role, narrow)
}

func (e *engine) credsAs(entity, role string, narrow data) *creds {
	e.t.Helper()
	resp, err := e.request(&logical.Request{
		Operation: logical.UpdateOperation, Path: "creds/" + role, Data: narrow,
		EntityID: entity, DisplayName: "approle",
	})
	if err != nil || resp.IsError() {
		e.t.Fatalf("creds/%s %v: %v, %v", role, narrow, resp, err)
	}
	c := &creds{token: resp.Data["token"].(string), id: resp.Data["token_id"].(string), data: resp.Data, warnings: resp.Warnings}
	c.secret = resp.Secret
	c.secret.IssueTime = time.Now()
	encoded, err := json.Marshal(resp.Secret.InternalData)
	if err != nil {
		e.t.Fatal(err)
	}
	c.secret.InternalData = nil
	if err := json.Unmarshal(encoded, &c.secret.InternalData); err != nil {
		e.t.Fatal(err)
	}
	return c
}

func (e *engine) renew(c *creds, increment time.Duration) (*logical.Response, error) {
	e.t.Helper()
	secret := *c.secret
	secret.Increment = increment
	return e.request(&logical.Request{Operation: logical.RenewOperation, Path: "creds/x", Secret: &secret})
}

func (e *engine) revokeLease(c *creds) {
	e.t.Helper()
	resp, err := e.request(&logical.Request{Operation: logical.RevokeOperation, Path: "creds/x", Secret: c.secret})
	if err != nil || resp.IsError() {
		e.t.Fatal(resp, err)
	}
}

// reason introspects, and gives the reason; "active" where the token is good.
func (e *engine) reason(token string, use data) string {
	e.t.Helper()
	d := data{"token": token}
	for k, v := range use {
		d[k] = v
	}
	answer := e.write("introspect", d)
	if answer["active"].(bool) {
		return "active"
	}
	return answer["reason"].(string)
}

func (e *engine) expect(want, token string, use data) {
	e.t.Helper()
	if got := e.reason(token, use); got != want {
		e.t.Errorf("introspection says %s, want %s", got, want)
	}
}

// minute does what Vault has the engine do once a minute.
func (e *engine) minute() {
	e.t.Helper()
	if _, err := e.request(&logical.Request{Operation: logical.RollbackOperation}); err != nil {
		e.t.Fatal(err)
	}
}
