package config

import (
	"net"
	"net/netip"
)

// Scanner says where secret scanners ask and report.
type Scanner struct {
	Listen      string `yaml:"listen"` // in plain HTTP on loopback, else with a certificate
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	// GitHubKeys is a file with the public keys of GitHub's secret scanning, as GitHub's API returns them; empty: reports need
	// no signature.
	GitHubKeys string `yaml:"github_keys"`
	// SecretFile is a file with the secret that scanners show which ask whether a token is alive; empty: nobody may ask.
	SecretFile string `yaml:"secret_file"`
}

// TLS returns the files of TLS; nil: plain HTTP.
func (s *Scanner) TLS() *TLS {
	if s.Certificate == "" {
		return nil
	}
	return &TLS{Certificate: s.Certificate, Key: s.Key}
}

func (f *File) checkScanner(d *document) {
	s := f.Scanner
	if s == nil {
		return
	}
	if f.Vault == nil {
		d.fail(at{"vault"}, "is required with scanner: only Vault knows the tokens")
	}
	host, _, err := net.SplitHostPort(s.Listen)
	switch addr, parseErr := netip.ParseAddr(host); {
	case err != nil:
		d.fail(at{"scanner", "listen"}, "%q is not an address with a port, such as 10.0.0.5:9194", s.Listen)
	case (s.Certificate == "") != (s.Key == ""):
		d.fail(at{"scanner"}, "certificate and key are both required, or neither")
	case s.Certificate == "" && host != "localhost" && (parseErr != nil || !addr.IsLoopback()):
		d.fail(at{"scanner", "listen"}, "%q is not on loopback, and plain HTTP shows tokens to the network: set certificate and key",
			s.Listen)
	}
}
