package token

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
)

// ID is the public name of a token or of a grant: 96 random bits, except for IDs of NewGrantID. An ID is safe to log. The
// ID of an opaque token is the nonce of its sealed claims, so it must come from a cryptographic source of randomness.
// The zero ID names nothing.
type ID [12]byte

// NewID reads a new ID from random.
func NewID(random io.Reader) (ID, error) {
	var id ID
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return ID{}, fmt.Errorf("reading randomness: %w", err)
	}
	return id, nil
}

// NewGrantID returns the ID of a grant whose JWTs have a place in a status list. The ID consists of 40 random bits and the
// place, so that the place follows from the ID. No other grant has the same place.
func NewGrantID(random io.Reader, place StatusRef) (ID, error) {
	id, err := NewID(random)
	binary.BigEndian.PutUint32(id[5:], place.List)
	id[9], id[10], id[11] = byte(place.Index>>16), byte(place.Index>>8), byte(place.Index) //nolint:gosec // byte by byte
	return id, err
}

// Place returns the place in a status list of an ID that NewGrantID made. For any other ID the result is meaningless.
func (id ID) Place() StatusRef {
	return StatusRef{List: binary.BigEndian.Uint32(id[5:]), Index: uint32(id[9])<<16 | uint32(id[10])<<8 | uint32(id[11])}
}

// ParseID parses the text form: exactly 24 lower-case hexadecimal digits.
func ParseID(s string) (ID, error) {
	var id ID
	if err := parseHex(id[:], s); err != nil {
		return ID{}, err
	}
	return id, nil
}

// String returns the text form that ParseID parses.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText returns String, for JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(text []byte) error { return parseHex(id[:], string(text)) }

// MarshalCBOR returns a CBOR byte string. Without it an ID would be stored as an array of numbers.
func (id ID) MarshalCBOR() ([]byte, error) {
	return append([]byte{cborBytes | byte(len(id))}, id[:]...), nil
}

// UnmarshalCBOR reads what MarshalCBOR wrote.
func (id *ID) UnmarshalCBOR(data []byte) error {
	if len(data) != 1+len(id) || data[0] != cborBytes|byte(len(id)) {
		return fmt.Errorf("an ID must be a CBOR string of %d bytes", len(id))
	}
	copy(id[:], data[1:])
	return nil
}

// cborBytes is the major type of a byte string of less than 24 bytes, whose length is in the low bits (RFC 8949 section 3.1).
const cborBytes = 2 << 5

// IsZero reports whether id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders IDs as their text forms are ordered: -1, 0 or 1.
func (id ID) Compare(other ID) int {
	return bytes.Compare(id[:], other[:])
}

// RoleID identifies a role: 64 random bits, made when the role is created. A role that is deleted and created again under
// the same name has another RoleID.
type RoleID [8]byte

// NewRoleID reads a new RoleID from random.
func NewRoleID(random io.Reader) (RoleID, error) {
	var id RoleID
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return RoleID{}, fmt.Errorf("reading randomness: %w", err)
	}
	return id, nil
}

// String returns 16 lower-case hexadecimal digits.
func (id RoleID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText returns String, for JSON.
func (id RoleID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *RoleID) UnmarshalText(text []byte) error { return parseHex(id[:], string(text)) }

// parseHex fills dst from lower-case hexadecimal digits. It rejects upper-case digits, so that an ID has one spelling.
func parseHex(dst []byte, s string) error {
	if len(s) != hex.EncodedLen(len(dst)) {
		return fmt.Errorf("must be %d hexadecimal digits", hex.EncodedLen(len(dst)))
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("must be %d lower-case hexadecimal digits", hex.EncodedLen(len(dst)))
		}
	}
	_, err := hex.Decode(dst, []byte(s))
	return err
}
