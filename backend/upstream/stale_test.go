package upstream

import (
	"context"
	"errors"
	"testing"
	"time"
	"unsafe"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// pair is two processes on one storage, each of which knows what was there when it loaded.
func pair(t *testing.T) (k, other *Keeper) {
	t.Helper()
	s := new(logical.InmemStorage)
	return keep(s, 1), keep(s, 1)
}

func (k *Keeper) load(t *testing.T) {
	t.Helper()
	if err := k.Tokens.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (k *Keeper) holdFor(t *testing.T, id token.ID, name string, d time.Duration) {
	t.Helper()
	if _, err := k.Tokens.hold(t.Context(), id, name, "", start.Add(d), start); err != nil {
		t.Fatal(err)
	}
}

// stateOf is the state of a token that storage holds; "": none.
func (k *Keeper) stateOf(t *testing.T, id token.ID) State {
	t.Helper()
	u, err := k.Tokens.read(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if u == nil {
		return ""
	}
	return u.State
}

// due has a keeper do at a time what the queue does for a token that is Live.
func (k *Keeper) due(t *testing.T, id token.ID, now time.Time) {
	t.Helper()
	k.now = func() time.Time { return now }
	u, known := k.Tokens.Get(id)
	if !known {
		t.Fatal("not known")
	}
	r := &run{Keeper: k, c: k.connect(new(logical.InmemStorage), "0"), turn: make(chan struct{}, 1)}
	_ = r.settle(t.Context(), &u) // no service can be called
}

// A revocation is not acknowledged without a look at storage: another process may have made the token.
func TestRevokeUnknown(t *testing.T) {
	t.Parallel()
	k, other := pair(t)
	id := live(t, other, nil)
	if _, err := k.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if state := other.stateOf(t, id); state != Ending {
		t.Errorf("revoked, and %s", state)
	}
	if _, err := k.Revoke(t.Context(), newID(t)); err != nil {
		t.Error("a token that nobody knows has ended:", err)
	}
}

// A token that another process's leases hold as well does not end with the last lease that this process knows of.
func TestUnholdAgainstUnknownHolds(t *testing.T) {
	t.Parallel()
	k, other := pair(t)
	id := live(t, k, func(u *Token) { u.Shared = true })
	k.holdFor(t, id, "mine", time.Hour)
	other.load(t)
	other.holdFor(t, id, "theirs", time.Hour)
	if err := k.Unhold(t.Context(), id, "mine"); err != nil {
		t.Fatal(err)
	}
	if state := k.stateOf(t, id); state != Live {
		t.Error("a lease of the other process holds the token, which is", state)
	}
	if err := k.Unhold(t.Context(), id, "theirs"); err != nil {
		t.Fatal(err)
	}
	if state := k.stateOf(t, id); state != Ending {
		t.Error("nothing holds the token, which is", state)
	}
}

// The lease of a token and a hold that this process does not know ends the token.
func TestUnholdUnknown(t *testing.T) {
	t.Parallel()
	k, other := pair(t)
	id := live(t, other, func(u *Token) { u.Shared = true })
	other.holdFor(t, id, "theirs", time.Hour)
	if err := k.Unhold(t.Context(), id, "theirs"); err != nil {
		t.Fatal(err)
	}
	if state := k.stateOf(t, id); state != Ending {
		t.Error("nothing holds the token, which is", state)
	}
}

// A token that another process has renewed does not end at the time that this process remembers.
func TestEndAgainstUnknownRenewal(t *testing.T) {
	t.Parallel()
	k, other := pair(t)
	own := live(t, k, nil)
	shared := live(t, k, func(u *Token) { u.Shared = true })
	k.holdFor(t, shared, "a", time.Hour)
	again := live(t, k, func(u *Token) { u.Shared = true })
	k.holdFor(t, again, "a", time.Hour)
	other.load(t)
	other.holdFor(t, again, "b", 3*time.Hour)
	if _, err := other.Tokens.change(t.Context(), own, Live, func(u *Token) { u.EndsAt = start.Add(3 * time.Hour) }); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Tokens.moveHold(t.Context(), shared, "a", start.Add(3*time.Hour), start); err != nil {
		t.Fatal(err)
	}
	for _, id := range []token.ID{own, shared, again} {
		k.due(t, id, start.Add(2*time.Hour))
		if state := k.stateOf(t, id); state != Live {
			t.Error("ended before its time:", state)
		}
		k.due(t, id, start.Add(4*time.Hour))
		if state := k.stateOf(t, id); state != Ending {
			t.Error("its time is over:", state)
		}
	}
}

// A lease of another process can be renewed.
func TestMoveUnknownHold(t *testing.T) {
	t.Parallel()
	k, other := pair(t)
	id := live(t, k, func(u *Token) { u.Shared = true })
	other.load(t)
	other.holdFor(t, id, "theirs", time.Hour)
	if end, err := k.Tokens.moveHold(t.Context(), id, "theirs", start.Add(2*time.Hour), start); err != nil || !end.Equal(start.Add(2*time.Hour)) {
		t.Error(end, err)
	}
	// One that is gone stays so.
	k.holdFor(t, id, "mine", time.Hour)
	other.load(t)
	if err := other.Unhold(t.Context(), id, "mine"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Tokens.moveHold(t.Context(), id, "mine", start.Add(2*time.Hour), start); err == nil {
		t.Error("a hold that was given up came back")
	}
}

// deaf is storage that takes a write and says that it failed.
type deaf struct {
	logical.InmemStorage
	deaf bool
}

func (s *deaf) Put(ctx context.Context, e *logical.StorageEntry) error {
	return errors.Join(s.InmemStorage.Put(ctx, e), map[bool]error{true: errors.New("no answer")}[s.deaf])
}

// A hold that storage may have taken, and nobody knows of, does not keep a token alive.
func TestHoldUnsure(t *testing.T) {
	t.Parallel()
	s := new(deaf)
	k := keep(s, 1)
	id := live(t, k, func(u *Token) { u.Shared = true })
	k.holdFor(t, id, "a", time.Hour)
	s.deaf = true
	if _, err := k.Tokens.hold(t.Context(), id, "b", "", start.Add(time.Hour), start); err == nil {
		t.Fatal("no error")
	}
	s.deaf = false
	if err := k.Unhold(t.Context(), id, "a"); err != nil {
		t.Fatal(err)
	}
	if state := k.stateOf(t, id); state != Ending {
		t.Error("nothing holds the token, which is", state)
	}
}

// What another process has made at a connection that it did not know to be deleted does not stay in storage for ever.
func TestSyncForgetsOrphans(t *testing.T) {
	t.Parallel()
	k, other := pair(t)
	if err := k.Connections.Load(t.Context(), new(logical.InmemStorage)); err != nil { // which has none
		t.Fatal(err)
	}
	id := live(t, other, nil)
	k.sync(t.Context(), start)
	k.sync(t.Context(), start.Add(k.Timings.Sync))
	k.Wait()
	if state := k.stateOf(t, id); state != "" {
		t.Error(state)
	}
}

// undeletable is storage that rejects deletions, and counts them.
type undeletable struct {
	logical.Storage
	tried int
}

func (s *undeletable) Delete(context.Context, string) error {
	s.tried++
	return logical.ErrReadOnly
}

// Where storage rejects all writes, a queue that is woken again and again does not retry an interrupted deletion each time:
// each failure has all of memory read again, and the reading wakes the queue.
func TestAnInterruptedDeletionIsRetriedAfterAPause(t *testing.T) {
	t.Parallel()
	s := &undeletable{Storage: new(logical.InmemStorage)}
	k := keep(s, 1)
	id := live(t, k, nil)
	if err := k.Connections.Load(t.Context(), new(logical.InmemStorage)); err != nil { // which has none
		t.Fatal(err)
	}
	now := start
	k.now = func() time.Time { return now }
	for range 10 {
		k.Run(t.Context())
	}
	if s.tried != 1 {
		t.Errorf("%d deletions were tried at once", s.tried)
	}
	for range 3 {
		now = now.Add(10 * time.Second)
		k.Run(t.Context())
	}
	if s.tried != 4 {
		t.Errorf("%d deletions were tried in half a minute, want 4", s.tried)
	}
	k.storage = s.Storage
	k.Tokens.storage = s.Storage
	now = now.Add(time.Minute)
	k.Run(t.Context())
	k.Wait()
	if state := k.stateOf(t, id); state != "" {
		t.Error("storage accepts writes, and the token of the deleted connection is", state)
	}
}

// A connection whose provider has gone since the request began is not rotated.
func TestRotateBroken(t *testing.T) {
	t.Parallel()
	k, _ := pair(t)
	if _, err := k.rotate(t.Context(), k.connect(k.storage, "0"), "root"); !errors.As(err, new(*notRotated)) {
		t.Error(err)
	}
}

// stepped is a time as time.Now gives it after the clock of the machine was set back: the wall clock is behind the
// monotonic one.
func stepped(t time.Time, by time.Duration) time.Time {
	(*struct {
		wall uint64
		ext  int64
	})(unsafe.Pointer(&t)).ext += int64(by) // the monotonic reading
	return t
}

// A clock that is set back leaves nothing in the schedule of a token that is gone.
func TestScheduleAfterClockStep(t *testing.T) {
	t.Parallel()
	k := keep(new(logical.InmemStorage), 1)
	now := time.Now()
	stays := live(t, k, func(u *Token) { u.EndsAt = now.Add(1000 * time.Hour) })
	var ids []token.ID
	for i := range 1000 {
		at := now.Add(time.Duration(i*377%1000) * time.Minute)
		switch i % 3 {
		case 0:
			at = at.Round(0) // as read from storage
		case 1:
			at = stepped(at, 5*time.Hour)
		}
		id := live(t, k, func(u *Token) { u.Shared = true })
		if _, err := k.Tokens.hold(t.Context(), id, "a", "", at, start); err != nil {
			t.Fatal(err)
		}
		k.Tokens.rest(id, at, nil)
		ids = append(ids, id)
	}
	for _, id := range ids {
		if err := k.Tokens.Forget(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if got := k.Tokens.dueNow("0", now.Add(2000*time.Hour), 10); len(got) != 1 || got[0].ID != stays {
		t.Error(got)
	}
}

// A token of a connection that was deleted is not given to who asks a connection of the same name, although the token
// is not forgotten yet.
func TestATokenIsNotSharedByConnections(t *testing.T) {
	t.Parallel()
	k := keep(new(logical.InmemStorage), 2)
	id := live(t, k, func(u *Token) { u.Shared = true })
	for connection, shared := range map[string]bool{"0": true, "1": false} {
		u, found := k.Tokens.young(shareKey(token.RoleID{}, connection, nil), start, start.Add(time.Minute))
		if found != shared || found && u.ID != id {
			t.Errorf("connection %s: found %v, want %v", connection, found, shared)
		}
	}
}

// readOnly is storage of a node that may not write.
type readOnly struct{ logical.Storage }

func (readOnly) Put(context.Context, *logical.StorageEntry) error { return logical.ErrReadOnly }

// A process that may not write searches for no token: the active node may be creating the token. If a process may write, the
// creation by another process fails.
func TestSearchAgainstACreation(t *testing.T) {
	t.Parallel()
	s := new(logical.InmemStorage)
	k, replaced := keep(s, 1), keep(readOnly{s}, 1)
	creating := Token{ID: newID(t), State: Creating, ConnectionID: "0", Name: "x", CreatedAt: start, EndsAt: start.Add(time.Hour)}
	if err := k.Tokens.announce(t.Context(), creating); err != nil {
		t.Fatal(err)
	}
	search := func(k *Keeper) error {
		k.load(t)
		r := &run{Keeper: k, c: k.connect(new(logical.InmemStorage), "0"), turn: make(chan struct{}, 1)}
		r.c.Broken = errors.New("the service is called")
		return r.search(t.Context(), []Token{creating})
	}
	if err := search(replaced); !errors.Is(err, logical.ErrReadOnly) {
		t.Error("a process that may not write:", err)
	}
	if state := k.stateOf(t, creating.ID); state != Creating {
		t.Error("the token is", state)
	}
	_ = search(keep(s, 1))
	if state := k.stateOf(t, creating.ID); state != Lost {
		t.Error("the token is", state)
	}
	if _, err := k.Tokens.change(t.Context(), creating.ID, Creating, func(t *Token) { t.State = Live }); !errors.Is(err, ErrRevoked) {
		t.Error("the process that creates the token is told:", err)
	}
}

// What a process that was replaced has changed is known after syncParts times Sync, also of tokens that are known.
func TestSyncReadsKnownTokens(t *testing.T) {
	t.Parallel()
	k, replaced := pair(t)
	var ids []token.ID
	for range 20 {
		ids = append(ids, live(t, k, nil))
	}
	replaced.load(t)
	for _, id := range ids {
		if _, err := replaced.Tokens.Revoke(t.Context(), id, start); err != nil {
			t.Fatal(err)
		}
	}
	for part := range syncParts {
		if err := k.Tokens.syncPart(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		if u, _ := k.Tokens.Get(id); u.State != Ending {
			t.Error("revoked, and known as", u.State)
		}
	}
}
