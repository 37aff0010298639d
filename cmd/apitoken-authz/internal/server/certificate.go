package server

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/url"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
)

// oneCertificate reads a certificate from a header. Gateways leave out the header if the client has no certificate, and then
// remove what the client sent under the name.
func oneCertificate(h http.Header, name string, parse func(string) (*x509.Certificate, *problem)) (*x509.Certificate, *problem) {
	switch values := h[name]; len(values) {
	case 0:
		return nil, nil
	case 1:
		return parse(values[0])
	}
	return nil, bad(reasonBadRequest, name+" was sent more than once")
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
	return parseDER(block.Bytes)
}

// parseBase64 parses a certificate in DER in base64. Of several, which commas separate, the first is the client's. An empty text is
// no certificate, nor is a text in braces: a placeholder that Caddy has not replaced, since there is no certificate.
func parseBase64(text string) (*x509.Certificate, *problem) {
	first, _, _ := strings.Cut(text, ",")
	if first == "" || first[0] == '{' && first[len(first)-1] == '}' {
		return nil, nil
	}
	der, err := base64.StdEncoding.Strict().DecodeString(first)
	if err != nil {
		return nil, bad(reasonBadRequest, "the client's certificate is not base64")
	}
	return parseDER(der)
}

func parseDER(der []byte) (*x509.Certificate, *problem) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, bad(reasonBadRequest, "the client's certificate cannot be parsed")
	}
	return cert, nil
}

// certificateOf reads the certificate of a request that Caddy or Traefik describes, if the configuration names a header.
func (s *Server) certificateOf(h http.Header) (*x509.Certificate, *problem) {
	from := s.settings.CertificateHeader
	switch {
	case from == nil:
		return nil, nil
	case from.Encoding == config.EncodingPEM:
		return oneCertificate(h, from.Name, parseCertificate)
	}
	return oneCertificate(h, from.Name, parseBase64)
}
