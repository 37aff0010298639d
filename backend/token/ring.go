package token

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"
)

// A Key seals opaque tokens. Only the newest key of a ring seals; a retired one still opens, until
// the last token made with it must have expired; after that its secret is dropped and the rest is
// kept, so that a token made with it is known to be expired and not taken for a stranger's.
type Key struct {
	Number    uint32    // 32 random bits, public, in every token; unique in a ring
	Secret    []byte    // an AES-256 key; nil once the key is spent
	CreatedAt time.Time // when it began to seal
	RetiredAt time.Time // when a newer key took over; zero: it is the current one

	// LongestLifetime is the longest time that a token sealed with this key may live, renewals
	// included. Zero: it has sealed none.
	LongestLifetime time.Duration
}

// NewKey makes a key from random. It does not know its ring: the caller draws again when the number
// is taken.
func NewKey(random io.Reader, now time.Time) (Key, error) {
	var b [4 + 32]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return Key{}, fmt.Errorf("reading randomness: %w", err)
	}
	return Key{Number: binary.BigEndian.Uint32(b[:4]), Secret: slices.Clone(b[4:]), CreatedAt: now}, nil
}

// NeededUntil is the moment from which no token sealed with the key can be valid. The zero time: it is
// the current key.
func (k *Key) NeededUntil() time.Time {
	if k.RetiredAt.IsZero() {
		return time.Time{}
	}
	return k.RetiredAt.Add(k.LongestLifetime)
}

// Ring holds a mount's keys, oldest first; the last one seals. A Ring does not change and may be used
// by many goroutines. The zero Ring opens nothing.
type Ring struct {
	Keys    []Key
	ciphers map[uint32]cipher.AEAD // key number -> its cipher; nil for a spent key
}

// NewRing checks the keys and makes them ready to use.
func NewRing(keys []Key) (*Ring, error) {
	r := &Ring{Keys: keys, ciphers: make(map[uint32]cipher.AEAD, len(keys))}
	for i, k := range keys {
		if _, taken := r.ciphers[k.Number]; taken {
			return nil, fmt.Errorf("key number %08x appears twice", k.Number)
		}
		if k.RetiredAt.IsZero() != (i == len(keys)-1) {
			return nil, fmt.Errorf("key %08x: exactly the last key must be the current one", k.Number)
		}
		r.ciphers[k.Number] = nil
		if k.Secret == nil {
			continue
		}
		block, err := aes.NewCipher(k.Secret)
		if err != nil {
			return nil, fmt.Errorf("key %08x: %w", k.Number, err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("key %08x: %w", k.Number, err)
		}
		r.ciphers[k.Number] = aead
	}
	return r, nil
}

// Current is the key that seals; nil when the ring is empty.
func (r *Ring) Current() *Key {
	if len(r.Keys) == 0 {
		return nil
	}
	return &r.Keys[len(r.Keys)-1]
}
