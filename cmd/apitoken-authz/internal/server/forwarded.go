package server

import (
	"net/http"
	"strings"
)

// readForwarded reads a request that Caddy's forward_auth or Traefik's ForwardAuth describes in headers.
func readForwarded(s *Server, r *http.Request) (*Request, *problem) {
	values, p := singles(r.Header, "X-Forwarded-Method", "X-Forwarded-Uri", "X-Forwarded-Host", "X-Forwarded-Proto")
	if p != nil {
		return nil, p
	}
	// The gateway appends the address that it sees to the hops that it was told of.
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	last := len(hops) - 1
	nearest, ok := parseAddr(strings.TrimSpace(hops[last]))
	if !ok {
		return nil, bad(reasonBadRequest, "X-Forwarded-For is missing, or does not end with an address")
	}
	client, p := s.client(nearest, hops[:last])
	if p != nil {
		return nil, p
	}
	q := newRequest()
	q.Method, q.Target, q.Host, q.Scheme, q.Client, q.Header = values[0], values[1], values[2], values[3], client, r.Header
	if q.Certificate, p = s.certificateOf(r.Header); p != nil {
		return nil, p
	}
	return q, nil
}

// readCaddy reads a request like readForwarded. Caddy sets the header of the certificate on every request, so that a missing one
// shows a Caddyfile without header_up: clients could send the header themselves.
func readCaddy(s *Server, r *http.Request) (*Request, *problem) {
	if h := s.settings.CertificateHeader; h != nil {
		if _, set := r.Header[h.Name]; !set {
			return nil, bad(reasonBadRequest, "the gateway has not set "+h.Name)
		}
	}
	return readForwarded(s, r)
}
