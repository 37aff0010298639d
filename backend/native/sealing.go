package native

import (
	"context"
	"crypto/rand"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// maxTokensPerKey is half of the limit for random 96-bit nonces, 2^32 (NIST SP 800-38D section 8.3).
const maxTokensPerKey = 1 << 31

// Sealing manages the keys that seal opaque tokens. There is no key until the first token is made.
type Sealing struct {
	*keyring[*token.Ring]
	made atomic.Uint64 // tokens sealed by this process since the count was last stored
}

// LoadSealing reads the keys from storage.
func LoadSealing(ctx context.Context, s logical.Storage, now func() time.Time) (*Sealing, error) {
	k := &Sealing{keyring: newKeyring(sealing, now, token.NewRing)}
	return k, k.read(ctx, s, "")
}

// Seal calls f, which seals the given number of tokens. The tokens live for lifetime at most, renewals included.
func (k *Sealing) Seal(ctx context.Context, s logical.Storage, tokens uint64, lifetime time.Duration, f func(*token.Ring) error) error {
	return k.with(lifetime, func() error { return k.prepare(ctx, s, lifetime) }, func(ring *token.Ring) error {
		k.made.Add(tokens)
		return f(ring)
	})
}

// prepare makes the first key if there is none, and stores how long the key's tokens may live.
func (k *Sealing) prepare(ctx context.Context, s logical.Storage, lifetime time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ready(lifetime) {
		return nil
	}
	if err := k.read(ctx, s, ""); err != nil {
		return err
	}
	if k.Keys().Current() == nil {
		if err := k.rotate(ctx, s); err != nil {
			return err
		}
	}
	return k.lives(ctx, s, lifetime)
}

// rotate adds a key and makes it current. The caller holds mu and has read the ring.
func (k *Sealing) rotate(ctx context.Context, s logical.Storage) error {
	for {
		key, err := token.NewKey(rand.Reader, k.now())
		if err != nil {
			return err
		}
		if k.Keys().Find(key.Name) != nil {
			continue
		}
		key.UsedFrom = k.usableFrom(key.UsedFrom)
		if err := k.add(ctx, s, key); err != nil {
			return err
		}
		k.made.Store(0)
		return nil
	}
}

// Rotate adds a key and makes it current.
func (k *Sealing) Rotate(ctx context.Context, s logical.Storage) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.read(ctx, s, ""); err != nil {
		return err
	}
	return k.rotate(ctx, s)
}

// Destroy drops the secret of a key for good. It makes a new key current if the key was current. It does nothing if the
// key is unknown or has no secret any more.
func (k *Sealing) Destroy(ctx context.Context, s logical.Storage, name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if there, err := k.destroyable(ctx, s, name); !there || err != nil {
		return err
	}
	if current := k.Keys().Current(); current == nil || current.Name == name {
		if err := k.rotate(ctx, s); err != nil {
			return err
		}
	}
	return k.destroy(ctx, s, name)
}

// Maintain reads the changes of other processes, drops the secrets of keys that are not needed, and stores how many
// tokens the current key has sealed. It rotates the key after period or too many tokens, and reports whether it did.
func (k *Sealing) Maintain(ctx context.Context, s logical.Storage, period time.Duration) (rotated bool, _ error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	current, err := k.tidy(ctx, s, now)
	if current == nil || err != nil {
		return false, err
	}
	made := k.made.Swap(0)
	if err := k.change(ctx, s, current.Name, func(key *token.Key) bool {
		key.Made += made
		return made > 0
	}); err != nil {
		k.made.Add(made)
		return false, err
	}
	current = k.Keys().Current()
	if now.Sub(current.UsedFrom) < period && current.Made < maxTokensPerKey {
		return false, nil
	}
	return true, k.rotate(ctx, s)
}
