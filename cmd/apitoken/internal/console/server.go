package console

import (
	"context"
	"crypto/subtle"
	"crypto/x509"
	"embed"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	maxForm     = 64 << 10 // bytes of a form
	pageTime    = 30 * time.Second
	revokeTime  = 5 * time.Second
	sweepPeriod = 30 * time.Second
)

// Config is the configuration of a console.
type Config struct {
	Mount        string            // path of the engine, without slashes around
	Vault        *api.Client       // address, TLS and namespace; a token in it is not used
	TLS          bool              // whether browsers come by TLS
	Certificate  *x509.Certificate // of the listener; nil: browsers come by loopback only
	Port         string            // of the listener, in the names of cookies: browsers do not keep the cookies of two ports apart
	PasswordPath string            // path of an auth method such as userpass; empty: none
	OIDCPath     string            // path of an auth method for OIDC; empty: none
	OIDCRole     string            // empty: the default role
	Idle         time.Duration     // time without a request after which a session ends; required
	Longest      time.Duration     // longest time of a session; required
	Logger       *slog.Logger      // required
	Now          func() time.Time  // nil: time.Now
}

// Server serves the console.
type Server struct {
	Config
	sessions  *sessions
	attempts  *attempts
	flows     *flows
	templates templates
	handler   http.Handler
	revoking  sync.WaitGroup
}

//go:embed static
var static embed.FS

// New returns the server of a console.
func New(conf *Config) *Server {
	s := &Server{Config: *conf, templates: parseTemplates()}
	if s.Now == nil {
		s.Now = time.Now
	}
	s.sessions = newSessions(s.Idle, s.Longest, s.Now)
	s.attempts = newAttempts(s.Now)
	s.flows = newFlows(s.Now)

	mux := http.NewServeMux()
	files, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	mux.Handle("GET /static/", http.StripPrefix("/static/", http.FileServerFS(files)))
	mux.HandleFunc("GET /sign-in", s.signInPage)
	mux.HandleFunc("POST /sign-in", s.signIn)
	mux.HandleFunc("POST /sign-in/oidc", s.oidcStart)
	mux.HandleFunc("GET /oidc/callback", s.oidcCallback)
	mux.HandleFunc("POST /sign-out", s.signedIn(s.signOut))
	mux.HandleFunc("GET /{$}", s.page("overview", "Overview", s.overview))
	mux.HandleFunc("GET /tokens", s.page("tokens", "Tokens", s.tokens))
	mux.HandleFunc("GET /tokens/{id}", s.page("token", "Token", s.token))
	mux.HandleFunc("GET /tokens/{id}/{action}", s.page("action", "Confirm", s.confirm))
	mux.HandleFunc("POST /tokens/{id}/{action}", s.signedIn(s.act))
	mux.HandleFunc("GET /roles", s.page("roles", "Roles", s.roles))
	mux.HandleFunc("GET /roles/{name}", s.page("role", "Role", s.role))
	mux.HandleFunc("GET /connections", s.page("connections", "Connections", s.connections))
	mux.HandleFunc("GET /connections/{name}", s.page("connection", "Connection", s.connection))
	mux.HandleFunc("POST /connections/{name}/reconcile", s.signedIn(s.compare))
	mux.HandleFunc("GET /findings", s.page("findings", "Findings", s.findings))
	mux.HandleFunc("GET /findings/{id}", s.page("finding", "Finding", s.finding))
	mux.HandleFunc("POST /findings/{id}", s.signedIn(s.acknowledge))
	mux.HandleFunc("GET /reports", s.page("reports", "Reports", s.reports))
	mux.HandleFunc("GET /reports/{report}", s.page("report", "Report", s.report))
	mux.HandleFunc("GET /reports/{report}/csv", s.signedIn(s.download))
	mux.HandleFunc("GET /", s.page("problem", "Not found", s.notFound))

	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, nil, http.StatusForbidden, "The request comes from another site.")
	}))
	s.handler = s.secured(crossOrigin.Handler(mux))
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// policy is the Content-Security-Policy: nothing inline, nothing from elsewhere, no script at all.
const policy = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// secured sets the headers of each answer, and refuses hosts that are not the console's.
func (s *Server) secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Cache-Control", "no-store")
		if s.TLS {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if !s.hosts(r.Host) {
			s.fail(w, nil, http.StatusMisdirectedRequest, "This console is not served under the host name of the request.")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		next.ServeHTTP(w, r)
	})
}

