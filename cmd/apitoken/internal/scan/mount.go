package scan

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	// batch is how many tokens are reported in a request.
	batch = 100

	askTime = 30 * time.Second
)

// mount is the engine in Vault.
type mount struct {
	client *api.Client
	path   string
}

// newMount returns the mount at a path, as VAULT_ADDR, VAULT_TOKEN and the other variables of Vault say.
func newMount(path string) (*mount, error) {
	c := api.DefaultConfig()
	if c.Error != nil {
		return nil, c.Error
	}
	c.Timeout = askTime
	client, err := api.NewClient(c)
	if err != nil {
		return nil, err
	}
	return &mount{client, strings.Trim(path, "/")}, nil
}

// different returns the different tokens of findings that do not fail a test, in their order.
func different(found []*finding, skip func(*secret) bool) []*finding {
	seen := make(map[*secret]bool)
	var list []*finding
	for _, f := range found {
		if !seen[f.secret] && !skip(f.secret) {
			list = append(list, f)
		}
		seen[f.secret] = true
	}
	return list
}

// lookUp asks the mount about each token.
func (m *mount) lookUp(ctx context.Context, found []*finding) error {
	for _, f := range different(found, func(*secret) bool { return false }) {
		answer, err := m.client.Logical().WriteWithContext(ctx, m.path+"/lookup", map[string]any{"token": f.text})
		if err != nil {
			return fmt.Errorf("asking the mount %q about tokens: %w", m.path, plain(err))
		}
		if answer == nil {
			return fmt.Errorf("asking the mount %q about tokens: the answer is empty", m.path)
		}
		f.state = text(answer.Data, "state")
		f.role, f.tokenID = text(answer.Data, "role"), text(answer.Data, "token_id")
	}
	return nil
}

// revoke reports the tokens that may be alive as leaked, so that the mount revokes them.
func (m *mount) revoke(ctx context.Context, found []*finding) error {
	list := different(found, func(s *secret) bool { return dead[s.state] || s.state == stateForeign })
	for len(list) > 0 {
		n := min(len(list), batch)
		reports := make([]any, n)
		for i, f := range list[:n] {
			reports[i] = map[string]any{"token": f.text, "type": f.kind, "url": token.Redact(f.place()), "source": "apitoken scan"}
		}
		answer, err := m.client.Logical().WriteWithContext(ctx, m.path+"/leaked", map[string]any{"tokens": reports})
		if err != nil {
			return fmt.Errorf("revoking tokens at the mount %q: %w", m.path, plain(err))
		}
		if answer == nil {
			return fmt.Errorf("revoking tokens at the mount %q: the answer is empty", m.path)
		}
		results, _ := answer.Data["results"].([]any)
		if len(results) != n {
			return fmt.Errorf("revoking tokens at the mount %q: %d answers to %d reports", m.path, len(results), n)
		}
		for i, f := range list[:n] {
			result, _ := results[i].(map[string]any)
			switch {
			case text(result, "label") == "true_positive":
				f.state, f.ended = stateRevoked, true
			case f.state == stateUnknown:
				f.state = stateForeign
			}
		}
		list = list[n:]
	}
	return nil
}

func text(data map[string]any, name string) string {
	value, _ := data[name].(string)
	return value
}

// plain shortens an error of Vault to one line.
func plain(err error) error {
	answered, ok := errors.AsType[*api.ResponseError](err)
	if !ok {
		return err
	}
	what := strings.Join(answered.Errors, "; ")
	if answered.StatusCode == http.StatusForbidden {
		what += " (does the policy of VAULT_TOKEN allow it?)"
	}
	return fmt.Errorf("status %d of Vault: %s", answered.StatusCode, what)
}
