package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	grpccredentials "google.golang.org/grpc/credentials"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
)

// authority makes certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = a.issue(t, "authority", true)
	return a
}

func (a *authority) issue(t *testing.T, name string, ca bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<60))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func toPEM(t *testing.T, cert *x509.Certificate, key *ecdsa.PrivateKey) (certPEM, keyPEM []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// With client_ca only gateways with a certificate may ask, by HTTP and by gRPC. New files are taken on a reload.
func TestTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	put := func(name string, cert *x509.Certificate) {
		certPEM, _ := toPEM(t, cert, ca.key)
		write(t, filepath.Join(dir, name), string(certPEM))
	}
	serve := func() *x509.Certificate {
		cert, key := ca.issue(t, "authz", false)
		certPEM, keyPEM := toPEM(t, cert, key)
		write(t, filepath.Join(dir, "authz.pem"), string(certPEM))
		write(t, filepath.Join(dir, "authz.key"), string(keyPEM))
		return cert
	}
	put("ca.pem", ca.cert)
	serve()
	text := strings.Replace(configuration, "gateways:", "tls: {certificate: "+dir+"/authz.pem, key: "+dir+"/authz.key, client_ca: "+dir+"/ca.pem}\ngateways:", 1)
	f, err := config.Parse("authz.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	certificates, err := NewCertificates(*f.TLS)
	if err != nil {
		t.Fatal(err)
	}
	s := New(newFake(t), f, slog.New(slog.DiscardHandler), NewLines(io.Discard), prometheus.NewRegistry())
	l, err := Listen(f)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, l, certificates, nil) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	client := func(from *authority) *tls.Config {
		roots := x509.NewCertPool()
		roots.AddCert(ca.cert)
		conf := &tls.Config{RootCAs: roots}
		if from != nil {
			cert, key := from.issue(t, "gateway", false)
			// Sent even if the server asks for certificates of another authority.
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}, nil
			}
		}
		return conf
	}
	byHTTP := func(conf *tls.Config) (*http.Response, error) {
		req, _ := http.NewRequest("GET", "https://"+l.HTTP.Addr().String()+"/caddy", nil)
		for name, value := range map[string]string{"Method": "GET", "Uri": "/status", "Host": "h", "Proto": "https", "For": "10.1.2.3"} {
			req.Header.Set("X-Forwarded-"+name, value)
		}
		return (&http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}).Do(req)
	}
	byGRPC := func(conf *tls.Config) error {
		conn, err := grpc.NewClient(l.GRPC.Addr().String(), grpc.WithTransportCredentials(grpccredentials.NewTLS(conf)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = authv3.NewAuthorizationClient(conn).Check(ctx, get("/status", "").filled().request())
		return err
	}
	for name, from := range map[string]*authority{"none": nil, "another authority": other} {
		if resp, err := byHTTP(client(from)); err == nil {
			t.Errorf("certificate of %s: status %d", name, resp.StatusCode)
		}
		if err := byGRPC(client(from)); err == nil {
			t.Errorf("certificate of %s: gRPC answered", name)
		}
	}
	resp, err := byHTTP(client(ca))
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	if err := byGRPC(client(ca)); err != nil {
		t.Error(err)
	}

	second := serve()
	if err := certificates.Reload(); err != nil {
		t.Fatal(err)
	}
	resp, err = byHTTP(client(ca))
	if err != nil || !resp.TLS.PeerCertificates[0].Equal(second) {
		t.Error("the new certificate is not used", err)
	}
	if err := os.Remove(filepath.Join(dir, "authz.pem")); err != nil {
		t.Fatal(err)
	}
	if err := certificates.Reload(); err == nil {
		t.Error("a missing file was read")
	}
	if resp, err := byHTTP(client(ca)); err != nil || !resp.TLS.PeerCertificates[0].Equal(second) {
		t.Error("the certificate of before is not used", err)
	}
}

// The client's certificate counts only if the configuration says that the gateway states it.
func TestClientCertificates(t *testing.T) {
	cert, key := newAuthority(t).issue(t, "client", false)
	text, _ := toPEM(t, cert, key)
	escaped := url.PathEscape(string(text))
	for _, mode := range []string{"nginx", "nginx_headers"} {
		w := start(t)
		w.allows(t, mode, get("/orders", "good").with("X-Original-Cert: "+escaped))
		if w.last().Certificate != nil {
			t.Errorf("%s: a certificate was taken from the client", mode)
		}
		w = start(t, "client_certificates: true")
		w.allows(t, mode, get("/orders", "good").with("X-Original-Cert: "+escaped))
		if c := w.last().Certificate; c == nil || !c.Equal(cert) {
			t.Errorf("%s: no certificate", mode)
		}
		w.allows(t, mode, get("/orders", "good"))
		if w.last().Certificate != nil {
			t.Errorf("%s: a certificate came from nowhere", mode)
		}
		w.refused(t, mode, get("/orders", "good").with("X-Original-Cert: "+escaped, "X-Original-Cert: "+escaped), 400, reasonBadRequest)
		for _, bad := range []string{"noise", "%zz", url.PathEscape("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")} {
			w.refused(t, mode, get("/orders", "good").with("X-Original-Cert: "+bad), 400, reasonBadRequest)
		}
	}
	for _, on := range []bool{true, false} {
		more := []string{}
		if on {
			more = []string{"client_certificates: true"}
		}
		w := start(t, more...)
		q := get("/orders", "good").with("X-Original-Cert: noise").filled().request()
		q.Attributes.Source.Certificate = escaped
		answer, err := w.envoy.Check(t.Context(), q)
		if err != nil || !readAnswer(answer).allowed {
			t.Fatal(answer, err)
		}
		if c := w.last().Certificate; (c != nil) != on {
			t.Errorf("client_certificates %t: %v", on, c != nil)
		}
	}
}
