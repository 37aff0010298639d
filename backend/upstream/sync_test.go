package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// readsOf counts the reads of tokens.
type readsOf struct {
	logical.InmemStorage
	tokens atomic.Int64
}

func (s *readsOf) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if strings.HasPrefix(key, Prefix) {
		s.tokens.Add(1)
	}
	return s.InmemStorage.Get(ctx, key)
}

// Only a deletion with force leaves the token of a replaced process behind.
func TestABrokenConnectionIsNotDeletedWhileAnotherProcessHasATokenOfIt(t *testing.T) {
	s := new(logical.InmemStorage)
	k, replaced := keep(s, 0), keep(s, 0)
	c := k.connect(s, "0")
	replaced.connect(s, "0")
	live(t, replaced, func(u *Token) { u.Connection = "0"; u.ConnectionID = c.ID })
	if err := s.Put(t.Context(), &logical.StorageEntry{Key: ConnectionsPrefix + "0", Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	if err := k.Connections.ReloadAll(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if k.Connections.Broken("0") == nil {
		t.Fatal("the connection is not broken")
	}
	if w, err := k.DeleteConnection(t.Context(), s, Deletion{Name: "0"}); err == nil {
		t.Errorf("deleted without force, warnings %v: the token of the replaced process is left behind", w)
	}
}

// The time between a revocation at a replaced node and its reading is at most 15 minutes.
func TestFifteenMinutes(t *testing.T) {
	k, replaced := pair(t)
	now := start
	k.now = func() time.Time { return now }
	run := func() time.Duration {
		wait := k.Run(t.Context())
		k.Wait()
		return wait
	}
	id := live(t, k, func(u *Token) { u.EndsAt = start.Add(24 * time.Hour); u.ID[len(u.ID)-1] = 0 }) // in part 0: the third call
	replaced.load(t)
	run()
	if _, err := replaced.Tokens.Revoke(t.Context(), id, now); err != nil {
		t.Fatal(err)
	}
	// Something wakes the queue one second before each Sync is due.
	last := now
	for now.Sub(start) < time.Hour {
		if u, _ := k.Tokens.Get(id); u.State == Ending {
			break
		}
		wait := run()
		if k.queue.synced.Equal(now) {
			last = now
		}
		if wake := last.Add(k.Timings.Sync - time.Second); now.Before(wake) && now.Add(wait).After(wake) {
			now = wake
		} else {
			now = now.Add(wait)
		}
	}
	if d := now.Sub(start); d > 15*time.Minute+time.Second {
		t.Errorf("the revocation was known after %s", d)
	}
}

type withRoles struct {
	quiet
	roles *role.Store
}

func (m withRoles) Roles() *role.Store { return m.roles }

func noRoles(t *testing.T) *role.Store {
	t.Helper()
	roles, err := role.Load(t.Context(), new(logical.InmemStorage))
	if err != nil {
		t.Fatal(err)
	}
	return roles
}

// A deletion reads only what may concern the connection.
func TestADeletionReadsNoTokensOfOtherConnections(t *testing.T) {
	s := new(readsOf)
	k := keep(s, 2)
	k.mount = withRoles{quiet{}, noRoles(t)}
	const many = 3000
	for range many {
		live(t, k, nil)
	}
	s.tokens.Store(0)
	if _, err := k.DeleteConnection(t.Context(), s, Deletion{Name: "0"}); err == nil {
		t.Fatal("deleted")
	}
	if n := s.tokens.Load(); n > 0 {
		t.Errorf("a refused deletion has read %d of %d known tokens", n, many)
	}
	s.tokens.Store(0)
	if _, err := k.DeleteConnection(t.Context(), new(logical.InmemStorage), Deletion{Name: "1"}); err != nil {
		t.Fatal(err)
	}
	if n := s.tokens.Load(); n > 0 {
		t.Errorf("the deletion of a connection without tokens has read %d of %d tokens of another connection", n, many)
	}
}

// A damaged entry stops no search for other tokens.
func TestADamagedEntryStopsNoSearchForOtherTokens(t *testing.T) {
	s := new(logical.InmemStorage)
	k := keep(s, 1)
	var lost []Token
	for i := range 3 {
		u := Token{ID: newID(t), State: Creating, ConnectionID: "0", Name: fmt.Sprint(i), CreatedAt: start, EndsAt: start.Add(time.Hour)}
		if err := k.Tokens.announce(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		lost = append(lost, u)
	}
	if err := s.Put(t.Context(), &logical.StorageEntry{Key: Prefix + lost[0].ID.String(), Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	r := &run{Keeper: k, c: k.connect(new(logical.InmemStorage), "0"), turn: make(chan struct{}, 1)}
	r.c.Broken = errors.New("the service is called")
	for range 3 {
		_ = r.search(t.Context(), lost)
	}
	for _, u := range lost[1:] {
		if state := k.stateOf(t, u.ID); state != Lost {
			t.Errorf("token %s is %s: the damaged entry of token 0 stops the search", u.Name, state)
		}
	}
}

// A shared token whose leases were revoked did not expire before that.
func TestExpiresAtOfAnEndingSharedToken(t *testing.T) {
	k := keep(new(logical.InmemStorage), 1)
	id := live(t, k, func(u *Token) { u.Shared = true })
	k.holdFor(t, id, "a", time.Hour)
	k.now = func() time.Time { return start.Add(30 * time.Minute) }
	if err := k.Unhold(t.Context(), id, "a"); err != nil {
		t.Fatal(err)
	}
	u, _ := k.Tokens.Get(id)
	if end := k.Tokens.ExpiresAt(&u); u.State != Ending || end.Before(k.now()) {
		t.Errorf("%s, live for 30m, and expired %s after its creation", u.State, end.Sub(start))
	}
}

// The process that creates a token finds the token Lost, and stores it as Ending with its ID at the service, since the
// service refuses the revocation. The active process reads the ID.
func TestALostTokenThatItsCreatorHasQueued(t *testing.T) {
	k, replaced := pair(t)
	u := Token{ID: newID(t), State: Creating, ConnectionID: "0", Name: "x", CreatedAt: start, EndsAt: start.Add(24 * time.Hour)}
	if err := replaced.Tokens.announce(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	k.load(t)
	if _, err := k.Tokens.lose(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	// mint.go: change finds the token Lost, and giveUp abandons the token.
	if _, err := replaced.Tokens.change(t.Context(), u.ID, Creating, func(*Token) {}); !errors.Is(err, ErrRevoked) {
		t.Fatal(err)
	}
	u.UpstreamID = "17"
	if err := replaced.Tokens.abandon(t.Context(), u, start); err != nil {
		t.Fatal(err)
	}
	for part := range syncParts {
		if err := k.Tokens.syncPart(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	if known, _ := k.Tokens.Get(u.ID); known.State != Ending || known.UpstreamID != "17" {
		t.Errorf("storage knows the token as %s, the active process as %s with ID %q", k.stateOf(t, u.ID), known.State, known.UpstreamID)
	}
}

// A token may become Live in another process while this process knows the token as Creating, or does not know the token.
func TestDiscover(t *testing.T) {
	k, other := pair(t)
	created := live(t, other, func(u *Token) { u.State = Creating })
	k.load(t)
	if _, err := other.Tokens.change(t.Context(), created, Creating, func(u *Token) { u.State, u.Hash = Live, HashOf("created") }); err != nil {
		t.Fatal(err)
	}
	issued := live(t, other, func(u *Token) { u.Hash = HashOf("issued") })
	for text, id := range map[string]token.ID{"created": created, "issued": issued} {
		if u, known, err := k.Tokens.Discover(t.Context(), text); err != nil || !known || u.ID != id {
			t.Error(text, u.ID, known, err)
		}
	}
	if _, known, err := k.Tokens.Discover(t.Context(), "nobody's"); known || err != nil {
		t.Error("a text of nobody:", known, err)
	}
}

// A token that another process has made Live since this process read it as Creating is revoked and changed as a Live token.
func TestAChangeOfATokenThatAnotherProcessHasCompleted(t *testing.T) {
	k, other := pair(t)
	for what, change := range map[string]func(token.ID) error{
		"revoke": func(id token.ID) error { _, err := k.Tokens.Revoke(t.Context(), id, start); return err },
		"change": func(id token.ID) error {
			_, err := k.Tokens.change(t.Context(), id, Live, func(u *Token) { u.State = Ending })
			return err
		},
	} {
		created := live(t, other, func(u *Token) { u.State = Creating })
		k.load(t)
		if _, err := other.Tokens.change(t.Context(), created, Creating, func(u *Token) { u.State = Live }); err != nil {
			t.Fatal(err)
		}
		if err := change(created); err != nil || k.stateOf(t, created) != Ending {
			t.Errorf("%s: %v, and the token is %s", what, err, k.stateOf(t, created))
		}
	}
}

// A text that is no token costs one listing, whatever storage holds.
func TestDiscoverReadsOnlyWhatMemoryLacks(t *testing.T) {
	s := new(readsOf)
	k := keep(s, 1)
	for range 100 {
		live(t, k, nil)
	}
	mine := newID(t)
	k.Tokens.claimNew(mine)
	live(t, k, func(u *Token) { u.ID, u.State = mine, Creating })
	if err := s.Put(t.Context(), &logical.StorageEntry{Key: Prefix + newID(t).String(), Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	k.load(t)
	s.tokens.Store(0)
	if _, known, err := k.Tokens.Discover(t.Context(), "nobody's"); known || err != nil {
		t.Error(known, err)
	}
	if n := s.tokens.Load(); n != 0 {
		t.Errorf("%d reads", n)
	}
}

// A credential that a rotation may have made is searched for while its call may arrive and the service may list it late.
func TestTooEarly(t *testing.T) {
	k, _ := pair(t)
	client, err := connector.NewClient(connector.ClientConfig{URL: "https://service.example.com", Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	c := k.connect(k.storage, "0")
	c.Service = &connector.Service{Client: client}
	k.Timings.Settle = time.Minute
	for _, at := range []struct {
		after time.Duration
		early bool
	}{{0, true}, {79 * time.Second, true}, {80 * time.Second, false}} {
		k.now = func() time.Time { return start.Add(at.after) }
		if got := k.tooEarly(c, &PendingRoot{Name: "n"}); got != at.early {
			t.Errorf("after %s: %v", at.after, got)
		}
	}
}
