package backend

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	keysPrefix = "keys/" // seal-wrapped
	ringKey    = keysPrefix + "ring"

	// algorithmGCM names the algorithm of a key as RFC 7518 section 5.1 does.
	algorithmGCM = "A256GCM"

	// maxTokensPerKey is half of what a random 96-bit nonce allows (NIST SP 800-38D section 8.3: 2^32).
	maxTokensPerKey = 1 << 31

	// maxSpentKeys is how many keys are remembered after their secret was deleted.
	maxSpentKeys = 1000
)

// keyring keeps a mount's key ring in storage, and changes it.
type keyring struct {
	now func() time.Time

	// mu is read-held while a token is minted, so that none is made with a key after it was retired, and
	// held while the ring changes.
	mu     sync.RWMutex
	ring   atomic.Pointer[token.Ring]
	minted atomic.Uint64 // tokens made with the current key

	mintedStored uint64 // what storage knows of minted, at most a minute old
}

// storedRing is the storage form.
type storedRing struct {
	Keys   []storedKey `json:"keys"`   // oldest first
	Minted uint64      `json:"minted"` // tokens made with the last key, up to a minute ago
}

type storedKey struct {
	Number          uint32        `json:"number"`
	Algorithm       string        `json:"algorithm"`
	Secret          []byte        `json:"secret,omitempty"`
	CreatedAt       time.Time     `json:"created_at"`
	RetiredAt       time.Time     `json:"retired_at,omitzero"`
	LongestLifetime time.Duration `json:"longest_lifetime"`
}

// keyName is how a key number is shown.
func keyName(number uint32) string { return fmt.Sprintf("%08x", number) }

func loadKeyring(ctx context.Context, s logical.Storage, now func() time.Time) (*keyring, error) {
	k := &keyring{now: now}
	k.ring.Store(new(token.Ring))
	entry, err := s.Get(ctx, ringKey)
	if err != nil || entry == nil {
		return k, err
	}
	var stored storedRing
	if err := entry.DecodeJSON(&stored); err != nil {
		return nil, err
	}
	keys := make([]token.Key, len(stored.Keys))
	for i, sk := range stored.Keys {
		if sk.Algorithm != algorithmGCM {
			return nil, fmt.Errorf("key %s is for %q, which this version of the plugin does not know", keyName(sk.Number), sk.Algorithm)
		}
		keys[i] = token.Key{
			Number: sk.Number, Secret: sk.Secret, CreatedAt: sk.CreatedAt,
			RetiredAt: sk.RetiredAt, LongestLifetime: sk.LongestLifetime,
		}
	}
	ring, err := token.NewRing(keys)
	if err != nil {
		return nil, err
	}
	k.ring.Store(ring)
	k.minted.Store(stored.Minted)
	k.mintedStored = stored.Minted
	return k, nil
}

// store writes keys, and uses them once they are written. The caller holds mu.
func (k *keyring) store(ctx context.Context, s logical.Storage, keys []token.Key, minted uint64) error {
	ring, err := token.NewRing(keys)
	if err != nil {
		return err
	}
	stored := storedRing{Keys: make([]storedKey, len(keys)), Minted: minted}
	for i, key := range keys {
		stored.Keys[i] = storedKey{
			Number: key.Number, Algorithm: algorithmGCM, Secret: key.Secret, CreatedAt: key.CreatedAt,
			RetiredAt: key.RetiredAt, LongestLifetime: key.LongestLifetime,
		}
	}
	entry, err := logical.StorageEntryJSON(ringKey, stored)
	if err != nil {
		return err
	}
	if err := s.Put(ctx, entry); err != nil {
		return err
	}
	k.ring.Store(ring)
	k.mintedStored = minted
	return nil
}

// rotate adds a key, which seals from now on. The caller holds mu.
func (k *keyring) rotate(ctx context.Context, s logical.Storage, now time.Time) error {
	keys := slices.Clone(k.ring.Load().Keys)
	if len(keys) > 0 {
		keys[len(keys)-1].RetiredAt = now
	}
	for {
		key, err := token.NewKey(rand.Reader, now)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(keys, func(old token.Key) bool { return old.Number == key.Number }) {
			continue
		}
		if err := k.store(ctx, s, append(keys, key), 0); err != nil {
			return err
		}
		k.minted.Store(0)
		return nil
	}
}

// Rotate adds a key on demand.
func (k *keyring) Rotate(ctx context.Context, s logical.Storage) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rotate(ctx, s, k.now())
}

// maintain does what is due: deletes the secrets of keys that no live token was made with, notes how
// many tokens the current key has made, and rotates it after period or too many tokens.
func (k *keyring) maintain(ctx context.Context, s logical.Storage, period time.Duration, now time.Time) (rotated bool, _ error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ring.Load().Current() == nil {
		return false, nil
	}

	keys := slices.Clone(k.ring.Load().Keys)
	changed := false
	spent := 0
	for i := range keys {
		if until := keys[i].NeededUntil(); keys[i].Secret != nil && !until.IsZero() && !now.Before(until) {
			keys[i].Secret = nil
			changed = true
		}
		if keys[i].Secret == nil {
			spent++
		}
	}
	if spent > maxSpentKeys {
		keys = keys[spent-maxSpentKeys:]
	}
	minted := k.minted.Load()
	if changed || minted != k.mintedStored {
		if err := k.store(ctx, s, keys, minted); err != nil {
			return false, err
		}
	}

	if age := now.Sub(k.ring.Load().Current().CreatedAt); age < period && minted < maxTokensPerKey {
		return false, nil
	}
	return true, k.rotate(ctx, s, now)
}

// seal calls f, which makes so many tokens with the ring, while nobody changes it. The tokens live for
// lifetime at most, renewals included.
func (k *keyring) seal(ctx context.Context, s logical.Storage, tokens uint64, lifetime time.Duration, f func(*token.Ring) error) error {
	k.mu.RLock()
	for !k.ready(lifetime) {
		k.mu.RUnlock()
		if err := k.prepare(ctx, s, lifetime); err != nil {
			return err
		}
		k.mu.RLock()
	}
	defer k.mu.RUnlock()
	k.minted.Add(tokens)
	return f(k.ring.Load())
}

// ready tells whether there is a key, and storage knows that its tokens live for lifetime.
func (k *keyring) ready(lifetime time.Duration) bool {
	key := k.ring.Load().Current()
	return key != nil && key.LongestLifetime >= lifetime
}

// prepare makes the mount ready for tokens that live for lifetime: with the first key where there is
// none yet, and a note of how long the key will be needed.
func (k *keyring) prepare(ctx context.Context, s logical.Storage, lifetime time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ready(lifetime) {
		return nil
	}
	if k.ring.Load().Current() == nil {
		if err := k.rotate(ctx, s, k.now()); err != nil {
			return err
		}
	}
	keys := slices.Clone(k.ring.Load().Keys)
	keys[len(keys)-1].LongestLifetime = max(keys[len(keys)-1].LongestLifetime, lifetime)
	return k.store(ctx, s, keys, k.minted.Load())
}

// longestLifetime is the longest time that any token lives that one of the keys in use has made.
func (k *keyring) longestLifetime() time.Duration {
	var longest time.Duration
	for _, key := range k.ring.Load().Keys {
		if key.Secret != nil {
			longest = max(longest, key.LongestLifetime)
		}
	}
	return longest
}
