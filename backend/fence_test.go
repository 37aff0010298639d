package backend

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/fence"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
)

// deposable is storage that refuses writes as Vault does on a node that may not write.
type deposable struct {
	logical.Storage
	refusal atomic.Pointer[error]
}

func (d *deposable) refuse(err error) { d.refusal.Store(&err) }

func (d *deposable) refused() error {
	if err := d.refusal.Load(); err != nil {
		return *err
	}
	return nil
}

func (d *deposable) Put(ctx context.Context, e *logical.StorageEntry) error {
	if err := d.refused(); err != nil {
		return err
	}
	return d.Storage.Put(ctx, e)
}

func (d *deposable) Delete(ctx context.Context, key string) error {
	if err := d.refused(); err != nil {
		return err
	}
	return d.Storage.Delete(ctx, key)
}

// ask makes a request of a node whose view of the storage is its own.
func (e *engine) ask(s logical.Storage, op logical.Operation, path string, d data) (*logical.Response, error) {
	return e.b.HandleRequest(context.Background(), &logical.Request{
		Operation: op, Path: path, Data: d, Storage: s, MountPoint: "apitoken/", EntityID: entityAnn,
		Connection: &logical.Connection{RemoteAddr: "127.0.0.1"},
	})
}

// A node that was not told that another one is active forgets all it knows as soon as a write fails for it, and
// when it is elected again it has what the other wrote.
func TestAFailedWriteForLackOfLeadershipEmptiesTheMemory(t *testing.T) {
	for _, refusal := range []error{logical.ErrReadOnly, errors.New("node is not the leader"), errors.New("Vault is sealed")} {
		stale := newEngine(t)
		stale.write("roles/reader", data{"scopes": "a,b"})
		token := stale.creds("reader", nil)
		other := stale.creds("reader", nil)
		view := &deposable{Storage: stale.storage}

		active := mountOn(t, stale.storage, stale.system)
		active.write("revoke", data{"token": token.token})
		active.write("roles/reader", data{"scopes": "a"})
		active.write("config", data{"environment": "production"})
		active.write("roles/new", data{"scopes": "c"})

		view.refuse(refusal)
		if _, err := stale.ask(view, logical.UpdateOperation, "revoke", data{"token": other.token}); err == nil {
			t.Fatal("revoked without a write")
		}
		view.refuse(nil)
		stale.expect("revoked", token.token, nil)
		stale.expect("insufficient_scope", other.token, data{"required_scopes": "b"})
		if env := stale.read("config")["environment"]; env != "production" {
			t.Errorf("environment %q", env)
		}
		if stale.read("roles/new") == nil {
			t.Error("a role of the other node is not seen")
		}
	}
}

// A large mount goes on answering while write after write is refused: it is not read again for each. Once a write is
// taken again, everything is read again.
func TestRefusalsInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a"})
		view := &deposable{Storage: e.storage}
		slow := &slowReads{Storage: view}
		view.refuse(logical.ErrSetupReadOnly)
		loads := func(requests int) int64 {
			before := slow.lists.Load()
			for range requests {
				if _, err := e.ask(slow, logical.ReadOperation, "creds/reader", nil); err == nil {
					t.Fatal("issued")
				}
			}
			return slow.lists.Load() - before
		}
		once := loads(2) // the first is refused, the second reads all again
		if once == 0 {
			t.Fatal("nothing was read again")
		}
		if n := loads(10); n > 0 {
			t.Errorf("read again %d times at once", n/once)
		}
		time.Sleep(time.Hour)
		if n := loads(10); n != once {
			t.Errorf("read again %d times after a rest", n/once)
		}
		view.refuse(nil)
		active := mountOn(t, e.storage, e.system)
		active.write("roles/new", data{"scopes": "c"})
		e.creds("reader", nil)
		if e.read("roles/new") == nil {
			t.Error("not read again after a write was taken")
		}
	})
}

// slowReads is storage whose listings take a second.
type slowReads struct {
	logical.Storage
	lists atomic.Int64
}

func (s *slowReads) List(ctx context.Context, prefix string) ([]string, error) {
	s.lists.Add(1)
	time.Sleep(time.Second)
	return s.Storage.List(ctx, prefix)
}

// What began before a write failed for lack of leadership is based on stale memory, and writes nothing.
func TestRequestsThatBeganBeforeAreRefused(t *testing.T) {
	e := newEngine(t)
	view := &deposable{Storage: e.storage}
	before := e.b.Fence.Request(view)
	view.refuse(logical.ErrReadOnly)
	if err := e.b.Fence.Request(view).Delete(context.Background(), "x"); !errors.Is(err, logical.ErrReadOnly) {
		t.Error(err)
	}
	view.refuse(nil)
	if err := before.Put(context.Background(), &logical.StorageEntry{Key: "x"}); !errors.Is(err, fence.ErrOutdated) {
		t.Errorf("written: %v", err)
	}
	if err := e.b.Fence.Request(view).Put(context.Background(), &logical.StorageEntry{Key: "x"}); err != nil {
		t.Error(err)
	}
}

