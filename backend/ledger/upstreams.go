package ledger

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// UpstreamsPrefix is where Upstreams keeps its tokens in storage. It is to be seal-wrapped: where
// revoking a token takes the token itself, that is kept.
const UpstreamsPrefix = "upstream/"

// The states of a token at an upstream.
const (
	Creating = "creating" // it may exist, under its name: written before the upstream is asked for it
	Live     = "live"     // it exists, and something holds it
	Ending   = "ending"   // nothing holds it any more, and the upstream is to be told
)

// Upstream is a token at an upstream: all that is needed to end it.
type Upstream struct {
	ID           token.ID             `json:"id"`
	State        string               `json:"state"`
	Connection   string               `json:"connection"`
	ConnectionID string               `json:"connection_id"` // new when a connection is deleted and created again
	Role         string               `json:"role,omitzero"`
	RoleID       token.RoleID         `json:"role_id,omitzero"`
	Name         string               `json:"name"`                  // at the upstream
	UpstreamID   string               `json:"upstream_id,omitzero"`  // "" while it is Creating
	Params       map[string]any       `json:"params,omitzero"`       // as they were asked for
	Record       map[string]string    `json:"record,omitzero"`       // what the provider remembers
	Text         string               `json:"text,omitzero"`         // the token; "" where it is not needed
	Hash         string               `json:"hash,omitzero"`         // HashOf it
	StaticRole   string               `json:"static_role,omitzero"`  // that holds it; "": a lease, or nothing
	Leaseless    bool                 `json:"leaseless,omitzero"`    // no lease ends it: EndsAt does
	Shared       bool                 `json:"shared,omitzero"`       // several leases may hold it
	Holds        map[string]time.Time `json:"holds,omitzero"`        // of one that is Shared: what each lease calls itself -> its end
	Data         map[string]any       `json:"data,omitzero"`         // of one that is Shared: what the next requester is told
	CreatedAt    time.Time            `json:"created_at"`            // when it was asked for
	TokenEnd     time.Time            `json:"token_end,omitzero"`    // as the upstream says; zero: it knows none
	EndsAt       time.Time            `json:"ends_at"`               // of its lease, or its own
	EndingSince  time.Time            `json:"ending_since,omitzero"` // when it became Ending
}

// Upstreams are the tokens at upstreams that exist, or may exist.
type Upstreams struct {
	holding sync.Mutex // held while a token that is Shared is changed

	mu     sync.RWMutex
	tokens map[token.ID]*Upstream // not changed once they are here
	hashes map[string]*Upstream   // Hash -> the same
}

// LoadUpstreams reads them from storage.
func LoadUpstreams(ctx context.Context, s logical.Storage) (*Upstreams, error) {
	ids, err := s.List(ctx, UpstreamsPrefix)
	if err != nil {
		return nil, err
	}
	us := &Upstreams{tokens: make(map[token.ID]*Upstream, len(ids)), hashes: make(map[string]*Upstream, len(ids))}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loaders)
	for _, id := range ids {
		group.Go(func() error { return us.Reload(ctx, s, UpstreamsPrefix+id) })
	}
	return us, group.Wait()
}

