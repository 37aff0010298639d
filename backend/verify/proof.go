package verify

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

// prove checks that the use comes from the holder of the key that the token is bound to (RFC 9449, RFC 8705). The scheme
// of the header must fit the token: a token bound by DPoP is never a bearer token, and a bearer token needs no proof.
func (v *impl) prove(f *facts, text string, use *Use, now time.Time, d *Decision) error {
	scheme := use.Scheme
	isDPoP := strings.EqualFold(scheme, "DPoP")
	refuse := func(reason access.Reason, detail string) error {
		d.Reason, d.Detail = reason, detail
		return nil
	}
	switch {
	case !isDPoP && scheme != "" && !strings.EqualFold(scheme, "Bearer"):
		return refuse(ProofInvalid, "the scheme of the Authorization header is neither Bearer nor DPoP")
	case f.bound != nil && f.bound.JKT != "":
		if !isDPoP { // RFC 9449 section 7.2
			return refuse(ProofRequired, "the token is bound to a key by DPoP, and was sent as a Bearer token")
		}
		return v.proveDPoP(f, text, use, now, d)
	case isDPoP:
		return refuse(ProofInvalid, "the token is not bound to a key by DPoP, and was sent with the scheme DPoP")
	case f.bound != nil:
		if use.Certificate == nil {
			return refuse(ProofRequired, "the token is bound to a certificate, and the connection has none")
		}
		sum := sha256.Sum256(use.Certificate.Raw)
		if !sameText(base64.RawURLEncoding.EncodeToString(sum[:]), f.bound.X5T) {
			return refuse(ProofInvalid, "the token is bound to another certificate")
		}
	}
	return nil
}

func sameText(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
