package backend

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const signersKey = keysPrefix + "signing"

// signers keeps a mount's signing keys in storage, and changes them. There are none until the first role
// of JWTs is written.
type signers struct {
	now func() time.Time

	// mu is read-held while a token is signed, so that none is made with a key after it was retired, and
	// held while the ring changes.
	mu   sync.RWMutex
	ring atomic.Pointer[token.SigningRing]
}

// storedSigningKey is the storage form; the ring is a list of these, oldest first.
type storedSigningKey struct {
	ID              string        `json:"id"`
	Algorithm       string        `json:"algorithm"`
	Private         []byte        `json:"private,omitempty"`
	PublishedAt     time.Time     `json:"published_at"`
	SignsFrom       time.Time     `json:"signs_from,omitzero"`
	RetiredAt       time.Time     `json:"retired_at,omitzero"`
	LongestLifetime time.Duration `json:"longest_lifetime"`
}

func loadSigners(ctx context.Context, s logical.Storage, now func() time.Time) (*signers, error) {
	k := &signers{now: now}
	k.ring.Store(new(token.SigningRing))
	entry, err := s.Get(ctx, signersKey)
	if err != nil || entry == nil {
		return k, err
	}
	var stored []storedSigningKey
	if err := entry.DecodeJSON(&stored); err != nil {
		return nil, err
	}
	keys := make([]token.SigningKey, len(stored))
	for i, sk := range stored {
		keys[i] = token.SigningKey(sk)
	}
	ring, err := token.NewSigningRing(keys)
	if err != nil {
		return nil, err
	}
	k.ring.Store(ring)
	return k, nil
}

// store writes keys, and uses them once they are written. The caller holds mu.
func (k *signers) store(ctx context.Context, s logical.Storage, keys []token.SigningKey) error {
	ring, err := token.NewSigningRing(keys)
	if err != nil {
		return err
	}
	stored := make([]storedSigningKey, len(keys))
	for i, key := range keys {
		stored[i] = storedSigningKey(key)
	}
	entry, err := logical.StorageEntryJSON(signersKey, stored)
	if err != nil {
		return err
	}
	if err := s.Put(ctx, entry); err != nil {
		return err
	}
	k.ring.Store(ring)
	return nil
}

// prepare makes the first keys where there are none, and notes that tokens live for lifetime.
func (k *signers) prepare(ctx context.Context, s logical.Storage, algorithm string, lifetime time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys := slices.Clone(k.ring.Load().Keys)
	now := k.now()
	if len(keys) == 0 {
		for range 2 {
			key, err := token.NewSigningKey(algorithm, now)
			if err != nil {
				return err
			}
			keys = append(keys, key)
		}
		keys[0].SignsFrom = now
	}
	current := &keys[len(keys)-2]
	if current.LongestLifetime >= lifetime && len(keys) == len(k.ring.Load().Keys) {
		return nil
	}
	current.LongestLifetime = max(current.LongestLifetime, lifetime)
	return k.store(ctx, s, keys)
}

// sign calls f with the ring while nobody changes it. What f signs lives for lifetime at most.
func (k *signers) sign(ctx context.Context, s logical.Storage, algorithm string, lifetime time.Duration, f func(*token.SigningRing) error) error {
	k.mu.RLock()
	for {
		if current := k.ring.Load().Current(); current != nil && current.LongestLifetime >= lifetime {
			break
		}
		k.mu.RUnlock()
		if err := k.prepare(ctx, s, algorithm, lifetime); err != nil {
			return err
		}
		k.mu.RLock()
	}
	defer k.mu.RUnlock()
	return f(k.ring.Load())
}

// successorReady tells when the successor has been published for so long that every verifier knows it.
func (k *signers) successorReady(maxAge time.Duration) time.Time {
	return k.ring.Load().Successor().PublishedAt.Add(maxAge)
}

// rotate has the successor sign, and publishes the one after it. The caller holds mu.
func (k *signers) rotate(ctx context.Context, s logical.Storage, algorithm string, now time.Time) error {
	keys := slices.Clone(k.ring.Load().Keys)
	next, err := token.NewSigningKey(algorithm, now)
	if err != nil {
		return err
	}
	keys[len(keys)-2].RetiredAt = now
	keys[len(keys)-1].SignsFrom = now
	return k.store(ctx, s, append(keys, next))
}

// Rotate rotates on demand. It does nothing where there are no keys, and refuses while verifiers may not
// know the successor.
func (k *signers) Rotate(ctx context.Context, s logical.Storage, c *config) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if k.ring.Load().Current() == nil {
		return nil
	}
	if ready := k.successorReady(c.JWKSMaxAge); now.Before(ready) {
		return logical.CodedError(http.StatusBadRequest, fmt.Sprintf("the next signing key has been published too recently for every API server to know it: rotate again after %s", ready.UTC().Format(time.RFC3339)))
	}
	return k.rotate(ctx, s, c.SigningAlgorithm, now)
}

// maintain does what is due: drops the private keys that no live token was signed with, publishes a
// successor of the algorithm that is set, and rotates after the period or a change of the algorithm.
func (k *signers) maintain(ctx context.Context, s logical.Storage, c *config, now time.Time) (rotated bool, _ error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ring.Load().Current() == nil {
		return false, nil
	}
	keys := slices.Clone(k.ring.Load().Keys)
	changed := false
	spent := 0
	for i := range keys {
		if until := keys[i].NeededUntil(); keys[i].Private != nil && !until.IsZero() && !now.Before(until) {
			keys[i].Private = nil
			changed = true
		}
		if keys[i].Private == nil {
			spent++
		}
	}
	if spent > maxSpentKeys {
		keys = keys[spent-maxSpentKeys:]
	}
	if successor := &keys[len(keys)-1]; successor.Algorithm != c.SigningAlgorithm {
		next, err := token.NewSigningKey(c.SigningAlgorithm, now)
		if err != nil {
			return false, err
		}
		*successor = next
		changed = true
	}
	if changed {
		if err := k.store(ctx, s, keys); err != nil {
			return false, err
		}
	}
	current := k.ring.Load().Current()
	due := now.Sub(current.SignsFrom) >= c.KeyRotationPeriod || current.Algorithm != c.SigningAlgorithm
	if !due || now.Before(k.successorReady(c.JWKSMaxAge)) {
		return false, nil
	}
	return true, k.rotate(ctx, s, c.SigningAlgorithm, now)
}

// longestLifetime is the longest time that any token lives that one of the keys in use has signed.
func (k *signers) longestLifetime() time.Duration {
	var longest time.Duration
	for _, key := range k.ring.Load().Keys {
		if key.Private != nil {
			longest = max(longest, key.LongestLifetime)
		}
	}
	return longest
}
