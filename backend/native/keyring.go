// Package native keeps the keys of the engine's own tokens. It takes storage and a clock, and knows nothing of Vault's
// paths.
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
	// KeysPrefix is where all keys are in storage; it is to be seal-wrapped.
	KeysPrefix = "keys/"

	// SealingPrefix begins the storage keys of all sealing keys, the destroyed keys included.
	SealingPrefix = KeysPrefix + sealing

	// SigningPrefix begins the storage keys of all signing keys, the destroyed keys included.
	SigningPrefix = KeysPrefix + signing

	sealing = "opaque"
	signing = "signing"

	// clockSkew is how much longer than needed a key is kept: for a process whose clock is slower, and for one that
	// goes on with a key for some time after another process has retired it.
	clockSkew = 10 * time.Minute

	// maxExpiredKeys is how many keys are remembered after their secret was dropped.
	maxExpiredKeys = 1000

	// readers is how many keys are read from storage at once.
	readers = 16
)

// A ring is a token.Ring or a token.SigningRing.
type ring interface {
	All() token.Keys
}

// keyring keeps the keys of one kind in storage, an entry a key, and changes them. Another process may do the same
// at any time, also one that should not any more: therefore the entry of a key is read before it is written, what
// it says is joined with what is known, and nothing is ever derived from a key's absence in memory. A key retires
// because a newer one is there, so it cannot be brought back; a destroyed one has an entry of its own that says so,
// which outweighs the key's.
type keyring[R ring] struct {
	prefix, destroyed string // of the storage keys
	now               func() time.Time
	build             func([]token.Key) R

	// mu is read-held while a token is made, so that none is made with a key after it was retired here, and held
	// while the ring changes.
	mu       sync.RWMutex
	ring     atomic.Pointer[R]
	leftover []string // keys that were destroyed and have an entry
}

func newKeyring[R ring](kind string, now func() time.Time, build func([]token.Key) R) *keyring[R] {
	k := &keyring[R]{
		prefix: KeysPrefix + kind + "/", destroyed: KeysPrefix + kind + "-destroyed/",
		now: now, build: build,
	}
	k.use(nil)
	return k
}

// Ring is the ring as it is now.
func (k *keyring[R]) Ring() R { return *k.ring.Load() }

// Keys are the keys of the ring as they are now.
func (k *keyring[R]) Keys() token.Keys { return k.Ring().All() }

// use has keys used. The ring stays the same where nothing has changed, and with it what was made of it, such as
// status lists. The caller holds mu.
func (k *keyring[R]) use(keys []token.Key) {
	if k.ring.Load() != nil && same(keys, k.Keys()) {
		return
	}
	next := k.build(keys)
	k.ring.Store(&next)
}

// same reports whether keys are those that are known, in any order.
func same(keys []token.Key, known token.Keys) bool {
	if len(keys) != len(known) {
		return false
	}
	named := make(map[string]*token.Key, len(known))
	for i := range known {
		named[known[i].Name] = &known[i]
	}
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

// Prefix is where the ring keeps its keys in storage.
func (k *keyring[R]) Prefix() string { return k.prefix }

// errGone is returned for a change of a key that another process has removed.
var errGone = errors.New("the key was removed meanwhile: try again")

// add stores a key that is new. The caller holds mu.
func (k *keyring[R]) add(ctx context.Context, s logical.Storage, key token.Key) error {
	if err := writeKey(ctx, s, k.prefix, &key); err != nil {
		return err
	}
	k.use(append(slices.Clone(k.Keys()), key))
	return nil
}

// change stores a change of a key to what storage holds of it, joined with what is known. Nothing is stored where
// f reports no change and storage knows all. The caller holds mu.
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
	lost := stored.LongestLifetime < known.LongestLifetime // by a process that wrote at the same time
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

// lives notes that what is made with the current key lives for lifetime. The caller holds mu.
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

// ready reports whether there is a key to make tokens with, and storage knows that they live for lifetime.
func (k *keyring[R]) ready(lifetime time.Duration) bool {
	current := k.Keys().Current()
	return current != nil && current.LongestLifetime >= lifetime
}

// with calls f, which makes tokens with the ring, while nobody changes it here. prepare makes the ring ready for them.
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

// LongestLifetime is the longest time that anything lives that one of the keys in use has made.
func (k *keyring[R]) LongestLifetime() (longest time.Duration) {
	for _, key := range k.Keys() {
		if key.Secret != nil {
			longest = max(longest, key.LongestLifetime)
		}
	}
	return longest
}

// usableFrom is the time from which a new key makes tokens: now, and after the one that does, whose process may
// have had a faster clock.
func (k *keyring[R]) usableFrom(now time.Time) time.Time {
	if current := k.Keys().Current(); current != nil && !now.After(current.UsedFrom) {
		return current.UsedFrom.Add(time.Millisecond)
	}
	return now
}

// drop drops the secrets of keys with which nothing valid can have been made any more, and forgets the oldest of
// the keys without a secret where there are too many. The caller holds mu.
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
			if !over(key) { // another process has made something since that lives for longer
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

// tidy takes over what another process has changed, and drops the secrets of keys that are not needed. It returns the
// current key; nil where there is none. The caller holds mu.
func (k *keyring[R]) tidy(ctx context.Context, s logical.Storage, now time.Time) (*token.Key, error) {
	if err := k.read(ctx, s, ""); err != nil {
		return nil, err
	}
	if err := k.drop(ctx, s, now); err != nil {
		return nil, err
	}
	return k.Keys().Current(), nil
}

// destroyable reports whether a key of this name is there to be destroyed, as storage has it now. The caller holds mu.
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

// destroy drops the secret of a key at once, for good. The caller holds mu, and has seen to it that another key is
// current.
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
