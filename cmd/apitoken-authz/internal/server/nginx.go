package server

import "net/http"

// Headers that nginx sets by proxy_set_header.
const (
	originalMethod = "X-Original-Method" // $request_method
	originalURI    = "X-Original-Uri"    // $request_uri
	originalHost   = "X-Original-Host"   // $http_host
	originalProto  = "X-Original-Proto"  // $scheme
	originalAddr   = "X-Original-Addr"   // $remote_addr
	originalCert   = "X-Original-Cert"   // $ssl_client_escaped_cert; only with client_certificates
)

// readNginx reads a request whose method, target and Host header are those of the client: nginx passes the request line on,
// with /nginx before the target. No header says what the request is.
func readNginx(s *Server, r *http.Request) (*Request, *problem) {
	values, p := singles(r.Header, originalProto, originalAddr)
	if p != nil {
		return nil, p
	}
	return s.fromNginx(r, r.Method, r.RequestURI[len(nginxPrefix):], r.Host, values[0], values[1])
}

// readNginxHeaders reads a request that nginx describes in headers.
func readNginxHeaders(s *Server, r *http.Request) (*Request, *problem) {
	values, p := singles(r.Header, originalMethod, originalURI, originalHost, originalProto, originalAddr)
	if p != nil {
		return nil, p
	}
	return s.fromNginx(r, values[0], values[1], values[2], values[3], values[4])
}

func (s *Server) fromNginx(r *http.Request, method, target, host, proto, addr string) (*Request, *problem) {
	nearest, ok := parseAddr(addr)
	if !ok {
		return nil, bad(reasonBadRequest, originalAddr+" is not an address")
	}
	client, p := s.client(nearest, r.Header["X-Forwarded-For"])
	if p != nil {
		return nil, p
	}
	q := newRequest()
	q.Method, q.Target, q.Host, q.Scheme, q.Client, q.Header = method, target, host, proto, client, r.Header
	if s.settings.ClientCertificates {
		if q.Certificate, p = oneCertificate(r.Header, originalCert, parseCertificate); p != nil {
			return nil, p
		}
	}
	return q, nil
}
