package token

import (
	"bytes"
	"encoding/base64"
	"io"

	"github.com/klauspost/compress/zlib"
)

// StatusRef is a place in a status list (draft-ietf-oauth-status-list section 6). The zero StatusRef is no place: numbers
// of lists start at 1.
type StatusRef struct {
	_     struct{} `cbor:",toarray"`
	List  uint32
	Index uint32
}

// IsZero reports whether r is no place.
func (r StatusRef) IsZero() bool { return r.List == 0 }

// The values of a token in a status list (draft-ietf-oauth-status-list section 7.1).
const (
	StatusValid     = 0
	StatusInvalid   = 1
	StatusSuspended = 2
)

// EncodeStatusList returns the "lst" of a list of size tokens (draft-ietf-oauth-status-list section 4), and its "bits": the
// bits of each token. The tokens at the places in revoked are StatusInvalid, the tokens at other places in suspended are
// StatusSuspended. A list without suspended tokens has one bit for each token, another list has two. Place 0 has the least
// significant bits of the first byte. The bytes are compressed with zlib and encoded in base64url.
func EncodeStatusList(size int, revoked, suspended []uint32) (lst string, bits int, _ error) {
	bits = 1
	if len(suspended) > 0 {
		bits = 2
	}
	inByte := uint32(8 / bits) //nolint:gosec // 8 or 4
	list := make([]byte, (size*bits+7)/8)
	for _, place := range revoked {
		list[place/inByte] |= StatusInvalid << (int(place%inByte) * bits)
	}
	for _, place := range suspended {
		if StatusAt(list, bits, place) != StatusInvalid {
			list[place/inByte] |= StatusSuspended << (int(place%inByte) * bits)
		}
	}
	var compressed bytes.Buffer
	w := zlib.NewWriter(&compressed)
	if _, err := w.Write(list); err != nil {
		return "", 0, err
	}
	if err := w.Close(); err != nil {
		return "", 0, err
	}
	return base64.RawURLEncoding.EncodeToString(compressed.Bytes()), bits, nil
}

// StatusAt returns the value at a place of the bytes of a list with 1, 2, 4 or 8 bits for each token. A place beyond the
// list is StatusInvalid.
func StatusAt(list []byte, bits int, place uint32) byte {
	inByte := uint32(8 / bits) //nolint:gosec // at most 8
	if int(place/inByte) >= len(list) {
		return StatusInvalid
	}
	return list[place/inByte] >> (int(place%inByte) * bits) & (1<<bits - 1)
}

// DecodeStatusList returns the bytes of the list that "lst" encodes.
func DecodeStatusList(lst string) ([]byte, error) {
	compressed, err := base64.RawURLEncoding.DecodeString(lst)
	if err != nil {
		return nil, err
	}
	r, err := zlib.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
