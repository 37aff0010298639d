package connector

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// minEcho is the length from which a secret is recognised in an answer. Shorter ones turn up by chance.
const minEcho = 8

// secrets gives the secrets of the credential, and those among the variables of a call.
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

// longestFirst sorts secrets, one of which may be a part of another.
func longestFirst(secrets []string) []string {
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return secrets
}

// CommonSecrets tells whether two credentials have a secret in common, and whether they have all of them: then they are
// one, whatever else is said of it.
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

// shown gives the members of a credential that are no secrets.
func (p *Provider) shown(credential map[string]any) map[string]any {
	shown := make(map[string]any)
	for name, value := range credential {
		if !p.Credential[name].Secret {
			shown[name] = value
		}
	}
	return shown
}

// tell makes what went wrong fit for people. Secrets go first: what is cut off or folded would not be found.
func (s *Service) tell(text string, vars map[string]any, more ...string) string {
	return printable(s.scrub(text, vars, more))
}

// scrub takes secrets and more out of what is told of a call, also as they are in a form or a URL.
func (s *Service) scrub(text string, vars map[string]any, more []string) string {
	var pairs []string
	for _, secret := range longestFirst(append(s.secrets(vars), more...)) {
		for _, form := range longestFirst([]string{secret, url.QueryEscape(secret), url.PathEscape(secret)}) {
			pairs = append(pairs, form, "[secret]")
		}
	}
	return strings.NewReplacer(pairs...).Replace(text) // in one pass, the first that fits
}

// withoutSecrets refuses a result that holds a secret of the credential: the definition cannot put it there,
// but a service that repeats what it was sent can.
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

// holds tells whether a value has a text in it.
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