// A failed write in the background counts as one of a request does.
func TestAFailedFlushEmptiesTheMemory(t *testing.T) {
	s := new(storage)
	view := &deposable{Storage: s}
	b, err := Factory(context.Background(), &logical.BackendConfig{StorageView: view, System: newSystem()})
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{t: t, b: b.(*backend), storage: s, system: newSystem()}
	t.Cleanup(func() { b.Cleanup(context.Background()) })
	e.write("roles/reader", data{"scopes": "a"})
	id := e.creds("reader", nil).id
	active := mountOn(t, s, e.system)
	active.write("roles/new", data{"scopes": "c"})
	view.refuse(errors.New("Vault is in standby mode"))
	e.b.Flush(context.Background())
	view.refuse(nil)
	if e.read("roles/new") == nil {
		t.Error("a role of the other node is not seen")
	}
	if e.read("tokens/"+id) == nil {
		t.Error("the row that was not written is lost")
	}
}

// While storage cannot be written no token is issued, and the answer says what to do.
func TestNothingIsIssuedWhileStorageCannotBeWritten(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a", "refresh": true, "access_ttl": "10m"})
	refreshToken := e.creds("reader", nil).data["refresh_token"]
	e = e.restart()
	view := &deposable{Storage: e.storage}
	view.refuse(logical.ErrSetupReadOnly)
	for path, d := range map[string]data{
		"creds/reader": nil,
		"oauth/token":  {"grant_type": "refresh_token", "refresh_token": refreshToken},
	} {
		resp, err := e.ask(view, logical.UpdateOperation, path, d)
		if err == nil || !strings.Contains(err.Error(), "storage of this mount cannot be written (cannot write to storage during setup)") ||
			!strings.Contains(err.Error(), "vault operator step-down") {
			t.Errorf("%s: %v, %v", path, resp, err)
		}
	}
	view.refuse(nil)
	writes := e.storage.writes.Load()
	e.creds("reader", nil)
	if n := e.storage.writes.Load() - writes; n != 1 {
		t.Errorf("the first token costs %d writes, want one that proves that storage can be written", n)
	}
	e.creds("reader", nil)
	if n := e.storage.writes.Load() - writes; n != 1 {
		t.Errorf("the second token costs %d writes", n-1)
	}
	if names, err := e.storage.List(context.Background(), ledger.WritersPrefix); err != nil || len(names) != 2 {
		t.Errorf("writers %q, %v", names, err)
	}
}

// One step that fails keeps the others of the minute from nothing.
func TestPeriodicGoesOnAfterAnError(t *testing.T) {
	c := new(clock)
	e := mountPrepared(t, new(storage), newSystem(), func(b *backend) { b.Now = c.now })
	e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "max_ttl": "1h"})
	e.revokeLease(e.creds("reader", nil)) // the key has made one token, which is to be stored
	c.pass(2 * time.Hour)
	failing := &refusing{Storage: e.storage, prefix: e.sealingKey()}
	resp, err := e.ask(failing, logical.RollbackOperation, "", nil)
	if !errors.Is(err, errBroken) {
		t.Errorf("the error is lost: %v, %v", resp, err)
	}
	if n := e.b.Loaded().Deviations.Len(); n != 0 {
		t.Errorf("%d deviations are left", n)
	}
	if n := e.b.Loaded().Inventory.Len(); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// refusing is storage that does not take the keys of a prefix.
type refusing struct {
	logical.Storage
	prefix string
}

func (r *refusing) Put(ctx context.Context, e *logical.StorageEntry) error {
	if strings.HasPrefix(e.Key, r.prefix) {
		return errBroken
	}
	return r.Storage.Put(ctx, e)
}

// While one request reads anew what another node has written, others wait: none answers by the old memory.
func TestNobodyAnswersByWhatIsReadAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a"})
		c := e.creds("reader", nil)
		mountOn(t, e.storage, e.system).write("revoke", data{"token": c.token})
		names, err := e.storage.List(t.Context(), ledger.DeviationsPrefix)
		if err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		e.b.InvalidateKey(t.Context(), ledger.DeviationsPrefix+names[0])
		go func() {
			_, _ = e.ask(&slowGets{e.storage}, logical.UpdateOperation, "introspect", data{"token": c.token})
		}()
		synctest.Wait() // until the read is under way
		e.expect("revoked", c.token, nil)
	})
}

// slowGets is storage whose reads take a second.
type slowGets struct{ logical.Storage }

func (s *slowGets) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	time.Sleep(time.Second)
	return s.Storage.Get(ctx, key)
}
