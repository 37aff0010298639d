package server

import (
	"crypto/x509"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/target"
)

// Request is a client's request, as a gateway states it.
type Request struct {
	Gateway     string
	Method      string
	Target      string // as sent, with the query
	Scheme      string // http or https
	Host        string // may have a port
	Client      netip.Addr
	Header      http.Header // of the client. Names are in Go's canonical form, or as sent if they have none
	Certificate *x509.Certificate

	target target.Target
	host   string // without port

	// Parts of the request, so that a decision allocates once.
	use    verify.Use
	answer Answer
}

// requests are kept for later questions: a Request is the largest part of what a decision would allocate.
var requests = sync.Pool{New: func() any { return new(Request) }}

func newRequest() *Request { return requests.Get().(*Request) }

// free forgets a request, and keeps its memory for another. Nobody may use the request, or the answer that is its part, later on.
func (r *Request) free() {
	*r = Request{}
	requests.Put(r)
}

// Reasons besides those of the library.
const (
	reasonNoRule     access.Reason = "no_rule"             // no rule matches
	reasonBadTarget  access.Reason = "ambiguous_target"    // two servers could read the target differently
	reasonBadRequest               = verify.BadRequest     // a header is missing, twice or not readable
	reasonOverride   access.Reason = "override_header"     // a header asks for another method or path
	reasonParameter  access.Reason = "override_parameter"  // the query asks for another method
	reasonIdentity   access.Reason = "identity_header"     // the client sent a header that only the authorizer may set
	reasonGateway    access.Reason = "gateway_not_allowed" // the peer is not a gateway of the configuration
	reasonMissing                  = verify.Missing        // there is no token
	reasonLimited                  = verify.RateLimited    // over the rate of a rule or of a token
	reasonNoDecision access.Reason = "unavailable"         // the engine cannot be asked
	reasonInternal   access.Reason = "internal"            // a fault of the authorizer
)

// problem is why a request is refused before the token is looked at.
type problem struct {
	status int
	reason access.Reason
	detail string // for logs
}

func bad(reason access.Reason, detail string) *problem {
	return &problem{status: http.StatusBadRequest, reason: reason, detail: detail}
}

// single returns the value of a header that the gateway sets. It must be there once, and not be empty.
func single(h http.Header, name string) (string, *problem) {
	values := h[name]
	switch {
	case len(values) == 0 || values[0] == "":
		return "", bad(reasonBadRequest, "the gateway has not set "+name)
	case len(values) > 1:
		return "", bad(reasonBadRequest, name+" was sent more than once")
	}
	return values[0], nil
}

// singles returns the values of up to five headers.
func singles(h http.Header, names ...string) (values [5]string, p *problem) {
	for i, name := range names {
		if values[i], p = single(h, name); p != nil {
			return values, p
		}
	}
	return values, nil
}

// client returns the address of the client: the rightmost address of a chain of hops that is not a trusted proxy. nearest
// is the address that the gateway saw. before are the values of X-Forwarded-For, which only trusted proxies have appended to.
func (s *Server) client(nearest netip.Addr, before []string) (netip.Addr, *problem) {
	addr := verify.ClientAddress(nearest, before, s.proxies)
	if !addr.IsValid() {
		return addr, bad(reasonBadRequest, "X-Forwarded-For has a hop that is not an address")
	}
	return addr, nil
}

// parseAddr parses an address with or without a port. IPv4 addresses in IPv6 form become IPv4 addresses.
func parseAddr(s string) (netip.Addr, bool) {
	addr, err := access.ParseClientIP(s)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	return addr.Unmap(), true
}

// parse checks the parts of the request that every gateway states.
func (r *Request) parse() *problem {
	if !isMethod(r.Method) {
		return bad(reasonBadRequest, "the method is not a name in capital letters")
	}
	if r.Scheme != "http" && r.Scheme != "https" {
		return bad(reasonBadRequest, "the scheme is neither http nor https")
	}
	host, err := access.ParseHost(r.Host)
	if err != nil {
		return bad(reasonBadRequest, "the host is not a host name, with or without a port")
	}
	r.host = host
	if err = r.target.Set(r.Target); err != nil {
		return bad(reasonBadTarget, err.Error())
	}
	if inQuery(r.target.Query, overrideParameter) {
		return bad(reasonParameter, "the query has the parameter "+overrideParameter+", which asks for another method")
	}
	return nil
}

// inMethod has the bytes of a method.
var inMethod = bytesOf("ABCDEFGHIJKLMNOPQRSTUVWXYZ-_0123456789")

func isMethod(s string) bool {
	for i := range len(s) {
		if !inMethod[s[i]] {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

// url returns the URL as the client sees it, without the query (RFC 9449 section 4.2).
func (r *Request) url() string { return r.Scheme + "://" + r.Host + r.target.Path }

// logPath returns the target without its query and its fragment, in which clients put secrets, encoded or not.
func (r *Request) logPath() string {
	for i := range len(r.Target) {
		switch c := r.Target[i]; {
		case c == '?' || c == '#':
			return r.Target[:i]
		case c == '%' && i+2 < len(r.Target):
			if code := r.Target[i+1 : i+3]; strings.EqualFold(code, "3f") || code == "23" {
				return r.Target[:i]
			}
		}
	}
	return r.Target
}