// Reload reads one token anew, when somebody else has written it. A key that is not a token's is an error.
func (us *Upstreams) Reload(ctx context.Context, s logical.Storage, key string) error {
	id, err := token.ParseID(strings.TrimPrefix(key, UpstreamsPrefix))
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	stored, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	var u *Upstream
	if stored != nil {
		u = new(Upstream)
		if err := json.Unmarshal(stored.Value, u); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	us.show(id, u)
	return nil
}

// show has a token seen as it is now; nil: it is no more.
func (us *Upstreams) show(id token.ID, u *Upstream) {
	us.mu.Lock()
	defer us.mu.Unlock()
	if old := us.tokens[id]; old != nil {
		delete(us.hashes, old.Hash)
	}
	if u == nil {
		delete(us.tokens, id)
		return
	}
	us.tokens[id] = u
	if u.Hash != "" {
		us.hashes[u.Hash] = u
	}
}

// Put writes a token to storage, and shows it once it is written.
func (us *Upstreams) Put(ctx context.Context, s logical.Storage, u Upstream) error {
	value, err := json.Marshal(&u)
	if err != nil {
		return err
	}
	if err := s.Put(ctx, &logical.StorageEntry{Key: UpstreamsPrefix + u.ID.String(), Value: value, SealWrap: true}); err != nil {
		return err
	}
	us.show(u.ID, &u)
	return nil
}

// End makes a token Ending. One that is not known has ended.
func (us *Upstreams) End(ctx context.Context, s logical.Storage, id token.ID, now time.Time) error {
	u, known := us.Get(id)
	if !known || u.State == Ending {
		return nil
	}
	u.State, u.EndingSince = Ending, now
	return us.Put(ctx, s, u)
}

// Delete forgets a token that does not exist any more.
func (us *Upstreams) Delete(ctx context.Context, s logical.Storage, id token.ID) error {
	if err := s.Delete(ctx, UpstreamsPrefix+id.String()); err != nil {
		return err
	}
	us.show(id, nil)
	return nil
}

// Get finds a token.
func (us *Upstreams) Get(id token.ID) (_ Upstream, known bool) {
	us.mu.RLock()
	defer us.mu.RUnlock()
	u := us.tokens[id]
	if u == nil {
		return Upstream{}, false
	}
	return *u, true
}

// HashOf gives what a token can be recognised by, and not be used: tokens are random enough for SHA-256.
func HashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// Known finds a token by itself.
func (us *Upstreams) Known(text string) (_ Upstream, known bool) {
	hash := HashOf(text)
	us.mu.RLock()
	defer us.mu.RUnlock()
	u := us.hashes[hash]
	if u == nil {
		return Upstream{}, false
	}
	return *u, true
}

// Any tells whether a connection has a token for which want says so.
func (us *Upstreams) Any(connectionID string, want func(*Upstream) bool) bool {
	us.mu.RLock()
	defer us.mu.RUnlock()
	for _, u := range us.tokens {
		if u.ConnectionID == connectionID && want(u) {
			return true
		}
	}
	return false
}

// Of gives the tokens of a connection for which keep says so, the oldest first.
func (us *Upstreams) Of(connectionID string, keep func(*Upstream) bool) []Upstream {
	us.mu.RLock()
	defer us.mu.RUnlock()
	var tokens []Upstream
	for _, u := range us.tokens {
		if u.ConnectionID == connectionID && keep(u) {
			tokens = append(tokens, *u)
		}
	}
	slices.SortFunc(tokens, func(a, b Upstream) int {
		return cmp.Or(a.since().Compare(b.since()), a.CreatedAt.Compare(b.CreatedAt))
	})
	return tokens
}

func (u *Upstream) since() time.Time {
	if u.State == Ending {
		return u.EndingSince
	}
	return u.CreatedAt
}

// Without gives the tokens whose connection is not there.
func (us *Upstreams) Without(there func(connectionID string) bool) []Upstream {
	us.mu.RLock()
	defer us.mu.RUnlock()
	var tokens []Upstream
	for _, u := range us.tokens {
		if !there(u.ConnectionID) {
			tokens = append(tokens, *u)
		}
	}
	return tokens
}

// OfRole gives the tokens of a role that exist.
func (us *Upstreams) OfRole(id token.RoleID) []Upstream {
	us.mu.RLock()
	defer us.mu.RUnlock()
	var tokens []Upstream
	for _, u := range us.tokens {
		if u.RoleID == id && u.State == Live {
			tokens = append(tokens, *u)
		}
	}
	return tokens
}

// Young gives the newest token of a role that several leases may hold, exists, was made for these params and
// not before since.
func (us *Upstreams) Young(role token.RoleID, params map[string]any, since time.Time) (_ Upstream, found bool) {
	us.mu.RLock()
	defer us.mu.RUnlock()
	var newest *Upstream
	for _, u := range us.tokens {
		if u.RoleID == role && u.Shared && u.State == Live && !u.CreatedAt.Before(since) && fmt.Sprint(u.Params) == fmt.Sprint(params) &&
			(newest == nil || u.CreatedAt.After(newest.CreatedAt)) {
			newest = u
		}
	}
	if newest == nil {
		return Upstream{}, false
	}
	return *newest, true
}

// Hold adds a lease to a token that is Shared, or moves the end of one; with the zero time it takes the lease
// away. It tells how many are left. Others may hold it at the same time.
func (us *Upstreams) Hold(ctx context.Context, s logical.Storage, id token.ID, lease string, end time.Time) (left int, err error) {
	us.holding.Lock()
	defer us.holding.Unlock()
	u, known := us.Get(id)
	if !known || u.State != Live {
		return 0, ErrEnded
	}
	holds := make(map[string]time.Time, len(u.Holds)+1)
	for other, its := range u.Holds {
		if its.After(time.Now().Add(-time.Hour)) { // what Vault has lost is forgotten
			holds[other] = its
		}
	}
	if end.IsZero() {
		delete(holds, lease)
	} else {
		holds[lease] = end
	}
	if u.Holds, left = holds, len(holds); left == 0 {
		u.State, u.EndingSince = Ending, time.Now().UTC()
		return 0, us.Put(ctx, s, u)
	}
	u.EndsAt = slices.MaxFunc(slices.Collect(maps.Values(holds)), time.Time.Compare)
	return left, us.Put(ctx, s, u)
}

// ErrEnded is returned for a token that exists no more.
var ErrEnded = errors.New("the token is revoked")

// Count tells how many tokens of a connection are in each state; nil where there are none.
func (us *Upstreams) Count(connectionID string) map[string]int {
	us.mu.RLock()
	defer us.mu.RUnlock()
	var count map[string]int
	for _, u := range us.tokens {
		if u.ConnectionID == connectionID {
			if count == nil {
				count = make(map[string]int)
			}
			count[u.State]++
		}
	}
	return count
}
