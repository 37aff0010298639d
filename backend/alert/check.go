package alert

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

const (
	maxURL     = 2048 // bytes
	maxHeaders = 16
	maxHeader  = 4096 // bytes of a value

	secretPrefix = "whsec_"
	secretBytes  = 32 // of a generated secret
	minSecret    = 24 // bytes, as Standard Webhooks demand
	maxSecret    = 64 // bytes, as Standard Webhooks demand
)

// headerName is the form of a header's name (RFC 9110 section 5.6.2).
var headerName = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]{1,64}$")

// reserved are the headers that the engine or HTTP sets.
var reserved = []string{
	"host", "content-type", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect", "user-agent",
}

func (e *Entry) checkHeaders() error {
	if len(e.Headers) > maxHeaders {
		return refusal.Field("headers", "has %d headers, at most %d are allowed", len(e.Headers), maxHeaders)
	}
	seen := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
		lower, value := strings.ToLower(name), e.Headers[name]
		twice := seen[lower]
		seen[lower] = true
		switch {
		case !headerName.MatchString(name):
			// The name may have a part of a value, as in "Authorization: Bearer SECRET=".
			return refusal.Field("headers", "has a name that is not the name of a header: write a header as Authorization=\"Bearer ...\"")
		case slices.Contains(reserved, lower) || strings.HasPrefix(lower, "webhook-"):
			return refusal.Field("headers", "%q is set by the engine", name)
		case twice:
			return refusal.Field("headers", "has %q twice, in upper and in lower case", name)
		case len(value) > maxHeader:
			return refusal.Field("headers", "the value of %q is %d bytes long, at most %d are allowed", name, len(value), maxHeader)
		case strings.ContainsFunc(value, func(r rune) bool { return unicode.IsControl(r) || r == unicode.ReplacementChar }):
			return refusal.Field("headers", "the value of %q has a character that a header cannot have", name)
		}
	}
	return nil
}

// parseURL parses the URL of a receiver. No error shows the URL, whose path may be a secret.
func parseURL(text string, allowHTTP bool) (*url.URL, error) {
	if err := refusal.CheckLen("url", text, maxURL); err != nil {
		return nil, err
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, refusal.Field("url", "is not a URL such as https://alerts.example.com/apitoken")
	case u.Scheme == "http" && !allowHTTP:
		return nil, refusal.Field("url", "has the scheme http, which anybody on the way can read: use https, or set allow_http")
	case u.User != nil:
		return nil, refusal.Field("url", "must not contain a user or a password: give them in headers, as Authorization")
	case u.Fragment != "" || u.RawFragment != "":
		return nil, refusal.Field("url", "must not have a fragment")
	case u.Path == hiddenPath:
		return nil, refusal.Field("url", "ends with /..., which stands for the path that a read does not show: give the whole URL")
	}
	return u, nil
}

// checkSecrets rejects a secret that is not of the form of Standard Webhooks. No error shows the secret.
func (e *Entry) checkSecrets() error {
	for _, secret := range []string{e.Secret, e.Previous} {
		text, prefixed := strings.CutPrefix(secret, secretPrefix)
		key, err := base64.StdEncoding.DecodeString(text)
		if secret == e.Previous && secret == "" {
			continue
		}
		if !prefixed || err != nil || len(key) < minSecret || len(key) > maxSecret {
			return refusal.Field("secret", "must be %s and the Base64 of %d to %d random bytes: leave the field out for a random secret",
				secretPrefix, minSecret, maxSecret)
		}
	}
	return nil
}

func newSecret() string {
	key := make([]byte, secretBytes)
	_, _ = rand.Read(key) // never returns an error
	return secretPrefix + base64.StdEncoding.EncodeToString(key)
}

// newID returns a random ID of a number of bytes, in hexadecimal digits.
func newID(bytes int) string {
	id := make([]byte, bytes)
	_, _ = rand.Read(id) // never returns an error
	return hex.EncodeToString(id)
}
