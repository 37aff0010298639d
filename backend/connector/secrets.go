package connector

import (
	"errors"
	"fmt"
	"strings"
)

// minEcho is the length from which a secret is recognised in an answer. Shorter ones turn up by chance.
const minEcho = 8

// secrets gives the secrets among the variables of a call.
func (u *Upstream) secrets(vars map[string]any) []string {
	var secrets []string
	add := func(value any) {
		if secret, _ := value.(string); secret != "" {
			secrets = append(secrets, secret)
		}
	}
	for name, field := range u.Provider.Credential {
		if field.Secret {
			add(vars["credential."+name])
		}
	}
	add(vars["token"])
	add(vars["generated"])
	return secrets
}

// scrub takes secrets out of what is told of a call.
func (u *Upstream) scrub(text string, vars map[string]any) string {
	for _, secret := range u.secrets(vars) {
		text = strings.ReplaceAll(text, secret, "[secret]")
	}
	return text
}

// withoutSecrets refuses a result that holds a secret of the credential: the definition cannot put it there,
// but a service that repeats what it was sent can.
func (u *Upstream) withoutSecrets(result, vars map[string]any) error {
	for _, secret := range u.secrets(vars) {
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
