// Command apitoken-authz answers gateways whether a request may pass: nginx, Caddy, Traefik and Envoy.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/scanner"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/server"
)

// traceTime is how long the spans that wait may take to be sent when the server stops.
const traceTime = 5 * time.Second

type options struct {
	config  string
	check   bool
	schema  bool
	explain string
	client  string
}

func main() {
	o := options{}
	flags := flag.NewFlagSet("apitoken-authz", flag.ExitOnError)
	flags.StringVar(&o.config, "config", "/etc/apitoken-authz/authz.yaml", "path of the configuration")
	flags.BoolVar(&o.check, "check-config", false, "check the configuration and exit")
	flags.BoolVar(&o.schema, "schema", false, "print the JSON schema of the configuration and exit")
	flags.StringVar(&o.explain, "explain", "", `explain the decision on a request, such as "GET https://api.example.com/orders", and exit.`+
		" The token is read from standard input; an empty line stands for no token")
	flags.StringVar(&o.client, "client", "127.0.0.1", "address of the client, for -explain")
	_ = flags.Parse(os.Args[1:]) // exits on errors
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "%q is not a flag; see -help\n", flags.Arg(0))
		os.Exit(2)
	}
	if err := run(o, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(o options, stdin io.Reader, stdout io.Writer) error {
	if o.schema {
		_, err := stdout.Write(config.Schema)
		return err
	}
	f, err := config.Load(o.config)
	if err != nil {
		return err
	}
	if o.check {
		if _, err := traced(os.Getenv); err != nil {
			return err
		}
		_, err := fmt.Fprintf(stdout, "%s is good: %d rules\n", o.config, f.RuleSet().Len())
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger := newLogger(f, o)
	conf, err := f.Verifier(logger)
	if err != nil {
		return err
	}
	verifier, err := verify.New(ctx, conf)
	if err != nil {
		return err
	}
	defer verifier.Close()
	lines := server.NewLines(os.Stderr)
	defer lines.Close()
	registry := prometheus.NewRegistry()
	s := server.New(verifier, f, logger, lines, registry)
	if o.explain != "" {
		return explain(ctx, s, o, stdin, stdout)
	}
	traces, err := newTraces(ctx)
	if err != nil {
		return err
	}
	if traces != nil {
		otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
			logger.Warn("traces not sent", "error", err.Error())
		}))
		s.Trace(traces)
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceTime)
			defer cancel()
			_ = traces.Shutdown(ctx) // logged
		}()
	}
	scanning, err := scan(s, verifier, f, logger, registry)
	if err != nil {
		return err
	}
	return serve(ctx, s, f, o.config, logger, scanning)
}

// scan has the server serve secret scanners, if the configuration says so. It returns the certificates for them; nil if there are
// none.
func scan(
	s *server.Server, v *verify.Verifier, f *config.File, logger *slog.Logger, registry *prometheus.Registry,
) (*server.Certificates, error) {
	if f.Scanner == nil {
		return nil, nil
	}
	handler, err := scanner.New(v, f.Scanner, logger, registry)
	if err != nil {
		return nil, err
	}
	certificates, err := certificatesOf(f.Scanner.TLS())
	if err != nil {
		return nil, fmt.Errorf("scanner: %w", err)
	}
	s.Scan(handler, certificates)
	return certificates, nil
}

// newLogger logs in JSON. An explanation is not mixed with logs.
func newLogger(f *config.File, o options) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(f.Log.Level)) // the configuration has checked the level
	if o.explain != "" {
		level = max(level, slog.LevelWarn)
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

func explain(ctx context.Context, s *server.Server, o options, stdin io.Reader, stdout io.Writer) error {
	method, address, ok := strings.Cut(o.explain, " ")
	if !ok {
		return fmt.Errorf(`-explain: %q is not a method and a URL, such as "GET https://api.example.com/orders"`, o.explain)
	}
	token, err := bufio.NewReader(stdin).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	return s.Explain(ctx, stdout, method, address, o.client, strings.TrimSpace(token))
}

func serve(
	ctx context.Context, s *server.Server, f *config.File, path string, logger *slog.Logger, scanning *server.Certificates,
) error {
	certificates, err := certificatesOf(f.TLS)
	if err != nil {
		return err
	}
	var relay *server.Certificates
	if f.Relay != nil {
		if relay, err = certificatesOf(f.Relay.TLS()); err != nil {
			return fmt.Errorf("relay: %w", err)
		}
	}
	listeners, err := server.Listen(f)
	if err != nil {
		return err
	}
	defer listeners.Close()
	if err := s.Watch(ctx, path); err != nil {
		return fmt.Errorf("watching %s: %w", path, err)
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		for range hangup {
			_ = s.Reload(path) // logged
			for _, c := range []*server.Certificates{certificates, relay, scanning} {
				if c == nil {
					continue
				}
				if err := c.Reload(); err != nil {
					logger.Error("certificates not reloaded; those of before stay in use", "error", err.Error())
				}
			}
		}
	}()
	logger.Info("authorizer started", "config", path, "gateways", f.Gateways, "rules", f.RuleSet().Len())
	return s.Run(ctx, listeners, certificates, relay)
}

// certificatesOf reads the files of TLS; nil if there are none.
func certificatesOf(files *config.TLS) (*server.Certificates, error) {
	if files == nil {
		return nil, nil
	}
	return server.NewCertificates(*files)
}
