package upstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// quiet is a mount whose roles are not read.
type quiet struct{}

func (quiet) Active(context.Context) bool                            { return true }
func (quiet) Roles() *role.Store                                     { return nil }
func (quiet) StaticRoleHolds(context.Context, string, token.ID) bool { return true }

// small is storage that refuses an entry above 1 MiB, as raft does.
type small struct{ logical.InmemStorage }

func (s *small) Put(ctx context.Context, e *logical.StorageEntry) error {
	if len(e.Value) > 1<<20 {
		return errors.New("entry too large")
	}
	return s.InmemStorage.Put(ctx, e)
}

func newID(t testing.TB) token.ID {
	id, err := token.NewID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// keep is a keeper at a time that does not pass, with connections whose provider is gone.
func keep(s logical.Storage, connections int) *Keeper {
	k := New(Config{Storage: s, Now: func() time.Time { return start }, Log: hclog.NewNullLogger(), Mount: quiet{}, Wake: func() {}})
	for i := range connections {
		k.connect(new(logical.InmemStorage), fmt.Sprint(i))
	}
	return k
}

// connect stores a connection whose provider is gone.
func (k *Keeper) connect(s logical.Storage, name string) *Ready {
	c, err := k.Connections.compile(name, Entry{ID: name, Provider: "gone", URL: "https://service.example.com"})
	if err == nil {
		err = k.Connections.Put(context.Background(), s, c)
	}
	if err != nil {
		panic(err)
	}
	return k.Connections.ready(c)
}

// live stores a token that is Live.
func live(t testing.TB, k *Keeper, change func(*Token)) token.ID {
	u := Token{ID: newID(t), State: Live, ConnectionID: "0", CreatedAt: start, LiveSince: start, EndsAt: start.Add(time.Hour)}
	if change != nil {
		change(&u)
	}
	if err := k.Tokens.announce(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	return u.ID
}

// A token can have more leases than an entry of storage can name, and ends with the last of them.
func TestManyHolds(t *testing.T) {
	t.Parallel()
	s := new(small)
	k := keep(s, 1)
	id := live(t, k, func(u *Token) { u.Shared = true })
	const many = 17_473
	for i := range many {
		if _, err := k.Tokens.hold(t.Context(), id, fmt.Sprint(i), "", start.Add(time.Duration(i)*time.Second), start); err != nil {
			t.Fatal(i, err)
		}
	}
	again := keep(s, 1)
	if err := again.Tokens.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if last, held := again.Tokens.holds[id].last(); !held || !last.Equal(start.Add((many-1)*time.Second)) || len(again.Tokens.holds[id].all) != many {
		t.Error(last, held)
	}
	for i := range many {
		for range 2 { // Vault may ask twice
			if err := again.Unhold(t.Context(), id, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		if u, _ := again.Tokens.Get(id); (u.State == Ending) != (i == many-1) {
			t.Fatalf("%s after %d of %d", u.State, i+1, many)
		}
	}
	if err := again.Tokens.Forget(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if keys, err := logical.CollectKeys(t.Context(), s); err != nil || len(keys) != 0 {
		t.Error(len(keys), err)
	}
}

// A hold whose answer was lost runs out by its end; none goes beyond the token's end at the service.
func TestHoldsRunOut(t *testing.T) {
	t.Parallel()
	s := new(logical.InmemStorage)
	k := keep(s, 1)
	id := live(t, k, func(u *Token) { u.Shared, u.TokenEnd = true, start.Add(30*time.Minute) })
	grace := k.Timings.Grace
	due := func(want time.Time) {
		t.Helper()
		if at, _ := k.Tokens.next("0"); !at.Equal(want.Add(grace)) {
			t.Errorf("looked at %s, want %s", at, want.Add(grace))
		}
	}
	due(start) // nobody holds it yet
	hold := func(name string, after time.Duration, now time.Time) {
		t.Helper()
		end, err := k.Tokens.hold(t.Context(), id, name, "", start.Add(after), now)
		if err != nil || end.After(start.Add(30*time.Minute)) {
			t.Error(end, err)
		}
	}
	hold("lost", time.Minute, start)
	due(start.Add(time.Minute))
	hold("long", time.Hour, start)
	due(start.Add(30 * time.Minute))
	hold("later", 10*time.Minute, start.Add(2*time.Minute))
	if hs := k.Tokens.holds[id]; len(hs.all) != 2 {
		t.Error("the lost hold is kept", hs.all)
	}
	if _, err := k.Tokens.moveHold(t.Context(), id, "lost", start.Add(time.Hour), start); !errors.Is(err, ErrRevoked) {
		t.Error("a hold that has run out is moved:", err)
	}
	if err := k.Unhold(t.Context(), id, "long"); err != nil {
		t.Fatal(err)
	}
	due(start.Add(10 * time.Minute))
	if err := k.Unhold(t.Context(), id, "later"); err != nil {
		t.Fatal(err)
	}
	if u, _ := k.Tokens.Get(id); u.State != Ending {
		t.Error(u.State)
	}
	if _, err := k.Tokens.hold(t.Context(), id, "late", "", start.Add(time.Hour), start); !errors.Is(err, ErrRevoked) {
		t.Error(err)
	}
}

// A token moves in one direction only, whatever this process remembers of it.
func TestTokensMoveForward(t *testing.T) {
	t.Parallel()
	s := new(logical.InmemStorage)
	k := keep(s, 1)
	id := live(t, k, nil)
	other := keep(s, 1)
	if err := other.Tokens.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Tokens.Revoke(t.Context(), id, start); err != nil {
		t.Fatal(err)
	}
	if err := k.Shorten(t.Context(), id, start.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if u, _ := k.Tokens.Get(id); u.State != Ending {
		t.Error("this process wrote over what the other has stored:", u.State)
	}
	if err := other.Tokens.Forget(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Tokens.change(t.Context(), id, Ending, func(*Token) {}); !errors.Is(err, ErrRevoked) {
		t.Error(err)
	}
	if _, known := k.Tokens.Get(id); known {
		t.Error("a token that was forgotten came back")
	}

	// A shared one that the other has ended is not found again.
	shared := live(t, k, func(u *Token) { u.Shared = true })
	if err := other.Tokens.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Tokens.Revoke(t.Context(), shared, start); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Tokens.hold(t.Context(), shared, "late", "", start.Add(time.Hour), start); !errors.Is(err, ErrRevoked) {
		t.Error(err)
	}
	if _, found := k.Tokens.young(shareKey(token.RoleID{}, "0", nil), start, start.Add(time.Minute)); found {
		t.Error("a token that has ended is found")
	}

	// One that is not known here is not said to be revoked.
	unknown := live(t, k, nil)
	if o, err := other.Revoke(t.Context(), unknown); err != nil || !o.Queued {
		t.Error(o, err)
	}
	if stored, err := k.Tokens.read(t.Context(), unknown); err != nil || stored.State != Ending {
		t.Error(stored, err)
	}

	// What another process has created after this one has loaded is seen, and what it has forgotten.
	theirs, mine := live(t, other, nil), live(t, k, nil)
	held := live(t, k, func(u *Token) { u.Shared = true })
	for _, name := range []string{"a", "b"} {
		if _, err := k.Tokens.hold(t.Context(), held, name, "", start.Add(time.Hour), start); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Tokens.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := other.Tokens.Forget(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Tokens.hold(t.Context(), held, "c", "", start.Add(time.Hour), start); err != nil {
		t.Fatal(err)
	}
	if err := other.Unhold(t.Context(), held, "a"); err != nil {
		t.Fatal(err)
	}
	if err := k.Tokens.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(k.Tokens.holds[held].all)); !slices.Equal(names, []string{"b", "c"}) {
		t.Error(names)
	}
	if _, known := k.Tokens.Get(theirs); !known {
		t.Error("not known")
	}
	if _, known := k.Tokens.Get(mine); known {
		t.Error("still known")
	}

	// Many at once: a token that has ended stays so.
	for range 50 {
		id := live(t, k, func(u *Token) { u.Shared = true })
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() { _, _ = k.Tokens.hold(context.Background(), id, fmt.Sprint(i), "", start.Add(time.Hour), start) })
			wg.Go(func() {
				_, _ = k.Tokens.change(context.Background(), id, Live, func(u *Token) { u.EndsAt = start.Add(2 * time.Hour) })
			})
			wg.Go(func() { _ = k.Unhold(context.Background(), id, fmt.Sprint(i)) })
		}
		wg.Go(func() {
			if _, err := k.Tokens.Revoke(context.Background(), id, start); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		stored, err := k.Tokens.read(t.Context(), id)
		if err != nil || stored.State != Ending {
			t.Fatal(stored, err)
		}
	}
}

// Whose tokens are live, shared ones included, is known without a look at all of them.
func TestSubjects(t *testing.T) {
	t.Parallel()
	s := new(logical.InmemStorage)
	k := keep(s, 1)
	own := live(t, k, func(u *Token) { u.Subject = "ann" })
	shared := live(t, k, func(u *Token) { u.Subject, u.Shared = "ann", true })
	for _, entity := range []string{"ann", "ben", "ben"} {
		if _, err := k.Tokens.hold(t.Context(), shared, newID(t).String(), entity, start.Add(time.Hour), start); err != nil {
			t.Fatal(err)
		}
	}
	again := keep(s, 1)
	if err := again.Tokens.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, ts := range []*Tokens{k.Tokens, again.Tokens} {
		if got := slices.Sorted(slices.Values(ts.Subjects())); !slices.Equal(got, []string{"ann", "ben"}) {
			t.Error(got)
		}
		if got := ts.OfSubject("ann"); len(got) != 2 {
			t.Error(got)
		}
		if got := ts.OfSubject("ben"); len(got) != 1 || got[0] != shared {
			t.Error(got)
		}
		for _, id := range []token.ID{own, shared} {
			if _, err := ts.Revoke(t.Context(), id, start); err != nil {
				t.Fatal(err)
			}
		}
		if len(ts.Subjects()) != 0 {
			t.Error(ts.Subjects())
		}
		for _, id := range []token.ID{own, shared} {
			if err := ts.Forget(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(ts.all) + len(ts.holds) + len(ts.hashes) + len(ts.shared) + len(ts.connections) + len(ts.roles) + len(ts.subjects); n != 0 {
			t.Errorf("%d entries are left in the indexes", n)
		}
		if ts == k.Tokens { // for the other
			for _, u := range []Token{{ID: own, Subject: "ann"}, {ID: shared, Subject: "ann", Shared: true}} {
				u.State, u.ConnectionID, u.CreatedAt, u.LiveSince, u.EndsAt = Live, "0", start, start, start.Add(time.Hour)
				if err := k.Tokens.announce(t.Context(), u); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// What the queue costs while nothing is due.
func BenchmarkIdleQueue(b *testing.B) {
	k := keep(new(logical.InmemStorage), 20)
	for i := range 100_000 {
		live(b, k, func(u *Token) { u.ConnectionID = fmt.Sprint(i % 20) })
	}
	k.Run(b.Context()) // which completes what was cut short, once
	b.ResetTimer()
	for range b.N {
		k.Run(b.Context())
	}
}

// What one more lease of a token costs that has n.
func BenchmarkHold(b *testing.B) {
	for _, n := range []int{1, 15_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			k := keep(new(logical.InmemStorage), 1)
			id := live(b, k, func(u *Token) { u.Shared = true })
			for i := range n {
				if _, err := k.Tokens.hold(b.Context(), id, fmt.Sprint(i), "", start.Add(time.Hour), start); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			for i := range b.N {
				if _, err := k.Tokens.hold(b.Context(), id, fmt.Sprint(n+i), "", start.Add(time.Hour), start); err != nil {
					b.Fatal(err)
				}
				if err := k.Unhold(b.Context(), id, fmt.Sprint(n+i)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
