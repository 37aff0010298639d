package verify

import (
	"crypto"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	strictjson "github.com/go-jose/go-jose/v4/json"
)

// proofAlgorithms are the algorithms of proofs: all that are asymmetric (RFC 9449 section 4.3, check 5).
var proofAlgorithms = []jose.SignatureAlgorithm{
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA, jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
}

const (
	maxProof  = 8 << 10 // bytes of a proof
	maxRSA    = 4096    // bits of the key of a proof: larger keys cost too much
	minRSA    = 2048
	nonceSlot = 2 * time.Minute // a nonce of this or of the last slot is good
)

// proof is the payload of a proof (RFC 9449 section 4.2).
type proof struct {
	ID        string `json:"jti"`
	Method    string `json:"htm"`
	URL       string `json:"htu"`
	IssuedAt  int64  `json:"iat"`
	TokenHash string `json:"ath"`
	Nonce     string `json:"nonce"`
}

var errTooManyProofs = errors.New("more proofs are remembered than DPoP.MaxProofs allows: a replay would not be noticed")

// proofs are the proofs that were used (RFC 9449 section 11.1), by the hash of key and jti. A proof is remembered in two
// generations, each as long as a proof can be good: its age, and the skew of the clocks on both sides.
type proofs struct {
	window time.Duration
	most   int

	mu     sync.Mutex
	latest map[[16]byte]struct{}
	former map[[16]byte]struct{}
	turned time.Time
}

func newProofs(c *Config) *proofs {
	return &proofs{window: c.DPoP.MaxAge + 2*c.ClockSkew + time.Second, most: c.DPoP.MaxProofs, latest: make(map[[16]byte]struct{})}
}

// use remembers a proof. It returns false if the proof was used before.
func (p *proofs) use(thumbprint, id string, now time.Time) (bool, error) {
	sum := sha256.Sum256([]byte(thumbprint + "\x00" + id))
	name := [16]byte(sum[:16])
	p.mu.Lock()
	defer p.mu.Unlock()
	if age := now.Sub(p.turned); age >= p.window {
		p.former, p.latest, p.turned = p.latest, make(map[[16]byte]struct{}), now
		if age >= 2*p.window {
			p.former = nil
		}
	}
	if _, used := p.latest[name]; used {
		return false, nil
	}
	if _, used := p.former[name]; used {
		return false, nil
	}
	if len(p.latest)+len(p.former) >= p.most {
		return false, errTooManyProofs
	}
	p.latest[name] = struct{}{}
	return true, nil
}

// proveDPoP checks the proof of a use by RFC 9449 section 4.3.
func (v *impl) proveDPoP(f *facts, text string, use *Use, now time.Time, d *Decision) error {
	d.Nonce = v.nonce(now)
	switch len(use.Proofs) {
	case 0:
		d.Reason, d.Detail = ProofRequired, "the request has no DPoP proof"
		return nil
	case 1:
	default: // check 1
		d.Reason, d.Detail = ProofInvalid, "the request has more than one DPoP proof"
		return nil
	}
	p, thumbprint, problem := openProof(use.Proofs[0])
	if problem == "" {
		problem = v.checkProof(p, thumbprint, f, text, use, now)
	}
	if problem != "" {
		d.Reason, d.Detail = ProofInvalid, "the DPoP proof "+problem
		return nil
	}
	if d.Nonce != "" && !v.goodNonce(p.Nonce, now) { // check 10
		d.Reason, d.Detail = NonceRequired, "the DPoP proof has no nonce of the last minutes"
		return nil
	}
	first, err := v.proofs.use(thumbprint, p.ID, now)
	if err == nil && !first {
		d.Reason, d.Detail = ProofReplayed, "the DPoP proof was used before"
	}
	return err
}

