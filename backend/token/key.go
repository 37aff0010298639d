package token

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"
)

// A Key makes tokens: it seals opaque ones, or it signs JWTs. Of a ring one key does so; a retired one still opens
// what it has made, until the last of that must have expired. Then its secret is dropped and the rest is kept, so
// that a token made with it is known to be expired and not taken for a stranger's.
type Key struct {
	Name      string    `json:"-"`                  // public: 8 hexadecimal digits of a sealing key; the "kid" of a signing key
	Algorithm string    `json:"algorithm"`          // AlgorithmGCM, or one of Algorithms
	Secret    []byte    `json:"secret,omitempty"`   // an AES-256 key, or a private key in PKCS #8; nil once the key expired
	CreatedAt time.Time `json:"created_at"`         // a signing key is published from then on
	UsedFrom  time.Time `json:"used_from,omitzero"` // when it began to make tokens; zero: it is a successor
	Made      uint64    `json:"made,omitempty"`     // how many tokens it has sealed, up to a minute ago
	Destroyed bool      `json:"destroyed,omitempty"`

	// LongestLifetime is the longest time that anything lives that was made with the key, renewals included. Zero:
	// it has made nothing.
	LongestLifetime time.Duration `json:"longest_lifetime,omitempty"`

	RetiredAt time.Time `json:"-"` // when the next key of its ring began; zero: it has not been replaced
	Broken    error     `json:"-"` // why the key cannot be used; nil: it can
}

// NeededUntil is the moment from which nothing made with the key can be valid. The zero time: it has not been
// replaced.
func (k *Key) NeededUntil() time.Time {
	if k.RetiredAt.IsZero() {
		return time.Time{}
	}
	return k.RetiredAt.Add(k.LongestLifetime)
}

// State is what the key does: successor, current, retired, expired, destroyed or broken.
func (k *Key) State() string {
	switch {
	case k.Destroyed:
		return "destroyed"
	case k.Broken != nil:
		return "broken"
	case k.Secret == nil:
		return "expired"
	case k.UsedFrom.IsZero():
		return "successor"
	case !k.RetiredAt.IsZero():
		return "retired"
	}
	return "current"
}

// refusal is why the key opens nothing; nil: it does.
func (k *Key) refusal() error {
	switch {
	case k.Destroyed:
		return ErrDestroyedKey
	case k.Broken != nil:
		return ErrBrokenKey
	case k.Secret == nil:
		return ErrExpiredKey
	}
	return nil
}

// The reasons for which a token is refused without a look at it, because of its key.
var (
	ErrUnknownKey   = errors.New("made with a key that is not in this ring")
	ErrExpiredKey   = errors.New("made with a key whose last token has expired")
	ErrDestroyedKey = errors.New("made with a key that was destroyed")
	ErrBrokenKey    = errors.New("made with a key that cannot be read from storage")
)

// UnknownKeyError is ErrUnknownKey with the name of the key. The author of the token chose the name, which may be anything.
type UnknownKeyError struct{ Name string }

func (e *UnknownKeyError) Error() string { return ErrUnknownKey.Error() }
func (e *UnknownKeyError) Unwrap() error { return ErrUnknownKey }

// Keys are the keys of a ring, in the order in which they began to make tokens; successors come last, the next one
// first. A key retires when the next one begins: no two can be current, even if two processes added them.
type Keys []Key

// ordered sorts keys, and notes when each retired.
func ordered(keys []Key) Keys {
	ks := Keys(slices.Clone(keys))
	slices.SortFunc(ks, func(a, b Key) int {
		if a.UsedFrom.IsZero() != b.UsedFrom.IsZero() {
			if a.UsedFrom.IsZero() {
				return 1
			}
			return -1
		}
		return cmp.Or(a.UsedFrom.Compare(b.UsedFrom), a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.Name, b.Name))
	})
	for i := range ks {
		ks[i].RetiredAt = time.Time{}
		if !ks[i].UsedFrom.IsZero() && i+1 < len(ks) {
			ks[i].RetiredAt = ks[i+1].UsedFrom // zero for a successor
		}
	}
	return ks
}

// All returns the keys.
func (ks Keys) All() Keys { return ks }

// Current is the key that makes tokens; nil where there is none.
func (ks Keys) Current() *Key {
	for i := len(ks) - 1; i >= 0; i-- {
		if ks[i].State() == "current" {
			return &ks[i]
		}
	}
	return nil
}

// Successor is the key that makes tokens next; nil where there is none.
func (ks Keys) Successor() *Key {
	for i := range ks {
		if ks[i].State() == "successor" {
			return &ks[i]
		}
	}
	return nil
}

// Find returns the key of this name; nil where there is none.
func (ks Keys) Find(name string) *Key {
	for i := range ks {
		if ks[i].Name == name {
			return &ks[i]
		}
	}
	return nil
}
