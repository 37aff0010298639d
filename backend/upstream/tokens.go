package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/tidwall/btree"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	// Prefix is where tokens are in storage. It is to be seal-wrapped: where revoking a token takes the token
	// itself, that is stored.
	Prefix = "upstream/"

	// HoldsPrefix is where holds are in storage.
	HoldsPrefix = "hold/"

	// loaders is how many entries are read from storage at once.
	loaders = 16

	// stripes is how many locks the tokens share.
	stripes = 256
)

// Tokens are the tokens at services that exist, or may exist. All of them are in memory and in storage; a change is
// in storage before it is seen.
//
// Use it from many goroutines. Looking a token up never waits for storage.
type Tokens struct {
	storage logical.Storage
	timings *Timings
	soon    func(at time.Time) // wakes the queue in time for a token

	// locks serialise the changes of a token. A lock is held while storage is read and written, never while a
	// service is called. Holds of one token do not exclude each other: they take it for reading.
	locks [stripes]sync.RWMutex

	mu      sync.RWMutex
	all     map[token.ID]*item
	holds   map[token.ID]*holds
	busy    map[token.ID]bool // somebody in this process is at work on the token; true: a request that creates it
	hashes  map[string]*item  // by Hash
	damaged map[string]error  // storage keys of what cannot be read
	shared  map[string]*item  // by shareKey: the newest that is Live

	connections map[string]*line // by connection id
	roles       map[token.RoleID]map[token.ID]*item
	subjects    map[string]map[token.ID]int // entity -> its Live tokens -> how often it holds each
}

// item is a token in memory. The Token does not change; the rest does, under Tokens.mu.
type item struct {
	*Token
	at    time.Time // when the queue is to process the token; zero: not before release
	tries int       // of the queue in vain, in this state
	note  error     // what the last try came to

	searched time.Time // when the queue first searched for the token at the service
}

// line is the tokens of one connection.
type line struct {
	all   map[token.ID]*item
	count map[State]int
	queue map[token.ID]*item // those that are Creating or Ending
	due   *btree.BTreeG[dueItem]
}

// dueItem is the place of a token in the schedule of its connection.
type dueItem struct {
	at time.Time
	id token.ID
}

func newTokens(s logical.Storage, timings *Timings, soon func(time.Time)) *Tokens {
	return &Tokens{
		storage: s, timings: timings, soon: soon,
		all: make(map[token.ID]*item), holds: make(map[token.ID]*holds), busy: make(map[token.ID]bool),
		damaged: make(map[string]error), hashes: make(map[string]*item), shared: make(map[string]*item), connections: make(map[string]*line),
		roles: make(map[token.RoleID]map[token.ID]*item), subjects: make(map[string]map[token.ID]int),
	}
}

// lock keeps others from changing a token, until the function that it returns is called.
func (ts *Tokens) lock(id token.ID) (unlock func()) {
	l := &ts.locks[int(id[len(id)-1])%stripes]
	l.Lock()
	return l.Unlock
}

// lockShared keeps others from moving a token on.
func (ts *Tokens) lockShared(id token.ID) (unlock func()) {
	l := &ts.locks[int(id[len(id)-1])%stripes]
	l.RLock()
	return l.RUnlock
}

// read reads a token from storage; nil where there is none.
func (ts *Tokens) read(ctx context.Context, id token.ID) (*Token, error) {
	entry, err := ts.storage.Get(ctx, Prefix+id.String())
	if err != nil || entry == nil {
		return nil, err
	}
	t := new(Token)
	if err := json.Unmarshal(entry.Value, t); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return t, nil
}

// put stores a token, and shows it once it is stored. The caller has locked it.
func (ts *Tokens) put(ctx context.Context, t *Token) error {
	value, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := ts.storage.Put(ctx, &logical.StorageEntry{Key: Prefix + t.ID.String(), Value: value, SealWrap: true}); err != nil {
		return err
	}
	ts.show(t.ID, t)
	return nil
}

// announce stores a token that is to be created.
func (ts *Tokens) announce(ctx context.Context, t Token) error {
	defer ts.lock(t.ID)()
	return ts.put(ctx, &t)
}

// change stores a change of a token that is in a state, and stays there or moves on. The change is based on what
// storage holds: it returns ErrRevoked where another process has moved the token on, or forgotten it.
func (ts *Tokens) change(ctx context.Context, id token.ID, state State, change func(*Token)) (Token, error) {
	defer ts.lock(id)()
	if t, known := ts.Get(id); known && t.State != state {
		return Token{}, ErrRevoked
	}
	t, err := ts.reread(ctx, id)
	if err == nil && t.State != state {
		err = ErrRevoked
	}
	if err != nil {
		return Token{}, err
	}
	change(&t)
	return t, ts.put(ctx, &t)
}

// reread reads a token from storage again, where another process may have changed it. It returns ErrRevoked where there
// is none. The caller has locked it.
func (ts *Tokens) reread(ctx context.Context, id token.ID) (Token, error) {
	t, err := ts.read(ctx, id)
	if errors.Is(err, errDamaged) {
		ts.damage(Prefix+id.String(), err)
	}
	if err != nil {
		return Token{}, err
	}
	ts.show(id, t)
	if t == nil {
		return Token{}, ErrRevoked
	}
	return *t, nil
}

