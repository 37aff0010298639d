package console

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	maxFlows = 1000 // flows in memory
	flowTime = 5 * time.Minute
)

// flow is a login by OIDC on its way: between the leave to the identity provider and the return.
type flow struct {
	binding string // in the cookie of the browser that began the flow
	nonce   string // client_nonce: Vault answers only who knows it
	ends    time.Time
}

// flows are the logins on their way, by the state parameter.
type flows struct {
	now func() time.Time

	mu      sync.Mutex
	byState map[string]flow
}

func newFlows(now func() time.Time) *flows { return &flows{now: now, byState: map[string]flow{}} }

func (f *flows) add(state string, one flow) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if len(f.byState) >= maxFlows {
		for state, one := range f.byState {
			if now.After(one.ends) {
				delete(f.byState, state)
			}
		}
	}
	if len(f.byState) >= maxFlows {
		return errors.New("there are too many logins on their way: try again in a few minutes")
	}
	one.ends = now.Add(flowTime)
	f.byState[state] = one
	return nil
}

// take returns the flow of a state once, to the browser that began the flow.
func (f *flows) take(state, binding string) (flow, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	one, there := f.byState[state]
	if !there || !same(one.binding, binding) {
		return flow{}, false
	}
	delete(f.byState, state)
	return one, f.now().Before(one.ends)
}

// oidcStart asks Vault for the address of the identity provider. The page leads there by itself: a redirect would be stopped by
// form-action of the Content-Security-Policy.
func (s *Server) oidcStart(w http.ResponseWriter, r *http.Request) {
	if !s.mayTry(w, r) {
		return
	}
	to, err := s.identityProvider(w, r)
	if err != nil {
		s.refuseSignIn(w, r, err)
		return
	}
	s.lead(w, "Sign in", &leave{To: to, Text: "Continue to the identity provider"})
}

// leave is the data of a page that leads to another by itself.
type leave struct {
	To, Text string
}

// lead serves a page that leads to another by itself, and by a link.
func (s *Server) lead(w http.ResponseWriter, title string, to *leave) {
	w.Header().Set("Refresh", "0; url="+to.To)
	s.render(w, http.StatusOK, &frame{page: "leave", Title: title, Content: to})
}

// identityProvider returns the address at the identity provider.
func (s *Server) identityProvider(w http.ResponseWriter, r *http.Request) (string, error) {
	if s.OIDCPath == "" {
		return "", errors.New("choose a way to sign in")
	}
	c, err := newCaller(s.Vault, s.Mount, "")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(r.Context(), pageTime)
	defer cancel()
	one := flow{binding: rand.Text(), nonce: rand.Text()}
	type authURL struct {
		URL string `json:"auth_url"`
	}
	a, err := put[authURL](ctx, c, vaultTimeout, "sign in at", "auth/"+s.OIDCPath+"/oidc/auth_url", map[string]any{
		"role": s.OIDCRole, "redirect_uri": s.callbackURL(r), "client_nonce": one.nonce,
	})
	if err != nil {
		return "", err
	}
	to, err := url.Parse(a.Data.URL)
	if err != nil || a.Data.URL == "" || (to.Scheme != "https" && (to.Scheme != "http" || !loopback(to.Hostname()))) {
		// Vault does not say why there is no address.
		return "", errors.New("vault has no identity provider for " + s.callbackURL(r) +
			": allowed_redirect_uris of the role must name this address")
	}
	state := to.Query().Get("state")
	if state == "" {
		return "", errors.New("the address of the identity provider has no state")
	}
	if err := s.flows.add(state, one); err != nil {
		return "", err
	}
	// Lax: the browser comes back from another site.
	s.setCookie(w, "flow", one.binding, http.SameSiteLaxMode)
	return to.String(), nil
}

// callbackURL returns where the identity provider sends the browser: secured has checked the host.
func (s *Server) callbackURL(r *http.Request) string {
	scheme := "http"
	if s.TLS {
		scheme = "https"
	}
	return (&url.URL{Scheme: scheme, Host: r.Host, Path: "/oidc/callback"}).String()
}

// oidcCallback takes the browser back from the identity provider.
func (s *Server) oidcCallback(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	one, known := s.flows.take(query.Get("state"), s.cookieOf(r, "flow"))
	s.setCookie(w, "flow", "", http.SameSiteLaxMode)
	if !known {
		s.showSignIn(w, r, http.StatusForbidden, "This login did not begin in this browser, or took too long: try again.")
		return
	}
	if text := query.Get("error"); text != "" {
		s.showSignIn(w, r, http.StatusUnauthorized, "The identity provider refuses: "+clip(strings.ToValidUTF8(text, ""), 200))
		return
	}
	c, err := newCaller(s.Vault, s.Mount, "")
	if err != nil {
		s.refuseSignIn(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), pageTime)
	defer cancel()
	state, _, _ := strings.Cut(query.Get("state"), ",ns=") // namespace_in_state appends the namespace, and Vault expects the rest
	a, err := get[any](ctx, c, "sign in at", "auth/"+s.OIDCPath+"/oidc/callback", url.Values{
		"state": {state}, "code": {query.Get("code")}, "client_nonce": {one.nonce},
	})
	if err != nil {
		s.refuseSignIn(w, r, err)
		return
	}
	token, err := tokenOf(a.Auth)
	if err == nil {
		err = s.begin(ctx, w, r, token, true)
	}
	if err != nil {
		s.refuseSignIn(w, r, err)
		return
	}
	// The browser sends SameSite=Strict cookies only to where a page of this site leads.
	s.lead(w, "Signed in", &leave{To: "/", Text: "Continue to the console"})
}
