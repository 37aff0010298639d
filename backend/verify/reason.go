package verify

import "github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"

// Reasons besides those of access.Decide.
const (
	Missing       access.Reason = "missing"        // the request has no token
	BadRequest    access.Reason = "bad_request"    // the request has two tokens, or a header that cannot be read
	ProofRequired access.Reason = "proof_required" // the token is bound to a key, and the request has no proof
	ProofInvalid  access.Reason = "proof_invalid"  // the proof is not good, or the token is bound to another key
	ProofReplayed access.Reason = "proof_replayed" // the proof was used before
	NonceRequired access.Reason = "use_dpop_nonce" // the proof must have the nonce of the answer
	RateLimited   access.Reason = "rate_limited"   // the token's rate_limit, or too many unknown tokens
)
