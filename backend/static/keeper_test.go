package static

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// mint is a Minter of one kind and the tokens that it has made.
type mint struct {
	mu       sync.Mutex
	w        *world
	upstream bool
	ends     map[token.ID]time.Time // zero: revoked
	lifetime time.Duration          // of the tokens at most; 0: as long as asked
	fails    map[string]error       // method -> its error
}

func (m *mint) Permit(*role.Role) error { return m.fails["Permit"] }

func (m *mint) Mint(_ context.Context, _ logical.Storage, q *role.MintRequest) (*role.Minted, error) {
	if err := m.fails["Mint"]; err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := byte(m.w.minted.Add(1))
	t := &role.Minted{ID: token.ID{n}, Text: fmt.Sprint("token ", n), Upstream: m.upstream, RoleID: q.Role.ID, Version: q.Role.Version, ExpiresAt: q.End}
	if end := q.Now.Add(m.lifetime); m.lifetime > 0 && end.Before(q.End) {
		t.ExpiresAt = end
	}
	m.ends[t.ID] = t.ExpiresAt
	return t, nil
}

func (m *mint) EndsAt(t *role.Minted) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ends[t.ID]
}

func (m *mint) Works(t *role.Minted) bool { return m.w.now.Before(m.EndsAt(t)) }

func (m *mint) ShortenTo(_ context.Context, _ logical.Storage, t *role.Minted, end time.Time) error {
	if err := m.fails["ShortenTo"]; err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if end.Before(m.ends[t.ID]) {
		m.ends[t.ID] = end
	}
	return nil
}

func (m *mint) Revoke(_ context.Context, _ logical.Storage, t *role.Minted) error {
	if err := m.fails["Revoke"]; err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ends[t.ID] = time.Time{}
	return nil
}

// world is a mount with a role of each kind.
type world struct {
	t        *testing.T
	now      time.Time
	minted   atomic.Uint32
	native   *mint
	upstream *mint
	state    *State
	disabled map[string]bool
	woken    int // how often the queue was woken
	storage  *logical.InmemStorage
	keeper   *Keeper
}

func (w *world) Load(context.Context, logical.Storage) (*State, error) { return w.state, nil }
func (w *world) Loaded() *State                                        { return w.state }
func (w *world) MayWrite() bool                                        { return true }
func (w *world) ProveWritable(context.Context, logical.Storage) error  { return nil }
func (w *world) EntityDisabled(_ context.Context, entity string) (bool, error) {
	return w.disabled[entity], nil
}
func (w *world) FlushInventory() {}
func (w *world) WakeQueue()      { w.woken++ }

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), disabled: make(map[string]bool), storage: new(logical.InmemStorage)}
	w.native = &mint{w: w, ends: make(map[token.ID]time.Time), fails: make(map[string]error)}
	w.upstream = &mint{w: w, upstream: true, ends: make(map[token.ID]time.Time), fails: make(map[string]error)}
	roles, err := role.Load(t.Context(), w.storage)
	if err != nil {
		t.Fatal(err)
	}
	for i, connection := range []string{"", "shelf"} {
		r, err := role.New([]string{"native", "upstream"}[i], role.Entry{ID: token.RoleID{byte(i + 1)}, Version: 1, TokenFormat: role.FormatOpaque, Connection: connection})
		if err != nil {
			t.Fatal(err)
		}
		if err := roles.Put(t.Context(), w.storage, r); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := Load(t.Context(), w.storage)
	if err != nil {
		t.Fatal(err)
	}
	w.state = &State{Roles: roles, Entries: entries, Inventory: ledger.NewInventory("w"), Minters: role.Minters{Native: w.native, Upstream: w.upstream}}
	w.keeper = New(w.storage, func() time.Time { return w.now }, hclog.NewNullLogger(), w, &upstream.DefaultTimings)
	return w
}

func (w *world) write(name string, c Change) {
	w.t.Helper()
	if _, err := w.keeper.Write(w.t.Context(), w.storage, name, &c); err != nil {
		w.t.Fatal(err)
	}
}

