package token

import (
	"github.com/go-jose/go-jose/v4"
	strictjson "github.com/go-jose/go-jose/v4/json"
)

// PlainGrant returns the grant of a token without a key and without verification. For an opaque token it returns the
// token's ID, which is the grant's ID for the first token of a grant. The text may be forged.
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
