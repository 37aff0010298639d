package token

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// AlgorithmGCM is the algorithm of the keys that seal opaque tokens (RFC 7518 section 5.1).
const AlgorithmGCM = "A256GCM"

// NewKey returns a key that seals from now on. The caller must call NewKey again if its ring has a key of the same name.
func NewKey(random io.Reader, now time.Time) (Key, error) {
	var b [4 + 32]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return Key{}, fmt.Errorf("reading randomness: %w", err)
	}
	return Key{
		Name: keyName(binary.BigEndian.Uint32(b[:4])), Algorithm: AlgorithmGCM, Secret: slices.Clone(b[4:]), CreatedAt: now, UsedFrom: now,
	}, nil
}

// keyName returns the name of the key with a number. Every token contains the number of its key.
func keyName(number uint32) string { return fmt.Sprintf("%08x", number) }

// Ring holds a mount's sealing keys. A Ring is immutable and safe for concurrent use. The zero Ring has no keys.
type Ring struct {
	Keys
	sealers map[uint32]sealer
}

type sealer struct {
	aead    cipher.AEAD
	refusal error // for the key's tokens; nil if the key opens them
}

// NewRing returns a ring of keys. An unusable key becomes Broken and does not affect the other keys.
func NewRing(keys []Key) *Ring {
	r := &Ring{Keys: ordered(keys), sealers: make(map[uint32]sealer, len(keys))}
	for i := range r.Keys {
		key := &r.Keys[i]
		number, err := strconv.ParseUint(key.Name, 16, 32)
		if err != nil || keyName(uint32(number)) != key.Name {
			key.Broken = fmt.Errorf("%q is not the name of a sealing key", key.Name)
			continue
		}
		var s sealer
		if key.refusal() == nil {
			s.aead, key.Broken = newGCM(key)
		}
		s.refusal = key.refusal()
		r.sealers[uint32(number)] = s
	}
	return r
}

func newGCM(key *Key) (cipher.AEAD, error) {
	if key.Algorithm != AlgorithmGCM || len(key.Secret) != 32 {
		return nil, fmt.Errorf("the key has algorithm %q and %d bytes, which this version of the plugin does not support", key.Algorithm, len(key.Secret))
	}
	block, err := aes.NewCipher(key.Secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
