package native

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Signing manages the keys that sign JWTs. There is no key until the first role that issues JWTs is written.
type Signing struct {
	*keyring[*token.SigningRing]
}

// SigningPolicy is the part of the mount's configuration that concerns signing keys.
type SigningPolicy struct {
	Algorithm string
	Period    time.Duration // how long a key signs
	MaxAge    time.Duration // how long verifiers may cache the published keys
}

// LoadSigning reads the keys from storage.
func LoadSigning(ctx context.Context, s logical.Storage, now func() time.Time) (*Signing, error) {
	k := &Signing{newKeyring(signing, now, token.NewSigningRing)}
	return k, k.read(ctx, s, "")
}

// Sign calls f, which signs JWTs with the ring. The JWTs live for lifetime at most.
func (k *Signing) Sign(ctx context.Context, s logical.Storage, algorithm string, lifetime time.Duration, f func(*token.SigningRing) error) error {
	return k.with(lifetime, func() error { return k.Prepare(ctx, s, algorithm, lifetime) }, f)
}

// Prepare makes the first keys if there are none, and stores how long the JWTs of the current key may live.
func (k *Signing) Prepare(ctx context.Context, s logical.Storage, algorithm string, lifetime time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ready(lifetime) {
		return nil
	}
	if err := k.read(ctx, s, ""); err != nil {
		return err
	}
	if k.Keys().Current() == nil {
		if err := k.rotate(ctx, s, algorithm); err != nil {
			return err
		}
	}
	return k.lives(ctx, s, lifetime)
}

// rotate makes the successor current, and publishes a new successor. If there is no successor, rotate makes a new key
// current, which verifiers do not know yet. The caller holds mu and has read the ring.
func (k *Signing) rotate(ctx context.Context, s logical.Storage, algorithm string) error {
	now := k.now()
	if successor := k.Keys().Successor(); successor != nil {
		from := k.usableFrom(now)
		err := k.change(ctx, s, successor.Name, func(key *token.Key) bool {
			key.UsedFrom = from
			return true
		})
		if err != nil {
			return err
		}
	} else {
		key, err := token.NewSigningKey(algorithm, now)
		if err != nil {
			return err
		}
		key.UsedFrom = k.usableFrom(now)
		if err := k.add(ctx, s, key); err != nil {
			return err
		}
	}
	return k.succeed(ctx, s, algorithm)
}

// succeed publishes a successor for an algorithm if there is none, and withdraws successors of other algorithms. The
// caller holds mu.
func (k *Signing) succeed(ctx context.Context, s logical.Storage, algorithm string) error {
	for successor := k.Keys().Successor(); successor != nil; successor = k.Keys().Successor() {
		if successor.Algorithm == algorithm {
			return nil
		}
		if err := k.forget(ctx, s, successor); err != nil {
			return err
		}
	}
	key, err := token.NewSigningKey(algorithm, k.now())
	if err != nil {
		return err
	}
	return k.add(ctx, s, key)
}

// Rotate rotates the current key. If verifiers may not know the successor yet, Rotate does nothing and returns from when
// they know it. Rotate does nothing if there are no keys.
func (k *Signing) Rotate(ctx context.Context, s logical.Storage, p SigningPolicy) (tooYoungUntil time.Time, _ error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.read(ctx, s, ""); err != nil {
		return time.Time{}, err
	}
	if k.Keys().Current() == nil {
		return time.Time{}, nil
	}
	if known := k.successorKnown(p); k.now().Before(known) {
		return known, nil
	}
	return time.Time{}, k.rotate(ctx, s, p.Algorithm)
}

// successorKnown returns the time from which every verifier knows the successor.
func (k *Signing) successorKnown(p SigningPolicy) time.Time {
	if successor := k.Keys().Successor(); successor != nil {
		return successor.CreatedAt.Add(p.MaxAge)
	}
	return k.now().Add(p.MaxAge)
}

// Destroy drops the secret of a key for good. If the key was current, its successor becomes current. If the key was a
// successor, Destroy publishes another one. It returns from when every verifier knows the current key, or zero if they
// already do. It does nothing if the key is unknown or has no secret any more.
func (k *Signing) Destroy(ctx context.Context, s logical.Storage, name string, p SigningPolicy) (unknownUntil time.Time, _ error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if there, err := k.destroyable(ctx, s, name); !there || err != nil {
		return time.Time{}, err
	}
	if current := k.Keys().Current(); current == nil || current.Name == name {
		if known := k.successorKnown(p); k.now().Before(known) {
			unknownUntil = known
		}
		if err := k.rotate(ctx, s, p.Algorithm); err != nil {
			return time.Time{}, err
		}
	}
	if err := k.destroy(ctx, s, name); err != nil {
		return time.Time{}, err
	}
	return unknownUntil, k.succeed(ctx, s, p.Algorithm)
}

// Maintain reads the changes of other processes, drops the private keys that are not needed, and publishes a successor
// for the configured algorithm. It rotates the key after the period or a change of the algorithm, and reports whether it
// did.
func (k *Signing) Maintain(ctx context.Context, s logical.Storage, p SigningPolicy) (rotated bool, _ error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	current, err := k.tidy(ctx, s, now)
	if current == nil || err != nil {
		return false, err
	}
	// Another process may have overwritten the LongestLifetime that this process has stored.
	if err := k.change(ctx, s, current.Name, func(*token.Key) bool { return false }); err != nil {
		return false, err
	}
	if err := k.succeed(ctx, s, p.Algorithm); err != nil {
		return false, err
	}
	current = k.Keys().Current()
	due := now.Sub(current.UsedFrom) >= p.Period || current.Algorithm != p.Algorithm
	if !due || now.Before(k.successorKnown(p)) {
		return false, nil
	}
	return true, k.rotate(ctx, s, p.Algorithm)
}
