package config

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// traefikCertificate is the header that Traefik's middleware PassTLSClientCert sets, and that an entry point of Traefik deletes
// from requests of clients. A client could send any other header.
const traefikCertificate = "X-Forwarded-Tls-Client-Cert"

var headerName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,63}$`)

// checkCertificates checks where certificates of clients come from.
func (f *File) checkCertificates(d *document) {
	described := f.Serves("caddy") || f.Serves("traefik")
	others := f.Serves("nginx") || f.Serves("nginx_headers") || f.Serves("envoy")
	switch {
	case f.CertificateHeader != nil:
		f.CertificateHeader.check(d, f.Serves("traefik"))
		if !described {
			d.fail(at{"certificate_header"}, "is only for gateways caddy and traefik, which gateways does not list")
		}
		if !f.ClientCertificates {
			d.fail(at{"certificate_header"}, "needs client_certificates: true")
		}
	case f.ClientCertificates && described && !others:
		d.fail(at{"client_certificates"}, "needs certificate_header for gateways caddy and traefik")
	}
}

func (h *CertificateHeader) check(d *document, traefik bool) {
	name := http.CanonicalHeaderKey(h.Name)
	lower := strings.ToLower(name)
	switch {
	case !headerName.MatchString(h.Name):
		d.fail(at{"certificate_header", "name"}, "%q is not the name of a header of letters, digits and hyphens, such as %s", h.Name, traefikCertificate)
	case traefik && name != traefikCertificate:
		d.fail(at{"certificate_header", "name"}, "must be %s for gateway traefik: Traefik lets clients send %s", traefikCertificate, name)
	case slices.Contains([]string{"authorization", "dpop", "host", "connection", "x-forwarded-for", "x-forwarded-method", "x-forwarded-uri",
		"x-forwarded-host", "x-forwarded-proto"}, lower), strings.HasPrefix(lower, "x-token-"), strings.HasPrefix(lower, "x-original-"):
		d.fail(at{"certificate_header", "name"}, "%s has another meaning here: want a header such as %s", name, traefikCertificate)
	}
	h.Name = name
	switch h.Encoding {
	case "":
		h.Encoding = EncodingBase64
	case EncodingBase64, EncodingPEM:
	default:
		d.fail(at{"certificate_header", "encoding"}, "%q is not known: want %s or %s", h.Encoding, EncodingBase64, EncodingPEM)
	}
}
