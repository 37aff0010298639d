// Package native issues, refreshes, verifies and revokes the engine's own tokens, and manages the keys of the tokens. It
// does not depend on Vault's paths.
package native

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	// KeysPrefix is where all keys are stored. The mount must seal-wrap the prefix.
	KeysPrefix = "keys/"

	// SealingPrefix is where the sealing keys are stored, destroyed keys included.
	SealingPrefix = KeysPrefix + sealing

	// SigningPrefix is where the signing keys are stored, destroyed keys included.
	SigningPrefix = KeysPrefix + signing

	sealing = "opaque"
	signing = "signing"

	// clockSkew is how much longer than needed a key is kept. Another process may have a slower clock, or use the key
	// for some time after this process has retired it.
	clockSkew = 10 * time.Minute

	// maxExpiredKeys is the number of keys that are listed after their secret was dropped.
	maxExpiredKeys = 1000
)

// A ring is a token.Ring or a token.SigningRing.
type ring interface {
	All() token.Keys
}

// keyring stores and changes the keys of one kind, one storage entry a key. Another process may do the same at any time,
// even a process that has lost leadership. Therefore a change reads the entry first and merges it with memory, and
// nothing is derived from a key's absence in memory. A key retires because a newer key exists, so that no write can
// bring it back. A destroyed key has a second entry, which outweighs the entry with the secret.
type keyring[R ring] struct {
	prefix, destroyed string // of the storage keys
	now               func() time.Time
	build             func([]token.Key) R

	// mu is read-locked while a token is made and locked while the ring changes: this process makes no token with a key
	// that it has retired.
	mu           sync.RWMutex
	ring         atomic.Pointer[R]
	destroyedKey func(name string) // see OnDestroyed

	leftover []string // destroyed keys whose entry with the secret still exists

	// overwritten are the keys whose LongestLifetime another process has overwritten with a shorter one, until repaired.
	overwritten []string
}

func newKeyring[R ring](kind string, now func() time.Time, build func([]token.Key) R) *keyring[R] {
	k := &keyring[R]{
		prefix: KeysPrefix + kind + "/", destroyed: KeysPrefix + kind + "-destroyed/",
		now: now, build: build,
	}
	k.use(nil)
	return k
}

// Ring returns the current ring.
func (k *keyring[R]) Ring() R { return *k.ring.Load() }

// Keys returns the keys of the current ring.
func (k *keyring[R]) Keys() token.Keys { return k.Ring().All() }

// use replaces the ring if the keys have changed. An unchanged ring stays the same object, so that what was made of the
// ring, such as status lists, stays valid. The caller holds mu.
func (k *keyring[R]) use(keys []token.Key) {
	if k.ring.Load() != nil && same(keys, k.Keys()) {
		return
	}
	var before token.Keys
	if k.ring.Load() != nil {
		before = k.Keys()
	}
	next := k.build(keys)
	k.ring.Store(&next)
	for i := range before {
		key := k.Keys().Find(before[i].Name)
		if k.destroyedKey != nil && !before[i].Destroyed && (key == nil || key.Destroyed) {
			k.destroyedKey(before[i].Name)
		}
	}
}

// OnDestroyed has f called with the name of each key that is destroyed or gone, after nobody can use the key any more.
func (k *keyring[R]) OnDestroyed(f func(name string)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.destroyedKey = f
}

func byName(keys token.Keys) map[string]*token.Key {
	named := make(map[string]*token.Key, len(keys))
	for i := range keys {
		named[keys[i].Name] = &keys[i]
	}
	return named
}

// same reports whether keys equals known, in any order.
func same(keys []token.Key, known token.Keys) bool {
	if len(keys) != len(known) {
		return false
	}
	named := byName(known)
	for i := range keys {
		a, b := &keys[i], named[keys[i].Name]
		if b == nil || a.Algorithm != b.Algorithm || !bytes.Equal(a.Secret, b.Secret) || a.Made != b.Made || a.Destroyed != b.Destroyed ||
			!a.CreatedAt.Equal(b.CreatedAt) || !a.UsedFrom.Equal(b.UsedFrom) || a.LongestLifetime != b.LongestLifetime ||
			(a.Broken == nil) != (b.Broken == nil) {
			return false
		}
	}
	return true
}

// errGone is returned for a change of a key that another process has removed.
var errGone = errors.New("the key was removed meanwhile: try again")

// add stores a new key. The caller holds mu.
func (k *keyring[R]) add(ctx context.Context, s logical.Storage, key token.Key) error {
	if err := writeKey(ctx, s, k.prefix, &key); err != nil {
		return err
	}
	k.use(append(slices.Clone(k.Keys()), key))
	return nil
}

// change reads a key from storage, merges it with memory, and stores the change that f makes. It stores nothing if f
// reports no change and the stored key is up to date. The caller holds mu.
func (k *keyring[R]) change(ctx context.Context, s logical.Storage, name string, f func(*token.Key) bool) error {
	stored, err := readKey(ctx, s, k.prefix, name)
	if err != nil {
		return err
	}
	if stored == nil || stored.Broken != nil {
		return errGone
	}
	keys := slices.Clone(k.Keys())
	known := keys.Find(name)
	if known == nil {
		return errGone
	}
	lost := stored.LongestLifetime < known.LongestLifetime // another process has overwritten ours
	stored.LongestLifetime = max(stored.LongestLifetime, known.LongestLifetime)
	stored.RetiredAt = known.RetiredAt
	if changed := f(stored); changed || lost {
		if err := writeKey(ctx, s, k.prefix, stored); err != nil {
			return err
		}
	}
	*known = *stored
	k.use(keys)
	return nil
}

