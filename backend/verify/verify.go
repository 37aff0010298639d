// Package verify checks tokens where they are used, in an API server or beside a gateway. It knows no Vault SDK: an API
// server imports it alone. A Verifier keeps what it has learned of a token, asks the engine's feed once a second what has
// changed, and makes each decision anew with the engine's own decision function.
package verify

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/netip"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

// Use is the use of a token, as the API or its gateway sees the request.
type Use struct {
	Scopes   []string // required scopes, all of them; nil: none
	Audience string   // of the API; empty: Config.Audience

	Method string     // for proofs (RFC 9449 section 4.3)
	URL    string     // as the client sees it: scheme, host and path, for proofs; a query is ignored
	Host   string     // that the client asked; empty: not stated
	Client netip.Addr // address of the client; invalid: not stated
	Region string     // ISO 3166-1 alpha-2; empty: looked up from Client if Config.GeoIP is set

	Scheme      string            // of the Authorization header: Bearer or DPoP, in any case; empty: Bearer
	Proofs      []string          // all DPoP headers of the request; more than one is refused
	Certificate *x509.Certificate // of the client (RFC 8705); nil: none
}

// Decision is the answer about one use of a token. A refused use has a Reason. What is not known is zero.
type Decision struct {
	Allowed bool
	Reason  access.Reason // zero if Allowed
	Detail  string        // the reason in a sentence, for logs; not for clients

	TokenID     string // public name of the token, safe to log
	GrantID     string // equals TokenID, or begins it
	Role        string
	Subject     string // Vault entity; empty: none
	Scopes      access.Scopes
	ExpiresAt   time.Time
	Environment string
	Metadata    map[string]string // of the role; not to be changed

	RetryAfter time.Duration // of reason rate_limited
	Limit      *RateStatus   // nil: the role has no rate_limit
	Nonce      string        // DPoP-Nonce for the answer; empty: none
}

// RateStatus is what the RateLimit header fields say.
type RateStatus struct {
	Limit, Remaining int
	Window, Reset    time.Duration
}

// Verifier checks tokens. It is safe for concurrent use.
type Verifier struct{ impl }

// New returns a Verifier, and reads keys and the feed before it returns. It fails if Config is wrong or if the issuer
// cannot be reached. Close stops its background work.
func New(ctx context.Context, c Config) (*Verifier, error) { return open(ctx, c) }

// Check decides whether a token is good for a use. The error is not nil if no decision can be made, since the engine
// cannot be reached or answers with an error: the use must then be refused with 503.
func (v *Verifier) Check(ctx context.Context, token string, use *Use) (Decision, error) {
	return v.check(ctx, token, use)
}

// Middleware returns a net/http middleware that checks the token of each request. Options state what the API requires.
// A refused request gets the challenges of RFC 6750 section 3 and RFC 9449 section 7.1: 401, 403, or 429 with
// Retry-After; 503 if no decision can be made. The Decision of an allowed request is in its context: see From.
func (v *Verifier) Middleware(options ...Option) func(http.Handler) http.Handler {
	return v.middleware(options)
}

// State returns what a readiness probe asks: how old keys, lists and the feed are.
func (v *Verifier) State() State { return v.state() }

// Close stops background work, and sends what is left of the usage report.
func (v *Verifier) Close() error { return v.close() }
