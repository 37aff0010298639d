package server

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/url"
)

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
	q := &Request{Method: method, Target: target, Host: host, Scheme: proto, Client: client, Header: r.Header}
	if s.settings.ClientCertificates {
		if q.Certificate, p = certificate(r.Header[originalCert]); p != nil {
			return nil, p
		}
	}
	return q, nil
}

// certificate reads a header with a certificate in PEM, percent-encoded. nginx leaves out the header if the client has no
// certificate, and then removes what the client sent under the name.
func certificate(values []string) (*x509.Certificate, *problem) {
	switch len(values) {
	case 0:
		return nil, nil
	case 1:
		return parseCertificate(values[0])
	}
	return nil, bad(reasonBadRequest, originalCert+" was sent more than once")
}

// parseCertificate parses a certificate in PEM, percent-encoded. An empty text is no certificate.
func parseCertificate(escaped string) (*x509.Certificate, *problem) {
	if escaped == "" {
		return nil, nil
	}
	text, err := url.PathUnescape(escaped)
	if err != nil {
		return nil, bad(reasonBadRequest, "the client's certificate is not percent-encoded PEM")
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, bad(reasonBadRequest, "the client's certificate is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, bad(reasonBadRequest, "the client's certificate cannot be parsed")
	}
	return cert, nil
}