// openProof verifies the signature of a proof with the key in its header: checks 2 to 7. problem completes the sentence
// "the DPoP proof ...".
func openProof(text string) (p *proof, thumbprint, problem string) {
	if len(text) > maxProof {
		return nil, "", "is too long"
	}
	signed, err := jose.ParseSignedCompact(text, proofAlgorithms)
	if err != nil {
		return nil, "", "is no JWT signed with an asymmetric algorithm"
	}
	header := signed.Signatures[0].Protected
	jwk := header.JSONWebKey
	switch {
	case header.ExtraHeaders[jose.HeaderType] != "dpop+jwt":
		return nil, "", "has a typ other than dpop+jwt"
	case header.ExtraHeaders["crit"] != nil:
		return nil, "", "has critical header parameters"
	case jwk == nil || !jwk.Valid() || !jwk.IsPublic():
		return nil, "", "has no public key in its header"
	}
	if public, isRSA := jwk.Key.(*rsa.PublicKey); isRSA && (public.N.BitLen() > maxRSA || public.N.BitLen() < minRSA) {
		return nil, "", "has an RSA key that is too short or too long"
	}
	payload, err := signed.Verify(jwk.Key)
	if err != nil {
		return nil, "", "has a wrong signature"
	}
	p = new(proof)
	if err := strictjson.Unmarshal(payload, p); err != nil {
		return nil, "", "has a payload that is not that of a proof"
	}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, "", "has a key without a thumbprint"
	}
	return p, base64.RawURLEncoding.EncodeToString(sum), ""
}

// checkProof checks what a proof with a good signature says: checks 3, 8, 9, 11 and 12.
func (v *impl) checkProof(p *proof, thumbprint string, f *facts, text string, use *Use, now time.Time) (problem string) {
	issued := time.Unix(p.IssuedAt, 0)
	switch skew := v.config.ClockSkew; {
	case p.ID == "" || len(p.ID) > 256:
		return "has no jti, or a long one"
	case !sameText(thumbprint, f.bound.JKT):
		return "is signed with another key than the token is bound to"
	case p.Method == "" || p.Method != use.Method:
		return "is for another method"
	case !sameURL(p.URL, use.URL):
		return "is for another URL"
	case issued.After(now.Add(skew)):
		return "was made in the future"
	case now.Sub(issued) > v.config.DPoP.MaxAge+skew:
		return "is too old"
	case !sameText(p.TokenHash, tokenHash(text)):
		return "is for another token"
	}
	return ""
}

// sameURL compares URLs without query and fragment, after the normalisation of RFC 3986 sections 6.2.2 and 6.2.3.
func sameURL(a, b string) bool {
	x, ok1 := normal(a)
	y, ok2 := normal(b)
	return ok1 && ok2 && x == y
}

func normal(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil {
		return "", false
	}
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	switch scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	default:
		return "", false
	}
	path := upperEscapes(u.EscapedPath())
	if path == "" {
		path = "/"
	}
	return scheme + "://" + host + path, true
}

// upperEscapes writes percent-encoded bytes with upper-case digits.
func upperEscapes(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	b := []byte(path)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:], strings.ToUpper(string(b[i+1:i+3])))
			i += 2
		}
	}
	return string(b)
}

// nonce returns the nonce of now (RFC 9449 section 8): a MAC of the time, so that replicas with one key agree and nothing
// is remembered. Empty: no nonce is required.
func (v *impl) nonce(now time.Time) string {
	if v.config.DPoP.NonceKey == nil {
		return ""
	}
	return v.nonceOf(now.Unix() / int64(nonceSlot/time.Second))
}

func (v *impl) nonceOf(slot int64) string {
	mac := hmac.New(sha256.New, v.config.DPoP.NonceKey)
	mac.Write([]byte("apitoken-dpop-nonce"))
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], uint64(slot)) //nolint:gosec // only the bytes count
	mac.Write(number[:])
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// goodNonce reports whether a nonce is of this slot, the last, or the next, which another clock may have begun.
func (v *impl) goodNonce(nonce string, now time.Time) bool {
	slot := now.Unix() / int64(nonceSlot/time.Second)
	for _, s := range [...]int64{slot, slot - 1, slot + 1} {
		if sameText(nonce, v.nonceOf(s)) {
			return true
		}
	}
	return false
}

// tokenHash returns the "ath" of a token (RFC 9449 section 4.2).
func tokenHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
