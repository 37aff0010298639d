package connector

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// minEcho is the smallest length of a secret that is searched in an answer. A shorter secret may occur by chance.
const minEcho = 8

// secrets returns the secrets of the credential and of the variables of a call.
func (s *Service) secrets(vars map[string]any) []string {
	var secrets []string
	add := func(value any) {
		if secret, _ := value.(string); secret != "" {
			secrets = append(secrets, secret)
		}
	}
	for name, field := range s.Provider.Credential {
		if field.Secret {
			add(s.Credential[name])
		}
	}
	add(vars["token"])
	add(vars["generated"])
	return secrets
}

// longestFirst sorts secrets by length, since one secret may be a part of another.
func longestFirst(secrets []string) []string {
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return secrets
}

// CommonSecrets reports whether two credentials have some or all secrets in common. If all secrets are the same, both are
// the same credential, even if other members differ.
func (p *Provider) CommonSecrets(a, b map[string]any) (some, all bool) {
	all = true
	for name, field := range p.Credential {
		if field.Secret {
			same := a[name] == b[name]
			some, all = some || same && a[name] != nil, all && same
		}
	}
	return some, all
}

// shown returns the members of a credential that are not secret.
func (p *Provider) shown(credential map[string]any) map[string]any {
	shown := make(map[string]any)
	for name, value := range credential {
		if !p.Credential[name].Secret {
			shown[name] = value
		}
	}
	return shown
}

// tell makes a message safe to show. It removes secrets first, since a shortened secret would not be found.
func (s *Service) tell(text string, vars map[string]any, more ...string) string {
	return printable(s.scrub(text, vars, more))
}

// scrub removes secrets and more from a text, also in the encodings of a form and a URL.
func (s *Service) scrub(text string, vars map[string]any, more []string) string {
	return s.scrubber(vars, more).Replace(text) // one pass: the longest secret wins
}

// scrubber returns what removes secrets and more from texts.
func (s *Service) scrubber(vars map[string]any, more []string) *strings.Replacer {
	var pairs []string
	for _, secret := range longestFirst(append(s.secrets(vars), more...)) {
		for _, form := range longestFirst([]string{secret, url.QueryEscape(secret), url.PathEscape(secret)}) {
			pairs = append(pairs, form, "[secret]")
		}
	}
	return strings.NewReplacer(pairs...)
}

// withoutSecrets rejects a result that contains a secret of the credential. A definition cannot put a secret there, but a
// service may repeat what it received.
func (s *Service) withoutSecrets(result, vars map[string]any) error {
	for _, secret := range s.secrets(vars) {
		if len(secret) < minEcho {
			continue
		}
		for _, member := range sortedKeys(result) {
			if holds(result[member], secret) {
				return fmt.Errorf("%s: %w", member, errEcho)
			}
		}
	}
	return nil
}

var errEcho = errors.New("the service repeats a secret of the credential")

// holds reports whether a value contains a text.
func holds(value any, text string) bool {
	switch v := value.(type) {
	case string:
		return strings.Contains(v, text)
	case []any:
		for _, one := range v {
			if holds(one, text) {
				return true
			}
		}
	case map[string]any:
		for key, one := range v {
			if strings.Contains(key, text) || holds(one, text) {
				return true
			}
		}
	}
	return false
}
