package console

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	maxToken    = 8 << 10 // bytes of a Vault token: Vault's own limit
	maxPassword = 1 << 10
)

var tokenPattern = regexp.MustCompile(`^[!-~]+$`)

// signInContent is the data of the page to sign in.
type signInContent struct {
	Key      string // against forms of other sites; the cookie has the same
	Password bool
	OIDC     bool
	Problem  string
	Ended    bool
}

func (s *Server) signInPage(w http.ResponseWriter, r *http.Request) {
	if s.sessions.get(s.cookieOf(r, "session")) != nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	s.showSignIn(w, r, http.StatusOK, "")
}

// showSignIn serves the page to sign in.
func (s *Server) showSignIn(w http.ResponseWriter, r *http.Request, status int, problem string) {
	key := s.cookieOf(r, "key")
	if key == "" || len(key) > 100 {
		key = rand.Text()
		s.setCookie(w, "key", key, http.SameSiteStrictMode)
	}
	s.render(w, status, &frame{page: "sign-in", Title: "Sign in", Content: &signInContent{
		Key: key, Password: s.PasswordPath != "", OIDC: s.OIDCPath != "", Problem: problem, Ended: r.URL.Query().Has("ended"),
	}})
}

// mayTry reports whether a form of this console may try to sign in, and otherwise answers.
func (s *Server) mayTry(w http.ResponseWriter, r *http.Request) bool {
	if !same(r.PostFormValue("key"), s.cookieOf(r, "key")) {
		s.showSignIn(w, r, http.StatusForbidden, "The form is not of this browser: try again. Cookies must be allowed.")
		return false
	}
	if !s.attempts.allow(r.RemoteAddr) {
		s.Logger.Warn("sign-in refused; too many attempts", "address", r.RemoteAddr)
		w.Header().Set("Retry-After", "60")
		s.showSignIn(w, r, http.StatusTooManyRequests, "There were too many attempts to sign in: wait a minute.")
		return false
	}
	return true
}