// run does what is due now, as the worker does.
func (w *world) run() {
	w.keeper.Run(w.t.Context())
	for _, e := range w.state.Entries.All() {
		unlock, err := w.keeper.lock(w.t.Context(), e.name) // the job holds it
		if err != nil {
			w.t.Fatal(err)
		}
		unlock()
	}
}

// text returns the current token of a static role, or why there is none.
func (w *world) text(name string) string {
	w.t.Helper()
	status, err := w.keeper.ReadToken(w.t.Context(), w.storage, name, "")
	if err != nil {
		return err.Error()
	}
	return status.Token
}

// alive returns how many tokens work.
func (w *world) alive() (alive int) {
	for _, m := range []*mint{w.native, w.upstream} {
		for _, end := range m.ends {
			if w.now.Before(end) {
				alive++
			}
		}
	}
	return alive
}

func given[T any](v T) *T { return &v }

// daily is a static role that is rotated once a day, with an overlap of an hour.
func daily(roleName string) Change {
	return Change{Role: &roleName, RotationPeriod: given(24 * time.Hour), Overlap: given(time.Hour)}
}

// The rotation is the same for both kinds of tokens, and each kind is asked of its own minter.
func TestRotationOfBothKinds(t *testing.T) {
	for _, kind := range []string{"native", "upstream"} {
		w := newWorld(t)
		w.write("kept", daily(kind))
		if got := w.text("kept"); got != "token 1" {
			t.Errorf("%s: %s", kind, got)
		}
		w.now = w.now.Add(24 * time.Hour)
		w.run()
		if got := w.text("kept"); got != "token 2" || w.alive() != 2 {
			t.Errorf("%s: %s after a day, and %d tokens work", kind, got, w.alive())
		}
		w.now = w.now.Add(time.Hour)
		if w.alive() != 1 {
			t.Errorf("%s: %d tokens work after the overlap", kind, w.alive())
		}
		if mine := map[string]int{"native": len(w.native.ends), "upstream": len(w.upstream.ends)}; mine[kind] != 2 {
			t.Errorf("%s: minted %v", kind, mine)
		}
		if err := w.keeper.Delete(t.Context(), w.storage, "kept"); err != nil || w.alive() != 0 {
			t.Errorf("%s: %d tokens work after the deletion: %v", kind, w.alive(), err)
		}
	}
}

// Whatever step of a rotation fails, the steps that are left are done later.
func TestRotationIsCompletedLater(t *testing.T) {
	failure := errors.New("storage is slow")
	for _, step := range []string{"Permit", "Mint", "ShortenTo", "Revoke"} {
		w := newWorld(t)
		c := daily("native")
		if step == "Revoke" {
			c.Overlap = given(time.Duration(0))
		}
		w.write("kept", c)
		w.native.fails[step] = failure
		if err := w.keeper.Rotate(t.Context(), w.storage, "kept"); !errors.Is(err, failure) {
			t.Errorf("%s: %v", step, err)
		}
		if got, err := w.keeper.Read(t.Context(), w.storage, "kept"); err != nil || got.LastError != failure.Error() {
			t.Errorf("%s: last error %q, %v", step, got.LastError, err)
		}
		delete(w.native.fails, step)
		w.now = w.now.Add(time.Minute)
		w.run()
		w.now = w.now.Add(time.Hour)
		w.run()
		if w.alive() != 1 || !strings.HasPrefix(w.text("kept"), "token ") {
			t.Errorf("%s: %d tokens work, and the static role gives %s", step, w.alive(), w.text("kept"))
		}
	}
}

// A failed rotation is retried after a growing time, and not at each run.
func TestRotationBacksOff(t *testing.T) {
	w := newWorld(t)
	w.write("kept", daily("upstream"))
	w.upstream.fails["Permit"] = refusal.New("the role is privileged")
	w.now = w.now.Add(24 * time.Hour)
	var waits []time.Duration
	for range 4 {
		w.run()
		next := w.keeper.failing["kept"].Next
		waits = append(waits, next.Sub(w.now))
		w.run() // too early
		if again := w.keeper.failing["kept"].Next; !again.Equal(next) {
			t.Errorf("retried before %s", next)
		}
		w.now = next
	}
	if waits[3] <= waits[0] {
		t.Errorf("waits %v", waits)
	}
	if got := w.text("kept"); got != "token 1" {
		t.Errorf("the token still works, and the static role gives %s", got)
	}
}

