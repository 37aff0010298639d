package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Algorithms are the algorithms that JWTs may be signed with (RFC 7518 section 3.1, RFC 8037 section 3.1),
// the default first.
var Algorithms = []string{string(jose.ES256), string(jose.EdDSA), string(jose.RS256)}

// A SigningKey signs JWTs. It is published before it signs, so that verifiers know it by then, and until
// the last token made with it must have expired; then its private key is dropped and its name is kept, so
// that a token made with it is known to be expired and not taken for a stranger's.
type SigningKey struct {
	ID          string // the "kid": the key's thumbprint (RFC 7638)
	Algorithm   string // one of Algorithms
	Private     []byte // PKCS #8; nil once the key is spent
	PublishedAt time.Time
	SignsFrom   time.Time // zero: it is the successor, published and not signing yet
	RetiredAt   time.Time // zero: it has not been replaced

	// LongestLifetime is the longest time that a token signed with this key lives.
	LongestLifetime time.Duration
}

// NewSigningKey makes a key.
func NewSigningKey(algorithm string, now time.Time) (SigningKey, error) {
	var private crypto.Signer
	var err error
	switch jose.SignatureAlgorithm(algorithm) {
	case jose.ES256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	case jose.RS256:
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		return SigningKey{}, fmt.Errorf("%q is not one of %q", algorithm, Algorithms)
	}
	if err != nil {
		return SigningKey{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return SigningKey{}, err
	}
	thumbprint, err := (&jose.JSONWebKey{Key: private.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return SigningKey{}, err
	}
	return SigningKey{
		ID: base64.RawURLEncoding.EncodeToString(thumbprint), Algorithm: algorithm, Private: der, PublishedAt: now,
	}, nil
}

// NeededUntil is the moment from which no token signed with the key can be valid. The zero time: it is
// the current key or the successor.
func (k *SigningKey) NeededUntil() time.Time {
	if k.RetiredAt.IsZero() {
		return time.Time{}
	}
	return k.RetiredAt.Add(k.LongestLifetime)
}

// SigningRing holds a mount's signing keys, oldest first; the last one is the successor of the one before,
// which signs. A SigningRing does not change and may be used by many goroutines. The zero one has no keys.
type SigningRing struct {
	Keys    []SigningKey
	signers map[string]map[string]jose.Signer // "typ" -> key ID -> signer
	public  map[string]*jose.JSONWebKey       // key ID -> public key; nil for a spent key
}

// The media types that are signed, as "typ" (RFC 9068 section 2.1, draft-ietf-oauth-status-list section
// 5.1, RFC 9701 section 5).
const (
	TypeAccessToken        = "at+jwt"
	TypeStatusList         = "statuslist+jwt"
	TypeTokenIntrospection = "token-introspection+jwt"
)

// NewSigningRing checks the keys and makes them ready to use.
func NewSigningRing(keys []SigningKey) (*SigningRing, error) {
	r := &SigningRing{Keys: keys, signers: make(map[string]map[string]jose.Signer), public: make(map[string]*jose.JSONWebKey)}
	for i, k := range keys {
		if last := len(keys) - 1; k.SignsFrom.IsZero() != (i == last) || k.RetiredAt.IsZero() != (i >= last-1) {
			return nil, fmt.Errorf("signing key %s: exactly the last two keys must be the current one and its successor", k.ID)
		}
		if _, taken := r.public[k.ID]; taken {
			return nil, fmt.Errorf("signing key %s appears twice", k.ID)
		}
		r.public[k.ID] = nil
		if k.Private == nil {
			continue
		}
		parsed, err := x509.ParsePKCS8PrivateKey(k.Private)
		if err != nil {
			return nil, fmt.Errorf("signing key %s: %w", k.ID, err)
		}
		private, ok := parsed.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("signing key %s cannot sign", k.ID)
		}
		r.public[k.ID] = &jose.JSONWebKey{Key: private.Public(), KeyID: k.ID, Algorithm: k.Algorithm, Use: "sig"}
		for _, typ := range []string{TypeAccessToken, TypeStatusList, TypeTokenIntrospection} {
			signer, err := jose.NewSigner(jose.SigningKey{
				Algorithm: jose.SignatureAlgorithm(k.Algorithm),
				Key:       jose.JSONWebKey{Key: parsed, KeyID: k.ID},
			}, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
			if err != nil {
				return nil, fmt.Errorf("signing key %s: %w", k.ID, err)
			}
			if r.signers[typ] == nil {
				r.signers[typ] = make(map[string]jose.Signer)
			}
			r.signers[typ][k.ID] = signer
		}
	}
	return r, nil
}

// Current is the key that signs; nil when there are no keys.
func (r *SigningRing) Current() *SigningKey {
	if len(r.Keys) < 2 {
		return nil
	}
	return &r.Keys[len(r.Keys)-2]
}

// Successor is the key that will sign next; nil when there are no keys.
func (r *SigningRing) Successor() *SigningKey {
	if len(r.Keys) == 0 {
		return nil
	}
	return &r.Keys[len(r.Keys)-1]
}

// PublicKeys is the JWK set to publish (RFC 7517 section 5), the keys that may have signed a valid token
// and the successor; with the private parts of none.
func (r *SigningRing) PublicKeys() jose.JSONWebKeySet {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range slices.Backward(r.Keys) {
		if public := r.public[k.ID]; public != nil {
			set.Keys = append(set.Keys, *public)
		}
	}
	return set
}

// Sign makes a JWT of this type in compact form, signed with the current key.
func (r *SigningRing) Sign(typ string, payload []byte) (string, error) {
	current := r.Current()
	if current == nil {
		return "", errors.New("there is no signing key")
	}
	signed, err := r.signers[typ][current.ID].Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}
