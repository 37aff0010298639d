package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	grpccredentials "google.golang.org/grpc/credentials"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
)

const (
	headerTimeout = 10 * time.Second // for the headers of a request
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10 // more than nginx, Caddy and Traefik pass by default
	drainTime     = 20 * time.Second
)

// Listeners are the sockets of a server. A nil one is not used.
type Listeners struct{ HTTP, GRPC, Admin, Relay, Scanner net.Listener }

// Listen opens the sockets of a configuration.
func Listen(f *config.File) (*Listeners, error) {
	l := &Listeners{}
	relay, scanner := "", ""
	if f.Relay != nil {
		relay = f.Relay.Listen
	}
	if f.Scanner != nil {
		scanner = f.Scanner.Listen
	}
	for _, socket := range []struct {
		name, address string
		listener      *net.Listener
	}{
		{"listen.http", f.Listen.HTTP, &l.HTTP}, {"listen.grpc", f.Listen.GRPC, &l.GRPC}, {"listen.admin", f.Listen.Admin, &l.Admin},
		{"relay.listen", relay, &l.Relay}, {"scanner.listen", scanner, &l.Scanner},
	} {
		if socket.address == "" {
			continue
		}
		var err error
		if *socket.listener, err = net.Listen("tcp", socket.address); err != nil {
			l.Close()
			return nil, fmt.Errorf("%s: %w", socket.name, err)
		}
	}
	return l, nil
}

// Close closes the sockets.
func (l *Listeners) Close() {
	for _, listener := range []net.Listener{l.HTTP, l.GRPC, l.Admin, l.Relay, l.Scanner} {
		if listener != nil {
			_ = listener.Close()
		}
	}
}

// Run serves until ctx ends, and then finishes the requests in flight. certificates and relay may be nil.
func (s *Server) Run(ctx context.Context, l *Listeners, certificates, relay *Certificates) error {
	var secure *tls.Config
	if certificates != nil {
		secure = certificates.Config()
	}
	failed := make(chan error, 5)
	var stops []func(context.Context)
	serve := func(listener net.Listener, handler http.Handler, secure *tls.Config) {
		server := newHTTP(handler)
		if secure != nil {
			listener = tls.NewListener(listener, secure)
		}
		stops = append(stops, func(ctx context.Context) { _ = server.Shutdown(ctx) })
		go func() { failed <- server.Serve(listener) }()
	}
	if l.HTTP != nil {
		serve(l.HTTP, s, secure)
	}
	if l.Admin != nil {
		serve(l.Admin, s.Admin(), nil)
	}
	if l.Relay != nil {
		serve(l.Relay, s.relayed(), relay.Config())
	}
	if l.Scanner != nil && s.scanner != nil {
		var secure *tls.Config
		if s.scannerTLS != nil {
			secure = s.scannerTLS.Config()
		}
		serve(l.Scanner, s.scanner, secure)
	}
	if l.GRPC != nil {
		server := s.newGRPC(secure)
		stops = append(stops, func(ctx context.Context) { stopGRPC(ctx, server) })
		go func() { failed <- server.Serve(l.GRPC) }()
	}
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	s.Drain()
	s.logger.Info("authorizer stopping; requests in flight are finished")
	ended, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	var all sync.WaitGroup
	for _, stop := range stops {
		all.Go(func() { stop(ended) })
	}
	all.Wait()
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// relayed returns the handler of other authorizers.
func (s *Server) relayed() http.Handler {
	mux := http.NewServeMux()
	if feed, ok := s.checker.(interface{ FeedHandler() http.Handler }); ok {
		mux.Handle("/feed", feed.FeedHandler())
	}
	return mux
}

func newHTTP(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		// OPTIONS * is not for this server to answer.
		DisableGeneralOptionsHandler: true,
	}
}

func (s *Server) newGRPC(secure *tls.Config) *grpc.Server {
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(1 << 20), grpc.ConnectionTimeout(headerTimeout)}
	if secure != nil {
		options = append(options, grpc.Creds(grpccredentials.NewTLS(secure)))
	}
	server := grpc.NewServer(options...)
	authv3.RegisterAuthorizationServer(server, Envoy{Server: s})
	return server
}

func stopGRPC(ctx context.Context, server *grpc.Server) {
	done := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		server.Stop()
	}
}

// Certificates hold the files of TLS. Reload reads the files again.
type Certificates struct {
	files   config.TLS
	mu      sync.RWMutex
	current *tls.Config
}

// NewCertificates reads the files.
func NewCertificates(files config.TLS) (*Certificates, error) {
	c := &Certificates{files: files}
	return c, c.Reload()
}

// Reload reads the files. Connections that exist stay as they are. If a file cannot be read, the files of before stay in use.
func (c *Certificates) Reload() error {
	pair, err := tls.LoadX509KeyPair(c.files.Certificate, c.files.Key)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	// ext_authz is gRPC, which needs HTTP/2. The other gateways ask by HTTP/1.1 or HTTP/2.
	conf := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
	if c.files.ClientCA != "" {
		if conf.ClientCAs, err = verify.ReadCertPool(c.files.ClientCA); err != nil {
			return fmt.Errorf("tls.client_ca: %w", err)
		}
		conf.ClientAuth = tls.RequireAndVerifyClientCert
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = conf
	return nil
}

// Config returns a configuration that takes the files as they were read last.
func (c *Certificates) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c.mu.RLock()
			defer c.mu.RUnlock()
			return c.current, nil
		},
	}
}