// The token of a disabled entity is refused to everybody, and the sweep revokes the token.
func TestDisabledEntity(t *testing.T) {
	w := newWorld(t)
	c := daily("native")
	c.EntityID = given("ann")
	w.write("anns", c)
	w.write("nobodys", daily("native"))
	if entities, err := w.keeper.Entities(t.Context()); err != nil || fmt.Sprint(entities) != "[ann]" {
		t.Errorf("%v, %v", entities, err)
	}
	w.disabled["ann"] = true
	if got := w.text("anns"); !strings.Contains(got, `Vault entity "ann" is disabled`) {
		t.Error(got)
	}
	if revoked, err := w.keeper.RevokeOf(t.Context(), map[string]bool{"ann": true}); revoked != 1 || err != nil {
		t.Errorf("%d, %v", revoked, err)
	}
	w.run()
	if w.alive() != 1 || w.text("nobodys") != "token 2" {
		t.Errorf("%d tokens work, %s", w.alive(), w.text("nobodys"))
	}
	w.disabled["ann"] = false
	w.now = w.now.Add(10 * time.Minute)
	w.run()
	if got := w.text("anns"); got != "token 3" {
		t.Error(got)
	}
}

// The queue of upstream tokens must not revoke a token whose static role is being rotated.
func TestHolds(t *testing.T) {
	w := newWorld(t)
	w.write("kept", daily("upstream"))
	current, stray := token.ID{1}, token.ID{99}
	if !w.keeper.Holds(t.Context(), "kept", current) || w.keeper.Holds(t.Context(), "kept", stray) || w.keeper.Holds(t.Context(), "gone", current) {
		t.Error("at rest")
	}
	unlock, err := w.keeper.lock(t.Context(), "kept")
	if err != nil {
		t.Fatal(err)
	}
	if !w.keeper.Holds(t.Context(), "kept", stray) {
		t.Error("while the static role is changed")
	}
	unlock()
	if err := w.keeper.Rotate(t.Context(), w.storage, "kept"); err != nil {
		t.Fatal(err)
	}
	if !w.keeper.Holds(t.Context(), "kept", current) {
		t.Error("in the overlap")
	}
	w.now = w.now.Add(time.Hour)
	if w.keeper.Holds(t.Context(), "kept", current) {
		t.Error("after the overlap")
	}
}

// A static role that cannot be read holds whatever the queue asks about, until the static role is dropped.
func TestDropBroken(t *testing.T) {
	w := newWorld(t)
	w.write("kept", daily("native"))
	w.keeper.Run(t.Context())
	if err := w.storage.Put(t.Context(), &logical.StorageEntry{Key: Prefix + "kept", Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	if !w.keeper.Holds(t.Context(), "kept", token.ID{99}) {
		t.Error("not held")
	}
	if err := w.keeper.DropBroken(t.Context(), w.storage, "kept"); err != nil || w.alive() != 0 || w.woken != 1 {
		t.Errorf("%d tokens work, the queue was woken %d times: %v", w.alive(), w.woken, err)
	}
	if w.keeper.Holds(t.Context(), "kept", token.ID{99}) {
		t.Error("held")
	}
}

// A token that the service lets live for less is rotated sooner, and the operator learns of it.
func TestTokenThatExpiresSooner(t *testing.T) {
	w := newWorld(t)
	w.upstream.lifetime = 4 * time.Hour
	c := daily("upstream")
	warnings, err := w.keeper.Write(t.Context(), w.storage, "kept", &c)
	if err != nil || len(warnings) != 1 || warnings[0] != "the token ends at 2030-01-01T04:00:00Z by itself, so it is rotated at 2030-01-01T02:00:00Z already" {
		t.Errorf("%q, %v", warnings, err)
	}
	w.now = w.now.Add(2 * time.Hour)
	w.run()
	if got := w.text("kept"); got != "token 2" {
		t.Error(got)
	}
}
