// Package server answers gateways: may this request pass? There is one handler for each kind of gateway. Each reads only the
// headers that its gateway sets, and a missing header is an error. Whatever goes wrong, the request is refused.
package server

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/rules"
)

// Checker decides on tokens. *verify.Verifier is one.
type Checker interface {
	Check(ctx context.Context, token string, use *verify.Use) (verify.Decision, error)
	State() verify.State
}

// Server answers gateways. It is safe for concurrent use.
type Server struct {
	checker  Checker
	logger   *slog.Logger
	access   *Lines
	tracer   trace.Tracer // nil: no traces
	logs     string       // which requests are in the access log: all, refused or none
	metrics  *metrics
	kinds    kinds        // that the configuration serves
	settings *config.File // as at the start; only its rules are replaced
	gateways []netip.Prefix
	proxies  []netip.Prefix
	rules    atomic.Pointer[rules.Set]
	limits   *limiters
	draining atomic.Bool

	scanner    http.Handler  // of secret scanners; nil: none
	scannerTLS *Certificates // nil: plain HTTP
	reload     sync.Mutex
}

// New returns a server for a configuration. access takes the access log.
func New(checker Checker, f *config.File, logger *slog.Logger, access *Lines, registry *prometheus.Registry) *Server {
	s := &Server{checker: checker, logger: logger, access: access, logs: f.Log.Access, settings: f, limits: newLimiters()}
	if !logger.Enabled(context.Background(), slog.LevelInfo) {
		s.logs = "none"
	}
	s.gateways, s.proxies = f.GatewayRanges(), f.ProxyRanges()
	s.rules.Store(f.RuleSet())
	s.metrics = newMetrics(registry, s)
	for _, name := range f.Gateways {
		s.kinds = append(s.kinds, s.newKind(name))
	}
	return s
}

// fromGateway reports whether a peer may ask. Without addresses, TLS has checked the peer's certificate.
func (s *Server) fromGateway(peer string) bool {
	if len(s.gateways) == 0 {
		return true
	}
	addr, err := netip.ParseAddrPort(peer)
	return err == nil && s.isGateway(addr.Addr())
}

func (s *Server) isGateway(addr netip.Addr) bool {
	addr = addr.Unmap()
	return slices.ContainsFunc(s.gateways, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// ServeHTTP answers gateways that ask by HTTP. It looks at the request target as sent: a mux would clean the target.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	k := s.kinds.of(kindAt(path))
	switch {
	case k != nil:
		s.answer(w, r, k)
	case s.settings.Listen.Admin == "" && !strings.HasPrefix(path, nginxPrefix):
		s.serveAdmin(w, r, path)
	default:
		// No gateway of this kind: 403, so that nginx refuses the request as well.
		s.metrics.notServed.Inc()
		http.Error(w, "this is not the address of a gateway that the authorizer serves", http.StatusForbidden)
	}
}

// Admin returns the handler of /healthz, /readyz and /metrics.
func (s *Server) Admin() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serveAdmin(w, r, r.URL.Path) })
}

// answer decides on a request, and writes the answer that the kind of gateway understands.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, k *kind) {
	written := false
	defer func() {
		if p := recover(); p != nil {
			s.panicked(k.name, p)
			if !written {
				k.write(w, &Answer{Status: http.StatusServiceUnavailable, Reason: reasonInternal})
			}
		}
	}()
	a := s.handle(r.Context(), k, func() (*Request, *problem) {
		if !s.fromGateway(r.RemoteAddr) {
			detail := "the peer " + r.RemoteAddr + " is not in gateway_addresses"
			return nil, &problem{status: http.StatusForbidden, reason: reasonGateway, detail: detail}
		}
		return k.read(s, r)
	})
	written = true
	k.write(w, a)
	a.free()
}

func (s *Server) panicked(gateway string, p any) {
	s.metrics.panics.Inc()
	s.logger.Error("request handler failed; request refused", "gateway", gateway, "panic", p)
}

// Scan has the server serve secret scanners with a handler. certificates may be nil. Scan is called before Run.
func (s *Server) Scan(handler http.Handler, certificates *Certificates) {
	s.scanner, s.scannerTLS = handler, certificates
}

// Drain makes /readyz answer 503, before the server is stopped.
func (s *Server) Drain() { s.draining.Store(true) }
