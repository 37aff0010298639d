package verify

import (
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

func (v *impl) middleware(options []Option) func(http.Handler) http.Handler {
	var required requirement
	for _, o := range options {
		o(&required)
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d, err := v.checkRequest(r, &required)
			if err != nil {
				v.config.Logger.ErrorContext(r.Context(), "cannot decide on a token", slog.Any("error", err))
				w.Header().Set("Retry-After", "1")
				http.Error(w, "the token cannot be checked now", http.StatusServiceUnavailable)
				return
			}
			for _, observe := range required.observers {
				observe(r.Context(), d)
			}
			d.SetHeaders(w.Header(), required.scopes)
			if !d.Allowed {
				v.config.Logger.InfoContext(r.Context(), "token refused", slog.Any("decision", d))
				status := d.Status()
				http.Error(w, http.StatusText(status), status)
				return
			}
			next.ServeHTTP(w, r.WithContext(NewContext(r.Context(), d)))
		})
	}
}

// checkRequest decides on the token of a request.
func (v *impl) checkRequest(r *http.Request, required *requirement) (Decision, error) {
	scheme, text, problem := credentials(r)
	if problem != "" {
		return Decision{Reason: BadRequest, Detail: problem}, nil
	}
	use := &Use{
		Scopes: required.scopes, Audience: required.audience, Method: r.Method, Scheme: scheme, Proofs: r.Header.Values("DPoP"),
		Host: r.Host,
	}
	peer, err := access.ParseClientIP(r.RemoteAddr)
	if err == nil {
		use.Client = ClientAddress(peer, r.Header.Values("X-Forwarded-For"), v.proxies)
	}
	https := "http"
	if r.TLS != nil {
		https = "https"
		if len(r.TLS.PeerCertificates) > 0 {
			use.Certificate = r.TLS.PeerCertificates[0]
		}
	}
	if err == nil && trusted(peer, v.proxies) {
		if host := last(r.Header.Values("X-Forwarded-Host")); host != "" {
			use.Host = host
		}
		if proto := last(r.Header.Values("X-Forwarded-Proto")); proto != "" {
			https = proto
		}
	}
	if len(use.Proofs) > 0 {
		use.URL = https + "://" + use.Host + r.URL.EscapedPath()
	}
	return v.check(r.Context(), text, use)
}

// credentials returns the token of a request and its scheme (RFC 6750 section 2.1, RFC 9449 section 7.1). A request
// without a token has neither.
func credentials(r *http.Request) (scheme, text, problem string) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return "", "", ""
	}
	if len(headers) > 1 {
		return "", "", "the request has more than one Authorization header"
	}
	scheme, text, _ = strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "DPoP") {
		return "", "", ""
	}
	if text = strings.TrimLeft(text, " "); text == "" {
		return "", "", "the Authorization header has no token"
	}
	if strings.Contains(r.URL.RawQuery, "access_token=") { // RFC 6750 section 2
		return "", "", "the request has a token in the query as well"
	}
	return scheme, text, ""
}

// ClientAddress returns the address of the client: the rightmost address of X-Forwarded-For that is no trusted proxy, if
// the peer is one. The address is invalid if that proxy does not name it: bound tokens are then refused.
func ClientAddress(peer netip.Addr, forwarded []string, proxies []netip.Prefix) netip.Addr {
	client := peer.Unmap().WithZone("")
	if !trusted(client, proxies) {
		return client
	}
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	for _, hop := range slices.Backward(hops) {
		if hop = strings.TrimSpace(hop); hop == "" && len(hops) == 1 {
			return client // the proxy itself asks
		}
		addr, err := access.ParseClientIP(strings.Trim(hop, `"`))
		if err != nil {
			return netip.Addr{}
		}
		if client = addr.Unmap().WithZone(""); !trusted(client, proxies) {
			return client
		}
	}
	return client
}

func trusted(addr netip.Addr, proxies []netip.Prefix) bool {
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// last returns the last element of a header: that of the nearest proxy.
func last(values []string) string {
	if len(values) == 0 {
		return ""
	}
	value := values[len(values)-1]
	return strings.TrimSpace(value[strings.LastIndexByte(value, ',')+1:])
}

// Status returns the status of the answer to the client: 200, 400, 401, 403 or 429.
func (d Decision) Status() int {
	switch d.Reason {
	case access.Good:
		return http.StatusOK
	case BadRequest:
		return http.StatusBadRequest
	case RateLimited:
		return http.StatusTooManyRequests
	case access.InsufficientScope, access.AddressNotAllowed, access.RegionNotAllowed, access.HostNotAllowed:
		return http.StatusForbidden
	}
	return http.StatusUnauthorized
}

// SetHeaders sets the headers of the answer to the client: the challenges of a refused use (RFC 6750 section 3, RFC 9449
// section 7.1), DPoP-Nonce, Retry-After and the RateLimit fields. scopes are those that the use requires.
func (d Decision) SetHeaders(h http.Header, scopes []string) {
	for _, c := range d.challenges(scopes) {
		h.Add("WWW-Authenticate", c)
	}
	if d.Nonce != "" {
		h.Set("DPoP-Nonce", d.Nonce)
		h.Add("Cache-Control", "no-store")
	}
	if d.RetryAfter > 0 {
		h.Set("Retry-After", seconds(d.RetryAfter))
	}
	if l := d.Limit; l != nil { // draft-ietf-httpapi-ratelimit-headers
		h.Set("RateLimit-Policy", fmt.Sprintf(`"token";q=%d;w=%s`, l.Limit, seconds(l.Window)))
		h.Set("RateLimit", fmt.Sprintf(`"token";r=%d;t=%s`, l.Remaining, seconds(l.Reset)))
	}
}

// seconds rounds up, so that nobody comes too early.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(math.Ceil(d.Seconds())), 10)
}

// proofNames are the algorithms of proofs, for the challenge.
var proofNames = func() string {
	names := make([]string, len(proofAlgorithms))
	for i, a := range proofAlgorithms {
		names[i] = string(a)
	}
	return strings.Join(names, " ")
}()

// challenges returns the WWW-Authenticate fields of the answer. They do not say more of a token than that it is not good.
func (d Decision) challenges(scopes []string) []string {
	dpop := `DPoP algs="` + proofNames + `"`
	switch d.Reason {
	case access.Good, RateLimited:
		return nil
	case Missing: // RFC 6750 section 3.1: no error code
		return []string{"Bearer", dpop}
	case BadRequest:
		return []string{`Bearer error="invalid_request"`}
	case access.InsufficientScope:
		return []string{fmt.Sprintf(`Bearer error="insufficient_scope", scope="%s"`, strings.Join(scopes, " "))}
	case access.AddressNotAllowed, access.RegionNotAllowed, access.HostNotAllowed:
		return nil
	case ProofRequired:
		return []string{dpop + `, error="invalid_token"`}
	case ProofInvalid, ProofReplayed:
		return []string{dpop + `, error="invalid_dpop_proof"`}
	case NonceRequired:
		return []string{dpop + `, error="use_dpop_nonce"`}
	}
	return []string{`Bearer error="invalid_token"`}
}
