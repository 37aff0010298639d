package token

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"
)

// A Key makes tokens: it seals opaque tokens or signs JWTs. One key of a ring is current and makes tokens. A retired key
// still opens its tokens until the last of them must have expired. Then the secret is dropped. The rest of the key is
// kept, so that Open returns ErrExpiredKey for the key's tokens and not ErrUnknownKey.
type Key struct {
	Name      string    `json:"-"`                  // public: 8 hexadecimal digits of a sealing key; the "kid" of a signing key
	Algorithm string    `json:"algorithm"`          // AlgorithmGCM, or one of Algorithms
	Secret    []byte    `json:"secret,omitempty"`   // an AES-256 key, or a private key in PKCS #8; nil once the key expired
	CreatedAt time.Time `json:"created_at"`         // a signing key is published from then on
	UsedFrom  time.Time `json:"used_from,omitzero"` // when the key began to make tokens; zero for a successor
	Made      uint64    `json:"made,omitempty"`     // number of tokens sealed, up to a minute ago
	Destroyed bool      `json:"destroyed,omitempty"`

	// LongestLifetime is the longest lifetime of the key's tokens, renewals included. Zero means that the key has made
	// no tokens.
	LongestLifetime time.Duration `json:"longest_lifetime,omitempty"`

	RetiredAt time.Time `json:"-"` // when the next key of the ring began to make tokens; zero if there is none
	Broken    error     `json:"-"` // why the key cannot be used; nil if it can
}

// NeededUntil returns when the last token of the key must have expired. It returns the zero time if the key is not
// retired.
func (k *Key) NeededUntil() time.Time {
	if k.RetiredAt.IsZero() {
		return time.Time{}
	}
	return k.RetiredAt.Add(k.LongestLifetime)
}

// State returns the state of the key: successor, current, retired, expired, destroyed or broken.
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

// refusal returns the error for the key's tokens, or nil if the key opens them.
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

// The errors of Open and OpenJWT that depend on the token's key only.
var (
	ErrUnknownKey   = errors.New("made with a key that is not in this ring")
	ErrExpiredKey   = errors.New("made with a key whose last token has expired")
	ErrDestroyedKey = errors.New("made with a key that was destroyed")
	ErrBrokenKey    = errors.New("made with a key that cannot be read from storage")
)

// UnknownKeyError is ErrUnknownKey with the name of the key. The name comes from the token and may be any text.
type UnknownKeyError struct{ Name string }

func (e *UnknownKeyError) Error() string { return ErrUnknownKey.Error() }
func (e *UnknownKeyError) Unwrap() error { return ErrUnknownKey }

// Keys are the keys of a ring, in the order in which they began to make tokens. Successors come last, the next successor
// first. A key retires when the next key begins to make tokens. So at most one key is current, even if two processes
// added keys.
type Keys []Key

// ordered returns the keys in order, and sets when each retired.
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

// Current returns the key that makes tokens, or nil if there is none.
func (ks Keys) Current() *Key {
	for i := len(ks) - 1; i >= 0; i-- {
		if ks[i].State() == "current" {
			return &ks[i]
		}
	}
	return nil
}

// Successor returns the key that makes tokens next, or nil if there is none.
func (ks Keys) Successor() *Key {
	for i := range ks {
		if ks[i].State() == "successor" {
			return &ks[i]
		}
	}
	return nil
}

// Find returns the key of this name, or nil if there is none.
func (ks Keys) Find(name string) *Key {
	for i := range ks {
		if ks[i].Name == name {
			return &ks[i]
		}
	}
	return nil
}