func (s *Server) signIn(w http.ResponseWriter, r *http.Request) {
	if !s.mayTry(w, r) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), pageTime)
	defer cancel()
	var token string
	var err error
	own := false
	if method := r.PostFormValue("method"); method == "token" {
		token, err = pasted(r.PostFormValue("token"))
	} else if method == "password" && s.PasswordPath != "" {
		token, err = s.login(ctx, r.PostFormValue("username"), r.PostFormValue("password"))
		own = true
	} else {
		err = errors.New("choose a way to sign in")
	}
	if err != nil {
		s.refuseSignIn(w, r, err)
		return
	}
	if err := s.begin(ctx, w, r, token, own); err != nil {
		s.refuseSignIn(w, r, err)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// pasted checks a Vault token that somebody has pasted.
func pasted(text string) (string, error) {
	token := strings.TrimSpace(text)
	if token == "" {
		return "", errors.New("token: paste a Vault token")
	}
	if len(token) > maxToken || !tokenPattern.MatchString(token) {
		return "", errors.New("token: the text is not a Vault token")
	}
	return token, nil
}

// login returns the Vault token of a name and a password.
func (s *Server) login(ctx context.Context, name, password string) (string, error) {
	if !userPattern.MatchString(name) {
		return "", errors.New("username: letters, digits and @ + . _ - are allowed, at most 128 characters")
	}
	if password == "" || len(password) > maxPassword {
		return "", errors.New("password: 1 to 1,024 bytes are allowed")
	}
	c, err := newCaller(s.Vault, s.Mount, "")
	if err != nil {
		return "", err
	}
	a, err := put[any](ctx, c, vaultTimeout, "sign in at", "auth/"+s.PasswordPath+"/login/"+name, map[string]any{"password": password})
	if err != nil {
		return "", err
	}
	return tokenOf(a.Auth)
}

// tokenOf returns the Vault token of a login.
func tokenOf(auth *api.SecretAuth) (string, error) {
	switch {
	case auth == nil:
		return "", errors.New("vault issued no token")
	case auth.MFARequirement != nil:
		return "", errors.New("vault asks for a second factor: sign in with the vault command, and paste the token")
	case auth.ClientToken == "":
		return "", errors.New("vault issued no token")
	}
	return auth.ClientToken, nil
}

// refusedText returns a sentence on a sign-in that Vault refused at a path. Vault answers alike if no auth method is enabled at the
// path. The sentence does not depend on Vault's reason, from which a stranger could learn what names there are.
func (s *Server) refusedText(path string) string {
	switch {
	case s.PasswordPath != "" && strings.HasPrefix(path, "auth/"+s.PasswordPath+"/login/"):
		return "Vault refuses to sign you in. Check the name and the password. The auth method must be enabled at auth/" + s.PasswordPath +
			", or at the -password-path of the console."
	case s.OIDCPath != "" && path == "auth/"+s.OIDCPath+"/oidc/auth_url":
		return "Vault refuses to sign you in. The auth method for OIDC must be enabled at auth/" + s.OIDCPath +
			", or at the -oidc-path of the console."
	}
	return "Vault refuses to sign you in. Check what you have entered."
}

// refuseSignIn answers an attempt that failed.
func (s *Server) refuseSignIn(w http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusBadRequest, err.Error()
	if p, ok := errors.AsType[*problem](err); ok {
		switch p.Kind {
		case denied, refused:
			status, text = http.StatusUnauthorized, s.refusedText(p.Path)
		case missing:
			status, text = http.StatusBadGateway, "Vault has no such way to sign in: "+p.Path+"."
		default: // the text may have an address of the network behind the console
			status, text = http.StatusBadGateway, "Vault does not answer: the log of the console has the reason."
			s.Logger.Error("Vault not reached", "error", p.Text)
		}
		if p.Kind == refused && strings.Contains(p.Path, "/oidc/") { // such as a redirect address that is not allowed
			text = p.Error()
		}
	}
	s.Logger.Warn("sign-in refused", "address", r.RemoteAddr, "status", status)
	s.showSignIn(w, r, status, text)
}

// self is what Vault knows of a token.
type self struct {
	DisplayName string   `json:"display_name"`
	Policies    []string `json:"policies"`
	Identity    []string `json:"identity_policies"`
	ExpireTime  instant  `json:"expire_time"`
}

// begin starts a session with a Vault token, under a new ID. own: the console signed in, and revokes the token at the end.
func (s *Server) begin(ctx context.Context, w http.ResponseWriter, r *http.Request, token string, own bool) error {
	c, err := newCaller(s.Vault, s.Mount, token)
	if err != nil {
		return err
	}
	one := &session{caller: c, own: own}
	a, err := get[self](ctx, c, "read", "auth/token/lookup-self", nil)
	if err == nil {
		one.Name, one.Policies = a.Data.DisplayName, append(a.Data.Policies, a.Data.Identity...)
		err = s.sessions.start(one, a.Data.ExpireTime.Time)
	}
	if err != nil {
		if own {
			s.over(one, "the session did not start")
		}
		return err
	}
	if before := s.sessions.get(s.cookieOf(r, "session")); before != nil {
		s.end(before, "another session began in the browser")
	}
	s.setCookie(w, "session", one.id, http.SameSiteStrictMode)
	s.setCookie(w, "key", "", http.SameSiteStrictMode)
	s.Logger.Info("session started", "display_name", one.Name, "address", r.RemoteAddr, "ends", one.ends.UTC().Format(time.RFC3339))
	return nil
}

func (s *Server) signOut(w http.ResponseWriter, r *http.Request, one *session) {
	s.end(one, "signed out")
	s.setCookie(w, "session", "", http.SameSiteStrictMode)
	w.Header().Set("Clear-Site-Data", `"cache", "storage"`)
	http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
}