// recall returns a token from memory, or from storage where another process has made it. It returns ErrRevoked where
// there is none. The caller has locked it.
func (ts *Tokens) recall(ctx context.Context, id token.ID) (Token, error) {
	if t, known := ts.Get(id); known {
		return t, nil
	}
	return ts.reread(ctx, id)
}

// Find finds a token in memory, or else in storage, where another process may have put it.
func (ts *Tokens) Find(ctx context.Context, id token.ID) (_ Token, known bool, _ error) {
	defer ts.lock(id)()
	t, err := ts.recall(ctx, id)
	if errors.Is(err, ErrRevoked) {
		return Token{}, false, nil
	}
	return t, err == nil, err
}

// Revoke moves a token to Ending, and returns the token. Ending is right whatever has become of a known token, so that
// storage is asked only for an unknown token. Revoke returns ErrRevoked if there is no token.
func (ts *Tokens) Revoke(ctx context.Context, id token.ID, now time.Time) (Token, error) {
	defer ts.lock(id)()
	t, err := ts.recall(ctx, id)
	if err != nil || t.State != Live {
		return t, err
	}
	return ts.revoke(ctx, t, now)
}

// revokeIf revokes a token if over is true of what storage holds of the token and of its holds: another process may have
// renewed the token, or given it to another requester. revokeIf returns any other token as it is.
func (ts *Tokens) revokeIf(ctx context.Context, id token.ID, now time.Time, over func(*Token) bool) (Token, error) {
	defer ts.lock(id)()
	if t, known := ts.Get(id); known && (t.State != Live || !over(&t)) {
		return t, nil
	}
	t, err := ts.reread(ctx, id)
	if err == nil && t.Shared && t.State == Live {
		err = ts.rereadHolds(ctx, id, now)
	}
	if err != nil || t.State != Live || !over(&t) {
		return t, err
	}
	return ts.revoke(ctx, t, now)
}

// revoke stores that a token is Ending. The caller has locked it.
func (ts *Tokens) revoke(ctx context.Context, t Token, now time.Time) (Token, error) {
	t.State, t.EndingSince = Ending, now.UTC()
	return t, ts.put(ctx, &t)
}

// abandon stores a token that was minted and that nobody gets, to be revoked.
func (ts *Tokens) abandon(ctx context.Context, t Token, now time.Time) error {
	defer ts.lock(t.ID)()
	_, err := ts.revoke(ctx, t, now)
	return err
}

// Forget drops a token that does not exist any more, with its holds.
func (ts *Tokens) Forget(ctx context.Context, id token.ID) error {
	defer ts.lock(id)()
	if err := ts.dropHolds(ctx, id); err != nil {
		return err
	}
	if err := ts.storage.Delete(ctx, Prefix+id.String()); err != nil {
		return err
	}
	ts.show(id, nil)
	return nil
}

// Get finds a token.
func (ts *Tokens) Get(id token.ID) (_ Token, known bool) {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return copyOf(ts.all[id])
}

// Known finds a token by itself.
func (ts *Tokens) Known(text string) (_ Token, known bool) {
	hash := HashOf(text)
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return copyOf(ts.hashes[hash])
}

func copyOf(i *item) (Token, bool) {
	if i == nil {
		return Token{}, false
	}
	return *i.Token, true
}

// young finds the newest token that can be given for a shareKey, was made not before since, and is good until end
// at least.
func (ts *Tokens) young(key string, since, end time.Time) (_ Token, found bool) {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	i := ts.shared[key]
	if i == nil || i.CreatedAt.Before(since) || !i.capped(end).Equal(end) {
		return Token{}, false
	}
	return *i.Token, true
}

// OfConnection returns the tokens of a connection, in no order.
func (ts *Tokens) OfConnection(id string) []Token {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	if l := ts.connections[id]; l != nil {
		return copies(maps.Values(l.all), func(*Token) bool { return true })
	}
	return nil
}

// Count returns how many tokens of a connection are in a state.
func (ts *Tokens) Count(connectionID string, state State) int {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	if l := ts.connections[connectionID]; l != nil {
		return l.count[state]
	}
	return 0
}

// OfRole returns the tokens of a role that are Live, in no order.
func (ts *Tokens) OfRole(id token.RoleID) []Token {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return copies(maps.Values(ts.roles[id]), func(t *Token) bool { return t.State == Live })
}

// OfSubject returns the ids of the Live tokens that an entity has asked for, shared ones included.
func (ts *Tokens) OfSubject(entity string) []token.ID {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	ids := make([]token.ID, 0, len(ts.subjects[entity]))
	for id := range ts.subjects[entity] {
		ids = append(ids, id)
	}
	return ids
}

// Subjects returns the entities that have Live tokens.
func (ts *Tokens) Subjects() []string {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	entities := make([]string, 0, len(ts.subjects))
	for entity := range ts.subjects {
		entities = append(entities, entity)
	}
	return entities
}

// Where returns the tokens that keep selects. Where reads all tokens.
func (ts *Tokens) Where(keep func(*Token) bool) []Token {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return copies(maps.Values(ts.all), keep)
}

func copies(items iter.Seq[*item], keep func(*Token) bool) []Token {
	var tokens []Token
	for i := range items {
		if keep(i.Token) {
			tokens = append(tokens, *i.Token)
		}
	}
	return tokens
}