// hosts reports whether a host is the console's. A page elsewhere whose name resolves to this address (DNS rebinding) has
// another host.
func (s *Server) hosts(host string) bool {
	name := host
	if split, _, err := net.SplitHostPort(host); err == nil {
		name = split
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if s.Certificate != nil && s.Certificate.VerifyHostname(name) == nil {
		return true
	}
	if strings.EqualFold(name, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.IsLoopback()
}

// cookie returns the name of a cookie.
func (s *Server) cookie(name string) string {
	if s.TLS {
		return "__Host-apitoken_" + name + "_" + s.Port
	}
	return "apitoken_" + name + "_" + s.Port
}

// setCookie sets a cookie for the life of the browser; an empty value deletes the cookie.
func (s *Server) setCookie(w http.ResponseWriter, name, value string, site http.SameSite) {
	//nolint:gosec // G124: without TLS the console listens on loopback only
	c := &http.Cookie{Name: s.cookie(name), Value: value, Path: "/", HttpOnly: true, Secure: s.TLS, SameSite: site}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// cookieOf returns the value of a cookie; empty: none.
func (s *Server) cookieOf(r *http.Request, name string) string {
	c, err := r.Cookie(s.cookie(name))
	if err != nil {
		return ""
	}
	return c.Value
}

// same compares two secrets; an empty secret is none.
func same(a, b string) bool { return a != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// signedIn runs a handler with the session of the request. A request that changes something needs the secret of the session's
// forms.
func (s *Server) signedIn(next func(http.ResponseWriter, *http.Request, *session)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		one := s.sessions.get(s.cookieOf(r, "session"))
		if one == nil {
			http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead && !same(r.PostFormValue("csrf"), one.csrf) {
			s.fail(w, one, http.StatusForbidden, "The form is not of this session: open the page again.")
			return
		}
		next(w, r, one)
	}
}

// view is what a page is made of.
type view struct {
	*http.Request
	*session
	ctx context.Context
}

// page serves a page of a session. content returns the data of the template.
func (s *Server) page(name, title string, content func(*view) (any, error)) http.HandlerFunc {
	return s.signedIn(func(w http.ResponseWriter, r *http.Request, one *session) {
		ctx, cancel := context.WithTimeout(r.Context(), pageTime)
		defer cancel()
		data, err := content(&view{Request: r, session: one, ctx: ctx})
		switch {
		case one.caller.ended.Load():
			s.tokenEnded(w, r, one)
		case err != nil:
			p := problemOf(err)
			s.fail(w, one, p.status(), p.Error())
		default:
			if to, redirect := data.(redirect); redirect {
				http.Redirect(w, r, string(to), http.StatusSeeOther)
				return
			}
			s.render(w, http.StatusOK, &frame{page: name, Title: title, Session: one, Content: data})
		}
	})
}

// redirect is the content of a page that is elsewhere.
type redirect string

// tokenEnded ends a session whose Vault token is no longer good.
func (s *Server) tokenEnded(w http.ResponseWriter, r *http.Request, one *session) {
	s.end(one, "the Vault token ended")
	s.setCookie(w, "session", "", http.SameSiteStrictMode)
	http.Redirect(w, r, "/sign-in?ended=1", http.StatusSeeOther)
}

// end ends a session, and revokes the Vault token that the console signed in for.
func (s *Server) end(one *session, why string) {
	if !s.sessions.end(one) {
		return
	}
	s.over(one, why)
}

// over logs the end of a session that was removed, and revokes its Vault token behind the request, unless the token has ended.
func (s *Server) over(one *session, why string) {
	s.Logger.Info("session ended", "display_name", one.Name, "reason", why)
	if !one.own || one.caller.ended.Load() {
		return
	}
	s.revoking.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), revokeTime)
		defer cancel()
		if err := one.caller.client.Auth().Token().RevokeSelfWithContext(ctx, ""); err != nil {
			p := one.caller.problem("write to", "auth/token/revoke-self", err)
			s.Logger.Warn("Vault token not revoked; the token expires at its time", "display_name", one.Name, "error", p.Error())
		}
	})
}

// Sweep ends sessions that are over, until ctx is done; then Sweep ends all sessions.
func (s *Server) Sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			for _, one := range s.sessions.expired(false) {
				s.over(one, "the session expired")
			}
		case <-ctx.Done():
			for _, one := range s.sessions.expired(true) {
				s.over(one, "the console stopped")
			}
			s.revoking.Wait()
			return
		}
	}
}

func (s *Server) notFound(v *view) (any, error) {
	return nil, &problem{Kind: missing, Path: "page " + (&url.URL{Path: clip(v.URL.Path, 100)}).String()}
}
