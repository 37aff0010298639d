package server

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
)

// Secret scanners are served at an address of their own, with TLS if there is a certificate. Gateways' addresses do not serve them.
func TestScan(t *testing.T) {
	ca, dir := newAuthority(t), t.TempDir()
	cert, key := ca.issue(t, "scanner", false)
	certPEM, keyPEM := toPEM(t, cert, key)
	write(t, filepath.Join(dir, "scanner.pem"), string(certPEM))
	write(t, filepath.Join(dir, "scanner.key"), string(keyPEM))
	for scheme, files := range map[string]string{"http": "", "https": ", certificate: DIR/scanner.pem, key: DIR/scanner.key"} {
		scan := "scanner: {listen: '127.0.0.1:0'" + strings.ReplaceAll(files, "DIR", dir) + "}\ngateways:"
		f, err := config.Parse("authz.yaml", []byte(strings.Replace(configuration, "gateways:", scan, 1)))
		if err != nil {
			t.Fatal(err)
		}
		s := New(newFake(t), f, slog.New(slog.DiscardHandler), NewLines(io.Discard), prometheus.NewRegistry())
		var certificates *Certificates
		if f.Scanner.TLS() != nil {
			if certificates, err = NewCertificates(*f.Scanner.TLS()); err != nil {
				t.Fatal(err)
			}
		}
		s.Scan(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }), certificates)
		l, err := Listen(f)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx, l, nil, nil) }()
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		if resp, err := client.Get(scheme + "://" + l.Scanner.Addr().String() + "/scanner/github"); err != nil || resp.StatusCode != http.StatusTeapot {
			t.Errorf("%s: %v, %v", scheme, resp, err)
		}
		if resp, err := client.Get("http://" + l.HTTP.Addr().String() + "/scanner/github"); err != nil || resp.StatusCode == http.StatusTeapot {
			t.Errorf("the address of gateways serves scanners: %v, %v", resp, err)
		}
		client.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
