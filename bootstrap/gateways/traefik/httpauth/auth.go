// Package auth stands in for the library of Traefik's middlewares BasicAuth and DigestAuth: Traefik links a fork, which not
// every module proxy serves. Every request is refused. The tests use neither middleware.
package auth

import "net/http"

// SecretProvider returns the secret of a user.
type SecretProvider func(user, realm string) string

// BasicAuth refuses every request.
type BasicAuth struct {
	Realm   string
	Secrets SecretProvider
}

// RequireAuth answers 401.
func (*BasicAuth) RequireAuth(w http.ResponseWriter, _ *http.Request) { refuse(w) }

// CheckSecret reports that no password is right.
func CheckSecret(_, _ string) bool { return false }

// DigestAuth refuses every request.
type DigestAuth struct{ Realm string }

// NewDigestAuthenticator returns a DigestAuth.
func NewDigestAuthenticator(realm string, _ SecretProvider) *DigestAuth {
	return &DigestAuth{Realm: realm}
}

// CheckAuth returns no user.
func (*DigestAuth) CheckAuth(*http.Request) (user string, info *string) { return "", nil }

// RequireAuth answers 401.
func (*DigestAuth) RequireAuth(w http.ResponseWriter, _ *http.Request) { refuse(w) }

// RequireAuthStale answers 401.
func (*DigestAuth) RequireAuthStale(w http.ResponseWriter, _ *http.Request) { refuse(w) }

// DigestAuthParams returns no parameters.
func DigestAuthParams(string) map[string]string { return nil }

func refuse(w http.ResponseWriter) {
	http.Error(w, "this build of Traefik has neither BasicAuth nor DigestAuth", http.StatusUnauthorized)
}
