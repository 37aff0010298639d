package native

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Signing keeps the keys that sign JWTs. There are none until the first role of JWTs is written.
type Signing struct {
	*keyring[*token.SigningRing]
}

// SigningPolicy is what the mount's configuration says of the keys.
type SigningPolicy struct {
	Algorithm string
	Period    time.Duration // for which a key signs
	MaxAge    time.Duration // for which verifiers may cache the published keys
}

// LoadSigning reads the keys from storage.
func LoadSigning(ctx context.Context, s logical.Storage, now func() time.Time) (*Signing, error) {
	k := &Signing{newKeyring(signing, now, token.NewSigningRing)}
	return k, k.read(ctx, s, "")
}

// Sign calls f with the ring, while nobody changes it here. What f signs lives for lifetime at most.
func (k *Signing) Sign(ctx context.Context, s logical.Storage, algorithm string, lifetime time.Duration, f func(*token.SigningRing) error) error {
	return k.with(lifetime, func() error { return k.Prepare(ctx, s, algorithm, lifetime) }, f)
}

// Prepare makes the first keys where there are none, and notes how long what they sign lives.
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

// rotate has the successor sign, and publishes the one after it. Where there is no successor, the key that signs
// was not published before. The caller holds mu and has read the ring.
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

// succeed publishes a successor of an algorithm where there is none, and withdraws those of another. The caller
// holds mu.
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

// Rotate rotates on demand, unless verifiers may not know the successor yet: then it returns from when they do. It
// does nothing where there are no keys.
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

// successorKnown is the time from which every verifier knows the successor.
func (k *Signing) successorKnown(p SigningPolicy) time.Time {
	if successor := k.Keys().Successor(); successor != nil {
		return successor.CreatedAt.Add(p.MaxAge)
	}
	return k.now().Add(p.MaxAge)
}

// Destroy drops a key for good; where it is the current one, its successor signs from now on, and where it is a
// successor, another one is published. It returns from when every verifier knows the key that signs; the zero time
// where all do. Of a key that is gone or unknown it does nothing.
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

// Maintain does what is due: takes over what another process has changed, drops the private keys that are not
// needed, publishes a successor of the algorithm that is set, and rotates after the period or a change of the
// algorithm.
func (k *Signing) Maintain(ctx context.Context, s logical.Storage, p SigningPolicy) (rotated bool, _ error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	current, err := k.tidy(ctx, s, now)
	if current == nil || err != nil {
		return false, err
	}
	// Another process may have written over what this one has noted.
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
