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

// Algorithms are the allowed signing algorithms of JWTs (RFC 7518 section 3.1, RFC 8037 section 3.1), the default first.
var Algorithms = []string{string(jose.ES256), string(jose.EdDSA), string(jose.RS256)}

// NewSigningKey returns a successor. A successor is published before it signs, so that verifiers know the key in time.
func NewSigningKey(algorithm string, now time.Time) (Key, error) {
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
		return Key{}, fmt.Errorf("%q is not one of %q", algorithm, Algorithms)
	}
	if err != nil {
		return Key{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return Key{}, err
	}
	name, err := thumbprint(private)
	return Key{Name: name, Algorithm: algorithm, Secret: der, CreatedAt: now}, err
}

// thumbprint returns the "kid" of a key (RFC 7638).
func thumbprint(private crypto.Signer) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: private.Public()}).Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum), err
}

// SigningRing holds a mount's signing keys. A SigningRing is immutable and safe for concurrent use. The zero SigningRing
// has no keys.
type SigningRing struct {
	Keys
	signers map[string]jose.Signer // "typ" -> signer with the current key
	public  map[string]publicKey   // by the key's name
}

type publicKey struct {
	*jose.JSONWebKey
	refusal error // for the key's tokens; nil if the key opens them
}

// The media types that are signed, as "typ" (RFC 9068 section 2.1, draft-ietf-oauth-status-list section
// 5.1, RFC 9701 section 5).
const (
	TypeAccessToken        = "at+jwt"
	TypeStatusList         = "statuslist+jwt"
	TypeTokenIntrospection = "token-introspection+jwt"
)

// NewSigningRing returns a ring of keys. An unusable key becomes Broken and does not affect the other keys.
func NewSigningRing(keys []Key) *SigningRing {
	r := &SigningRing{Keys: ordered(keys), signers: make(map[string]jose.Signer), public: make(map[string]publicKey, len(keys))}
	for i := range r.Keys {
		key := &r.Keys[i]
		var p publicKey
		if key.refusal() == nil {
			p.JSONWebKey, key.Broken = newPublicKey(key)
		}
		p.refusal = key.refusal()
		r.public[key.Name] = p
	}
	if current := r.Current(); current != nil {
		current.Broken = r.signWith(current)
	}
	return r
}

func newPublicKey(key *Key) (*jose.JSONWebKey, error) {
	private, err := parsePrivate(key)
	if err != nil {
		return nil, err
	}
	name, err := thumbprint(private)
	if err != nil {
		return nil, err
	}
	if name != key.Name {
		return nil, fmt.Errorf("key %q has the thumbprint %q", key.Name, name)
	}
	return &jose.JSONWebKey{Key: private.Public(), KeyID: key.Name, Algorithm: key.Algorithm, Use: "sig"}, nil
}

func parsePrivate(key *Key) (crypto.Signer, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(key.Secret)
	if err != nil {
		return nil, err
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	return private, nil
}

// signWith makes a key the ring's signing key.
func (r *SigningRing) signWith(key *Key) error {
	private, err := parsePrivate(key)
	if err != nil {
		return err
	}
	for _, typ := range []string{TypeAccessToken, TypeStatusList, TypeTokenIntrospection} {
		r.signers[typ], err = jose.NewSigner(jose.SigningKey{
			Algorithm: jose.SignatureAlgorithm(key.Algorithm),
			Key:       jose.JSONWebKey{Key: private, KeyID: key.Name},
		}, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
		if err != nil {
			return err
		}
	}
	return nil
}

// PublicKeys returns the JWK set to publish (RFC 7517 section 5): the public parts of the successor and of all keys that
// may have signed a valid token.
func (r *SigningRing) PublicKeys() jose.JSONWebKeySet {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range slices.Backward(r.Keys) {
		if public := r.public[k.Name]; public.JSONWebKey != nil {
			set.Keys = append(set.Keys, *public.JSONWebKey)
		}
	}
	return set
}

// Sign returns a JWT of a type in compact form, signed with the current key.
func (r *SigningRing) Sign(typ string, payload []byte) (string, error) {
	signer := r.signers[typ]
	if signer == nil {
		return "", errors.New("the key ring has no current key")
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}
