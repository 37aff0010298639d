// Package token has the claims of a token, the codecs of opaque tokens and JWTs, and the key rings. It does not depend on
// Vault.
//
// An opaque token is
//
//	<prefix>_<body><checksum>
//
// where body is the base62 form of
//
//	version (1 byte) ‖ key number (4) ‖ token id (12) ‖ AES-256-GCM of the claims (n + 16)
//
// The token ID is the nonce. The prefix, the version, the key number and the token ID are the additional data. The
// checksum is the CRC-32 (IEEE) of everything before the checksum, as six base62 digits. Anybody can tell a well-formed
// token from noise (see Checksum). Only the holder of the key ring can open a token.
package token

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"regexp"
	"strconv"
	"strings"
)

const (
	opaqueVersion  = 1
	headerBytes    = 1 + 4 + 12
	checksumDigits = 6

	// MaxLen is the largest length of a token in bytes. Common HTTP servers accept a request header of this length.
	MaxLen = 4096
)

// The errors of Open, besides the errors of the token's key.
var (
	ErrMalformed = errors.New("not a well-formed token")
	ErrForged    = errors.New("not made with the key that it names")
)

var prefixPattern = regexp.MustCompile(`^[a-z][a-z0-9_]{1,15}$`)

// CheckPrefix returns an error unless prefix may stand before a token.
func CheckPrefix(prefix string) error {
	if !prefixPattern.MatchString(prefix) {
		return fmt.Errorf("must be 2 to 16 of a-z, 0-9 and _, a letter first")
	}
	return nil
}

// Pattern is a regular expression (RE2 syntax) that finds tokens with any of these prefixes in a text.
// Checksum rejects texts that match by chance.
func Pattern(prefixes ...string) string {
	// The shortest body and the checksum take 81 digits.
	return `\b(?:` + strings.Join(prefixes, "|") + `)_[0-9A-Za-z]{80,}\b`
}

// A TooLongError is returned for claims whose token would be longer than MaxLen.
type TooLongError struct {
	Len   int
	Field string // the field of the role or the request whose values are the longest
}

func (e *TooLongError) Error() string {
	return fmt.Sprintf("the token would be %d bytes long, a token has at most %d: choose fewer or shorter values", e.Len, MaxLen)
}

// partSizes are the sizes in bytes of the parts of a token, and the metadata.
type partSizes struct {
	scopes, audience, addresses, regions, hosts int
	metadata                                    map[string]string
}

// checkLen returns a TooLongError for a token that is longer than MaxLen.
func checkLen(text []byte, p *partSizes) error {
	if len(text) <= MaxLen {
		return nil
	}
	tooLong := &TooLongError{Len: len(text), Field: "scopes"}
	longest := p.scopes
	data := 0
	for key, value := range p.metadata {
		data += len(key) + len(value)
	}
	for _, part := range []struct {
		field string
		size  int
	}{{"audience", p.audience}, {"token_bound_cidrs", p.addresses}, {"bound_regions", p.regions}, {"bound_hosts", p.hosts}, {"metadata", data}} {
		if part.size > longest {
			tooLong.Field, longest = part.field, part.size
		}
	}
	return tooLong
}

func sizeOf(values []string) (size int) {
	for _, v := range values {
		size += len(v)
	}
	return size
}

// Mint seals claims with the ring's current key. The claims' ID must be new and random: an attacker could forge tokens
// from two tokens with the same ID.
func Mint(ring *Ring, prefix string, claims *Claims) (string, error) {
	key := ring.Current()
	if key == nil {
		return "", errors.New("the key ring has no current key")
	}
	number64, err := strconv.ParseUint(key.Name, 16, 32)
	if err != nil {
		return "", err
	}
	number := uint32(number64)
	aead := ring.sealers[number].aead
	plain, err := claims.marshal()
	if err != nil {
		return "", err
	}

	// The buffer holds the additional data (prefix and header), then the ciphertext. The capacities, here and of the text,
	// only save allocations.
	sealed := make([]byte, 0, len(prefix)+headerBytes+len(plain)+16)
	sealed = append(sealed, prefix...)
	sealed = append(sealed, opaqueVersion)
	sealed = binary.BigEndian.AppendUint32(sealed, number)
	sealed = append(sealed, claims.ID[:]...)
	sealed = aead.Seal(sealed, claims.ID[:], plain, sealed)

	body := sealed[len(prefix):]
	text := make([]byte, 0, len(prefix)+1+len(body)*blockDigits/blockBytes+blockDigits+checksumDigits)
	text = append(text, prefix...)
	text = append(text, '_')
	text = appendBase62(text, body)
	text = appendDigits(text, uint64(crc32.ChecksumIEEE(text)), checksumDigits)
	err = checkLen(text, &partSizes{
		scopes: sizeOf(claims.Scopes), audience: sizeOf(claims.Audience), addresses: 17 * len(claims.Addresses),
		regions: sizeOf(claims.Regions), hosts: sizeOf(claims.Hosts), metadata: claims.Metadata,
	})
	if err != nil {
		return "", err
	}
	return string(text), nil
}

// Checksum reports whether s has the shape of a token with some prefix, and the right checksum. Checksum needs no key:
// it rejects typing errors and look-alikes, not forgeries.
func Checksum(s string) bool {
	_, _, ok := split(s)
	return ok
}

// split returns the prefix of a token and the text of its body. ok is false if the checksum is wrong.
func split(s string) (prefix, body string, ok bool) {
	if len(s) > MaxLen {
		return "", "", false
	}
	underscore := strings.LastIndexByte(s, '_')
	end := len(s) - checksumDigits
	if underscore < 1 || end <= underscore { // every token has a prefix
		return "", "", false
	}
	sum, ok := parseDigits(s[end:])
	if !ok || sum != uint64(crc32.ChecksumIEEE([]byte(s[:end]))) {
		return "", "", false
	}
	return s[:underscore], s[underscore+1 : end], true
}

// Open authenticates a token and returns its claims. A token that opens was made by the engine; it may have expired or
// been revoked since. The error is ErrMalformed, ErrForged, or an error of the token's key.
func Open(ring *Ring, s string) (*Claims, error) {
	prefix, text, ok := split(s)
	if !ok {
		return nil, ErrMalformed
	}
	// The prefix goes before the body, as it did when the claims were sealed.
	buf := append(make([]byte, 0, len(s)), prefix...)
	buf, ok = appendBase62Decoded(buf, text)
	body := buf[min(len(prefix), len(buf)):]
	if !ok || len(body) < headerBytes || body[0] != opaqueVersion {
		return nil, ErrMalformed
	}

	number := binary.BigEndian.Uint32(body[1:])
	sealer, known := ring.sealers[number]
	switch {
	case !known:
		return nil, &UnknownKeyError{keyName(number)}
	case sealer.refusal != nil:
		return nil, sealer.refusal
	}
	claims := &Claims{ID: ID(body[5:headerBytes])}
	plain, err := sealer.aead.Open(nil, claims.ID[:], body[headerBytes:], buf[:len(prefix)+headerBytes])
	if err != nil {
		return nil, ErrForged
	}
	if err := claims.unmarshal(plain); err != nil {
		return nil, ErrMalformed
	}
	return claims, nil
}
