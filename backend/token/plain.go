package token

import (
	"github.com/go-jose/go-jose/v4"
	strictjson "github.com/go-jose/go-jose/v4/json"
)

// PlainGrant reads from a token in plain text, without a key, which grant it says that it belongs to: a JWT its grant,
// an opaque token its own ID, which for the first token of a grant is the grant's. Anybody can write such a text.
func PlainGrant(s string) (grant ID, ok bool) {
	if IsJWT(s) {
		signed, err := jose.ParseSignedCompact(s, allAlgorithms)
		if err != nil {
			return ID{}, false
		}
		var p JWT
		if err := strictjson.Unmarshal(signed.UnsafePayloadWithoutVerification(), &p); err != nil {
			return ID{}, false
		}
		_, grant, err = ParseName(p.ID)
		return grant, err == nil
	}
	_, text, ok := split(s)
	if !ok {
		return ID{}, false
	}
	body, ok := appendBase62Decoded(nil, text)
	if !ok || len(body) < headerBytes {
		return ID{}, false
	}
	return ID(body[5:headerBytes]), true
}
