package server

import (
	"fmt"
	"net/http"

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

	request  *Request // that the answer is a part of; nil: of none
	secret   string   // the token, to keep it out of logs
	identity [len(identityHeaders)]string
}

// free frees the request that the answer is a part of, after the answer was written.
func (a *Answer) free() {
	if a.request != nil {
		a.request.free()
	}
}

func (a *Answer) set(name, value string) { a.header().Set(name, value) }

// header returns the headers of an answer to which the first header is added.
func (a *Answer) header() http.Header {
	if a.Header == nil {
		a.Header = http.Header{}
	}
	return a.Header
}

// code returns what a refused client may know of the reason.
func (a *Answer) code() string {
	switch a.Reason {
	case reasonMissing:
		return "token_required"
	case access.InsufficientScope:
		return "insufficient_scope"
	case verify.ProofInvalid, verify.ProofReplayed:
		return "invalid_dpop_proof"
	case verify.NonceRequired:
		return "use_dpop_nonce"
	}
	switch a.Status {
	case http.StatusUnauthorized:
		return "invalid_token"
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

// noStore is a value of Cache-Control that answers share.
var noStore = []string{"no-store"}

// writeAny writes an answer for gateways that show every refusal to the client.
func writeAny(w http.ResponseWriter, a *Answer) {
	h := w.Header()
	for name, values := range a.Header {
		h[name] = values
	}
	h["Cache-Control"] = noStore
	if a.Allowed {
		setIdentity(h, a)
		w.WriteHeader(http.StatusOK)
		return
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(a.Status)
	_, _ = w.Write([]byte(a.body())) //nolint:gosec // one of a few texts of this file
}

// writeNginx writes an answer for auth_request, which makes 500 of every status but 2xx, 401 and 403. X-Token-Reason has the
// reason for nginx, which does not show the header to the client by itself.
func writeNginx(w http.ResponseWriter, a *Answer) {
	h := w.Header()
	for name, values := range a.Header {
		h[name] = values
	}
	h["Cache-Control"] = noStore
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
	a.identity = identity(&a.Decision)
	for i, name := range identityHeaders {
		h[name] = a.identity[i : i+1 : i+1]
	}
}
