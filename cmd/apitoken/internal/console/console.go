// Package console serves a web page about a mount of API tokens. The console has no credential: each request to Vault carries
// the Vault token of the signed-in session, so that Vault's policies decide and Vault's audit devices record the request.
package console

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// Timeouts of the web server. A download in pages is the longest answer.
const (
	headerTimeout   = 5 * time.Second
	readTimeout     = 15 * time.Second
	writeTimeout    = downloadTime + 30*time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 5 * time.Second
	maxHeader       = 16 << 10
)

// options are the flags.
type options struct {
	listen       string
	mount        string
	certFile     string
	keyFile      string
	passwordPath string
	oidcPath     string
	oidcRole     string
	idle         time.Duration
	longest      time.Duration
}

const usage = `Usage: apitoken console [FLAGS]

Serves a web page about a mount. Sign in with a Vault token, a name and password, or OIDC. VAULT_ADDR, VAULT_CACERT and
VAULT_NAMESPACE work as in the vault command. VAULT_TOKEN is not used.

Flags:
`

// Run runs the command until ctx is done, and returns the exit code.
func Run(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	if err := serve(ctx, o, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func parse(args []string, stdout io.Writer) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("apitoken console", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8250",
		"address and port of the page; other addresses than loopback need -tls-cert and -tls-key")
	flags.StringVar(&o.mount, "mount", "apitoken", "mount path of the engine")
	flags.StringVar(&o.certFile, "tls-cert", "", "file of the certificate and its chain, in PEM")
	flags.StringVar(&o.keyFile, "tls-key", "", "file of the private key, in PEM")
	flags.StringVar(&o.passwordPath, "password-path", "userpass",
		"path of the auth method for names and passwords, such as userpass or ldap; empty: none")
	flags.StringVar(&o.oidcPath, "oidc-path", "oidc", "path of the auth method for OIDC; empty: none")
	flags.StringVar(&o.oidcRole, "oidc-role", "", "role of the auth method for OIDC; empty: the default role")
	flags.DurationVar(&o.idle, "idle", 15*time.Minute, "time without a request after which a session ends, 1m to 24h")
	flags.DurationVar(&o.longest, "max-session", 8*time.Hour, "longest time of a session, 1m to 24h")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w; see -help", err)
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("%q is not a flag; see -help", flags.Arg(0))
	}
	return o, o.check()
}

func (o *options) check() error {
	for name, path := range map[string]*string{"-mount": &o.mount, "-password-path": &o.passwordPath, "-oidc-path": &o.oidcPath} {
		*path = strings.Trim(*path, "/")
		if (*path != "" || name == "-mount") && !validPath(*path) {
			return fmt.Errorf("%s: %q is not a path: letters, digits, _, -, . and / are allowed", name, *path)
		}
	}
	for name, d := range map[string]time.Duration{"-idle": o.idle, "-max-session": o.longest} {
		if d < time.Minute || d > 24*time.Hour {
			return fmt.Errorf("%s: %s is not allowed: 1m to 24h", name, d)
		}
	}
	if (o.certFile == "") != (o.keyFile == "") {
		return errors.New("give both -tls-cert and -tls-key, or none")
	}
	host, _, err := net.SplitHostPort(o.listen)
	if err != nil {
		return fmt.Errorf("-listen: %q is not an address and a port, such as 127.0.0.1:8250", o.listen)
	}
	if o.certFile == "" && !loopback(host) {
		return fmt.Errorf("-listen: %s is not loopback: give -tls-cert and -tls-key", o.listen)
	}
	return nil
}

// loopback reports whether a host is a name or an address of loopback.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// vaultClient returns a client with the settings of the environment, without the token of the environment.
func vaultClient() (*api.Client, error) {
	conf := api.DefaultConfig()
	if conf.Error != nil {
		return nil, conf.Error
	}
	conf.MaxRetries = 0 // the person at the page retries
	client, err := api.NewClient(conf)
	if err != nil {
		return nil, err
	}
	client.SetClientTimeout(0) // get and put have a time limit: that of the client would stop an answer that is still being read
	client.SetToken("")
	return client, nil
}

func serve(ctx context.Context, o *options, stdout, stderr io.Writer) error {
	client, err := vaultClient()
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewJSONHandler(stderr, nil))
	conf := Config{
		Mount: o.mount, Vault: client, Logger: logger,
		PasswordPath: o.passwordPath, OIDCPath: o.oidcPath, OIDCRole: o.oidcRole,
		Idle: o.idle, Longest: o.longest,
	}
	var certificate tls.Certificate
	if o.certFile != "" {
		if certificate, err = tls.LoadX509KeyPair(o.certFile, o.keyFile); err != nil {
			return fmt.Errorf("-tls-cert, -tls-key: %w", err)
		}
		conf.TLS, conf.Certificate = true, certificate.Leaf
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	_, conf.Port, _ = net.SplitHostPort(listener.Addr().String()) // the address of a listener has a port
	s := New(&conf)
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	if conf.TLS {
		server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}
	}
	fmt.Fprintf(stdout, "The console of %s/ is at %s\n", o.mount, address(listener.Addr().String(), conf.Certificate))
	return run(ctx, s, server, listener)
}

// run serves until ctx is done, and then revokes the Vault tokens that the console signed in for.
func run(ctx context.Context, s *Server, server *http.Server, listener net.Listener) error {
	sweeping, endSessions := context.WithCancel(context.WithoutCancel(ctx))
	defer endSessions()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	swept := make(chan struct{})
	go func() {
		s.Sweep(sweeping)
		close(swept)
	}()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		limited, stop := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer stop()
		_ = server.Shutdown(limited) // requests that take longer are cut off
		_ = server.Close()
	}()
	var err error
	if server.TLSConfig != nil {
		err = server.ServeTLS(listener, "", "")
	} else {
		err = server.Serve(listener)
	}
	cancel()
	<-stopped
	endSessions() // when no request can begin a session
	<-swept
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// address returns the URL to open.
func address(listener string, certificate *x509.Certificate) string {
	host, port, _ := net.SplitHostPort(listener) // the address of a listener has a port
	if certificate == nil {
		return "http://" + net.JoinHostPort(host, port) + "/"
	}
	if len(certificate.DNSNames) > 0 {
		host = certificate.DNSNames[0]
	}
	return "https://" + net.JoinHostPort(host, port) + "/"
}