// lives stores that tokens of the current key may live for lifetime. The caller holds mu.
func (k *keyring[R]) lives(ctx context.Context, s logical.Storage, lifetime time.Duration) error {
	current := k.Keys().Current()
	if current == nil || current.LongestLifetime >= lifetime {
		return nil
	}
	return k.change(ctx, s, current.Name, func(key *token.Key) bool {
		changed := key.LongestLifetime < lifetime
		key.LongestLifetime = max(key.LongestLifetime, lifetime)
		return changed
	})
}

// ready reports whether there is a current key, and whether its stored LongestLifetime covers lifetime.
func (k *keyring[R]) ready(lifetime time.Duration) bool {
	current := k.Keys().Current()
	return current != nil && current.LongestLifetime >= lifetime
}

// with calls f with the ring while this process does not change the ring. f makes tokens that live for lifetime at most.
// prepare makes the ring ready for such tokens.
func (k *keyring[R]) with(lifetime time.Duration, prepare func() error, f func(R) error) error {
	k.mu.RLock()
	for !k.ready(lifetime) {
		k.mu.RUnlock()
		if err := prepare(); err != nil {
			return err
		}
		k.mu.RLock()
	}
	defer k.mu.RUnlock()
	return f(k.Ring())
}

// LongestLifetime returns the longest lifetime of the tokens of all keys that still have a secret.
func (k *keyring[R]) LongestLifetime() (longest time.Duration) {
	for _, key := range k.Keys() {
		if key.Secret != nil {
			longest = max(longest, key.LongestLifetime)
		}
	}
	return longest
}

// usableFrom returns the time from which a new key makes tokens. The time is later than the current key's, even if a
// process with a fast clock made the current key.
func (k *keyring[R]) usableFrom(now time.Time) time.Time {
	if current := k.Keys().Current(); current != nil && !now.After(current.UsedFrom) {
		return current.UsedFrom.Add(time.Millisecond)
	}
	return now
}

// drop drops the secrets of keys whose tokens have all expired. It forgets the oldest keys without a secret if there are
// too many. The caller holds mu.
func (k *keyring[R]) drop(ctx context.Context, s logical.Storage, now time.Time) error {
	over := func(key *token.Key) bool {
		until := key.NeededUntil()
		return !until.IsZero() && !now.Before(until.Add(clockSkew))
	}
	for _, key := range k.Keys() {
		if key.State() != "retired" || !over(&key) {
			continue
		}
		err := k.change(ctx, s, key.Name, func(key *token.Key) bool {
			if !over(key) { // another process has made a token that lives longer
				return false
			}
			key.Secret = nil
			return true
		})
		if err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	for _, name := range k.leftover {
		if err := s.Delete(ctx, k.prefix+name); err != nil {
			return err
		}
	}
	var expired []token.Key // oldest first
	for _, key := range k.Keys() {
		if key.State() == "expired" || (key.State() == "destroyed" && over(&key)) {
			expired = append(expired, key)
		}
	}
	for ; len(expired) > maxExpiredKeys; expired = expired[1:] {
		if err := k.forget(ctx, s, &expired[0]); err != nil {
			return err
		}
	}
	return nil
}

// tidy reads the changes of other processes, and drops the secrets of keys that are not needed. It returns the current
// key, or nil if there is none. The caller holds mu.
func (k *keyring[R]) tidy(ctx context.Context, s logical.Storage, now time.Time) (*token.Key, error) {
	if err := k.read(ctx, s, ""); err != nil {
		return nil, err
	}
	for _, name := range k.overwritten {
		if err := k.change(ctx, s, name, func(*token.Key) bool { return false }); err != nil && !errors.Is(err, errGone) {
			return nil, err
		}
	}
	k.overwritten = nil
	if err := k.drop(ctx, s, now); err != nil {
		return nil, err
	}
	return k.Keys().Current(), nil
}

// destroyable reports whether storage holds a key of this name that can be destroyed. The caller holds mu.
func (k *keyring[R]) destroyable(ctx context.Context, s logical.Storage, name string) (bool, error) {
	if err := k.read(ctx, s, ""); err != nil {
		return false, err
	}
	key := k.Keys().Find(name)
	return key != nil && !key.Destroyed && key.State() != "expired", nil
}

// forget removes a key. The caller holds mu.
func (k *keyring[R]) forget(ctx context.Context, s logical.Storage, key *token.Key) error {
	prefix := k.prefix
	if key.Destroyed {
		prefix = k.destroyed
	}
	if err := s.Delete(ctx, prefix+key.Name); err != nil {
		return err
	}
	name := key.Name
	k.use(slices.DeleteFunc(slices.Clone(k.Keys()), func(key token.Key) bool { return key.Name == name }))
	return nil
}

// destroy drops the secret of a key at once and for good. The caller holds mu, and has made another key current.
func (k *keyring[R]) destroy(ctx context.Context, s logical.Storage, name string) error {
	keys := slices.Clone(k.Keys())
	key := keys.Find(name)
	key.Destroyed, key.Secret, key.Broken = true, nil, nil
	if err := writeKey(ctx, s, k.destroyed, key); err != nil {
		return err
	}
	k.use(keys)
	return s.Delete(ctx, k.prefix+name)
}
