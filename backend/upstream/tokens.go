package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/tidwall/btree"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	// Prefix is where tokens are stored. The mount must seal-wrap the prefix: if revoking a token needs the token's
	// text, the entry contains the text.
	Prefix = "upstream/"

	// HoldsPrefix is where holds are stored.
	HoldsPrefix = "hold/"

	// stripes is the number of locks that the tokens share.
	stripes = 256
)

// Tokens holds all tokens that exist, or may exist, at the services. All tokens are in memory and in storage. A change is
// stored before memory shows the change.
//
// Tokens is safe for concurrent use. Get and Known never wait for storage.
type Tokens struct {
	storage logical.Storage
	timings *Timings
	soon    func(at time.Time) // wakes the queue for a token that is due at a time

	// locks serialize the changes of a token. A lock is held while storage is read and written, never while a
	// service is called. Changes of holds take a read lock, so that they do not wait for each other.
	locks [stripes]sync.RWMutex

	damaged store.Damage

	mu     sync.RWMutex
	all    map[token.ID]*item
	holds  map[token.ID]*holds
	busy   map[token.ID]bool // claimed tokens; true while a request creates the token
	hashes map[string]*item  // by Hash
	shared map[string]*item  // by shareKey: the newest Live token

	connections map[string]*line // by connection ID
	roles       map[token.RoleID]map[token.ID]*item
	subjects    map[string]map[token.ID]int // entity -> its Live tokens -> number of its holds
}

// item is a token in memory. The Token is immutable; Tokens.mu guards the other fields.
type item struct {
	*Token
	at    time.Time // when the queue processes the token; zero while the token is claimed
	tries int       // failed tries of the queue in this state
	note  error     // error of the last try

	searched time.Time // when the queue first searched for the token at the service
}

// line holds the tokens of one connection.
type line struct {
	all   map[token.ID]*item
	count map[State]int
	queue map[token.ID]*item // the tokens that are not Live
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
		hashes: make(map[string]*item), shared: make(map[string]*item), connections: make(map[string]*line),
		roles: make(map[token.RoleID]map[token.ID]*item), subjects: make(map[string]map[token.ID]int),
	}
}

// lock locks a token against other changes until unlock is called.
func (ts *Tokens) lock(id token.ID) (unlock func()) {
	l := &ts.locks[int(id[len(id)-1])%stripes]
	l.Lock()
	return l.Unlock
}

// lockShared locks a token against a change of its state until unlock is called.
func (ts *Tokens) lockShared(id token.ID) (unlock func()) {
	l := &ts.locks[int(id[len(id)-1])%stripes]
	l.RLock()
	return l.RUnlock
}

// read returns a token from storage. It returns nil if there is none.
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

// put stores a token, then puts the token into memory. The caller has locked the token.
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

// announce stores a token that is about to be created.
func (ts *Tokens) announce(ctx context.Context, t Token) error {
	defer ts.lock(t.ID)()
	return ts.put(ctx, &t)
}

// change changes and stores a token that is in a state. The change is based on the stored token. change returns
// ErrRevoked if the token is no longer in that state, or is gone.
func (ts *Tokens) change(ctx context.Context, id token.ID, state State, change func(*Token)) (Token, error) {
	defer ts.lock(id)()
	if t, known := ts.Get(id); known && t.State != state && t.State != Creating {
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

// reread reads a token from storage again, since another process may have changed the token. It returns ErrRevoked if
// there is none. The caller has locked the token.
func (ts *Tokens) reread(ctx context.Context, id token.ID) (Token, error) {
	t, err := ts.read(ctx, id)
	if errors.Is(err, errDamaged) {
		ts.damaged.NoteDamage(Prefix+id.String(), err)
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

// recall returns a token from memory. It reads an unknown token from storage, and a token that memory has as Creating: another
// process may have created the token. It returns ErrRevoked if there is none. The caller has locked the token.
func (ts *Tokens) recall(ctx context.Context, id token.ID) (Token, error) {
	if t, known := ts.Get(id); known && t.State != Creating {
		return t, nil
	}
	return ts.reread(ctx, id)
}

// Find returns a token from memory, or else from storage, where another process may have put the token.
func (ts *Tokens) Find(ctx context.Context, id token.ID) (_ Token, known bool, _ error) {
	defer ts.lock(id)()
	t, err := ts.recall(ctx, id)
	if errors.Is(err, ErrRevoked) {
		return Token{}, false, nil
	}
	return t, err == nil, err
}

// Revoke moves a token to Ending, and returns the token. It reads storage only as recall does: Ending is right whatever another
// process did to any other token. It returns ErrRevoked if there is no token.
func (ts *Tokens) Revoke(ctx context.Context, id token.ID, now time.Time) (Token, error) {
	defer ts.lock(id)()
	t, err := ts.recall(ctx, id)
	if err != nil || t.State != Live {
		return t, err
	}
	return ts.revoke(ctx, t, now)
}

// revokeIf revokes a token if over is true after the token and its holds were read from storage again: another process
// may have renewed the token or added a hold. Otherwise revokeIf returns the token unchanged.
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

// revoke stores that a token is Ending. The caller has locked the token.
func (ts *Tokens) revoke(ctx context.Context, t Token, now time.Time) (Token, error) {
	t.State, t.EndingSince = Ending, now.UTC()
	return t, ts.put(ctx, &t)
}

// abandon stores an undelivered token as Ending.
func (ts *Tokens) abandon(ctx context.Context, t Token, now time.Time) error {
	defer ts.lock(t.ID)()
	_, err := ts.revoke(ctx, t, now)
	return err
}

// lose moves a token from Creating to Lost, and returns the token. A process that may no longer write gets an error: the
// active node may be creating the token. If the creation succeeds all the same, its process finds that the token is Lost.
// lose returns ErrRevoked if the token is neither Creating nor Lost.
func (ts *Tokens) lose(ctx context.Context, t Token) (Token, error) {
	if t.State == Lost {
		return t, nil
	}
	return ts.change(ctx, t.ID, Creating, func(t *Token) { t.State = Lost })
}

// Forget deletes a token that no longer exists at its service, and its holds.
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

// Get returns a token from memory.
func (ts *Tokens) Get(id token.ID) (_ Token, known bool) {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return copyOf(ts.all[id])
}

// Known returns the token with the given text from memory.
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

// young returns the newest Live token of a shareKey. It returns false if the token was created before since or expires
// before end.
func (ts *Tokens) young(key string, since, end time.Time) (_ Token, found bool) {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	i := ts.shared[key]
	if i == nil || i.CreatedAt.Before(since) || !i.capped(end).Equal(end) {
		return Token{}, false
	}
	return *i.Token, true
}
