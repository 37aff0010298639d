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

// EncodeStatusList returns the "lst" of a list of size bits in which the bits of the given places are set
// (draft-ietf-oauth-status-list section 4). Place 0 is the least significant bit of the first byte. The bytes are
// compressed with zlib and encoded in base64url.
func EncodeStatusList(size int, set []uint32) (string, error) {
	list := make([]byte, (size+7)/8)
	for _, place := range set {
		list[place/8] |= 1 << (place % 8)
	}
	var compressed bytes.Buffer
	w := zlib.NewWriter(&compressed)
	if _, err := w.Write(list); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(compressed.Bytes()), nil
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
