package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"math/big"

	"github.com/go-jose/go-jose/v4"
)

// verifySignature verifies the signature of a JWS (RFC 7515 section 5.2) with a key and its algorithm. go-jose would parse
// header and payload once more.
func verifySignature(k *key, signed, signature string) bool {
	sig, err := base64.RawURLEncoding.Strict().DecodeString(signature)
	if err != nil {
		return false
	}
	switch public := k.Key.(type) {
	case *ecdsa.PublicKey: // RFC 7518 section 3.4
		if k.Algorithm != string(jose.ES256) || len(sig) != 64 {
			return false
		}
		sum := sha256.Sum256([]byte(signed))
		return ecdsa.Verify(public, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
	case ed25519.PublicKey: // RFC 8037 section 3.1
		return k.Algorithm == string(jose.EdDSA) && len(sig) == ed25519.SignatureSize && ed25519.Verify(public, []byte(signed), sig)
	case *rsa.PublicKey: // RFC 7518 section 3.3
		sum := sha256.Sum256([]byte(signed))
		return k.Algorithm == string(jose.RS256) && rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], sig) == nil
	}
	return false
}
