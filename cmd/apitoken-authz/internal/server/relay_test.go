package server

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
)

// One authorizer reads the feed from another by mutual TLS, and notices a revocation. A client without a certificate of the
// authority learns nothing.
func TestRelay(t *testing.T) {
	issuer, ca, dir := verifytest.New(t), newAuthority(t), t.TempDir()
	for _, name := range []string{"relay", "authz"} {
		cert, key := ca.issue(t, name, false)
		certPEM, keyPEM := toPEM(t, cert, key)
		write(t, filepath.Join(dir, name+".pem"), string(certPEM))
		write(t, filepath.Join(dir, name+".key"), string(keyPEM))
	}
	caPEM, _ := toPEM(t, ca.cert, ca.key)
	write(t, filepath.Join(dir, "ca.pem"), string(caPEM))

	parse := func(more string) *config.File {
		f, err := config.Parse("authz.yaml", []byte(strings.Replace(configuration, "gateways:", strings.ReplaceAll(more, "DIR", dir)+"\ngateways:", 1)))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := parse("relay: {listen: '127.0.0.1:0', certificate: DIR/relay.pem, key: DIR/relay.key, client_ca: DIR/ca.pem}")
	verifier, err := verify.New(t.Context(), issuer.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer verifier.Close()
	certificates, err := NewCertificates(*f.Relay.TLS())
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(f)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- New(verifier, f, slog.New(slog.DiscardHandler), NewLines(io.Discard), prometheus.NewRegistry()).Run(ctx, l, nil, certificates)
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	url := "https://" + l.Relay.Addr().String() + "/feed"
	c, err := parse("feed_from: {url: '" + url + "', ca_cert: DIR/ca.pem, certificate: DIR/authz.pem, key: DIR/authz.key}").Verifier(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	from := c.FeedFrom
	c = issuer.Config()
	c.FeedFrom, c.PollInterval = from, 50*time.Millisecond
	behind, err := verify.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer behind.Close()
	text := issuer.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
	if d, err := behind.Check(t.Context(), text, &verify.Use{}); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	issuer.Revoke(text)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if d, err := behind.Check(t.Context(), text, &verify.Use{}); err == nil && !d.Allowed {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the revocation is not noticed")
		}
	}

	c.FeedFrom = &verify.FeedSource{URL: url, CACert: from.CACert}
	if v, err := verify.New(t.Context(), c); err == nil {
		v.Close()
		t.Error("an authorizer without a certificate reads the feed")
	}
	if resp, err := http.Get("http://" + l.HTTP.Addr().String() + "/feed"); err != nil || resp.StatusCode == http.StatusOK {
		t.Error("the address of gateways serves the feed", err)
	}
}
