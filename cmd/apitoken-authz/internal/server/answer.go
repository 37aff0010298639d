package server

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/rules"
)

// Answer is the decision about a request.
type Answer struct {
	Allowed  bool
	Status   int           // of HTTP
	Reason   access.Reason // empty if Allowed
	Detail   string        // for logs
	Rule     *rules.Rule   // that matched; nil: none
	Decision verify.Decision
	Header   http.Header // challenges and limits, for the client; nil: none
	Remove   []string    // headers of the client that must not reach the API

	secret string // the token, to keep it out of logs
}

func (a *Answer) set(name, value string) {
	if a.Header == nil {
		a.Header = http.Header{}
	}
	a.Header.Set(name, value)
}

// statusOf returns the HTTP status of a reason: 403 if the token is good for something else, 401 if not.
func statusOf(reason access.Reason) int {
	switch reason {
	case access.InsufficientScope, access.AddressNotAllowed, access.HostNotAllowed, "region_not_allowed":
		return http.StatusForbidden
	case reasonLimited:
		return http.StatusTooManyRequests
	case verify.BadRequest:
		return http.StatusBadRequest
	}
	return http.StatusUnauthorized
}

// oauthError returns the error code of RFC 6750 section 3.1 or RFC 9449 section 7.1.
func oauthError(reason access.Reason) string {
	switch reason {
	case verify.Missing:
		return ""
	case verify.NonceRequired:
		return "use_dpop_nonce"
	case verify.ProofInvalid, verify.ProofReplayed, verify.ProofRequired:
		return "invalid_dpop_proof"
	case access.InsufficientScope:
		return "insufficient_scope"
	}
	switch statusOf(reason) {
	case http.StatusUnauthorized:
		return "invalid_token"
	case http.StatusBadRequest:
		return "invalid_request"
	}
	return ""
}

// challenge adds WWW-Authenticate (RFC 6750 section 3). A 403 has a challenge only for a missing scope.
func (a *Answer) challenge(realm string, c *credentials, rule *rules.Rule) {
	code := oauthError(a.Reason)
	if a.Status != http.StatusUnauthorized && a.Reason != access.InsufficientScope {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "realm=%q", realm)
	if code != "" {
		fmt.Fprintf(&b, ", error=%q", code)
	}
	if a.Reason == access.InsufficientScope {
		fmt.Fprintf(&b, ", scope=%q", strings.Join(rule.Scopes, " "))
	}
	if strings.EqualFold(c.scheme, "DPoP") || code == "invalid_dpop_proof" || code == "use_dpop_nonce" {
		a.set("WWW-Authenticate", "DPoP "+b.String()+`, algs="ES256 EdDSA RS256"`)
		return
	}
	a.set("WWW-Authenticate", "Bearer "+b.String())
}

// setLimit states the limit of a token, as draft-ietf-httpapi-ratelimit-headers does.
func (a *Answer) setLimit(l *verify.RateStatus) {
	if l == nil {
		return
	}
	a.set("RateLimit-Policy", fmt.Sprintf(`"token";q=%d;w=%s`, l.Limit, seconds(l.Window)))
	a.set("RateLimit", fmt.Sprintf(`"token";r=%d;t=%s`, l.Remaining, seconds(l.Reset)))
}

// code returns what a refused client may know of the reason.
func (a *Answer) code() string {
	if code := oauthError(a.Reason); code != "" && a.Reason != reasonMissing {
		return code
	}
	switch a.Status {
	case http.StatusUnauthorized:
		return "token_required"
	case http.StatusBadRequest:
		return "invalid_request"
	case http.StatusTooManyRequests:
		return "rate_limited"
	case http.StatusServiceUnavailable:
		return "temporarily_unavailable"
	}
	return "forbidden"
}

func (a *Answer) body() string { return fmt.Sprintf("{\"error\":%q}\n", a.code()) }

// writeAny writes an answer for gateways that show every refusal to the client.
func writeAny(w http.ResponseWriter, a *Answer) {
	h := w.Header()
	for name, values := range a.Header {
		h[name] = values
	}
	h.Set("Cache-Control", "no-store")
	if a.Allowed {
		setIdentity(h, a)
		w.WriteHeader(http.StatusOK)
		return
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(a.Status)
	_, _ = w.Write([]byte(a.body()))
}

// writeNginx writes an answer for auth_request, which makes 500 of every status but 2xx, 401 and 403. X-Token-Reason has the
// reason for nginx, which does not show the header to the client by itself.
func writeNginx(w http.ResponseWriter, a *Answer) {
	h := w.Header()
	for name, values := range a.Header {
		h[name] = values
	}
	h.Set("Cache-Control", "no-store")
	switch {
	case a.Allowed:
		setIdentity(h, a)
		w.WriteHeader(http.StatusNoContent)
		return
	case a.Status == http.StatusUnauthorized:
	default:
		a.Status = http.StatusForbidden
	}
	h.Set("X-Token-Reason", string(a.Reason))
	w.WriteHeader(a.Status)
}

func setIdentity(h http.Header, a *Answer) {
	values := identity(&a.Decision)
	for i, name := range identityHeaders {
		h[name] = []string{values[i]}
	}
}
