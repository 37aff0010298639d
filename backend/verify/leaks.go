package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// maxLeaks is the maximum number of reports in a request to the engine.
const maxLeaks = 100

// errNoVault is the error of what only Vault can answer.
var errNoVault = errors.New("Config.Vault is not set: only Vault knows which tokens are alive")

// Leak is the report of a token that was found where it should not be, in the form of GitHub's secret scanning.
type Leak struct {
	Token  string `json:"token"`
	Type   string `json:"type,omitempty"`
	URL    string `json:"url,omitempty"`    // where the token was found; empty: not stated
	Source string `json:"source,omitempty"` // kind of the place; empty: not stated
}

// LeakFeedback is the engine's feedback on a Leak.
type LeakFeedback struct {
	TokenHash string `json:"token_hash"` // SHA-256, in hexadecimal
	TokenType string `json:"token_type"`
	Label     string `json:"label"` // true_positive: the mount has made the token; or false_positive
}

// ReportLeaked reports leaked tokens to the engine, which revokes the live ones with their grants. It returns the feedback on
// each report. Each 100 reports are a request of their own: after an error, the tokens of earlier requests are revoked, and the
// caller reports all of them again.
func (v *Verifier) ReportLeaked(ctx context.Context, list []Leak) ([]LeakFeedback, error) {
	if v.vault == nil {
		return nil, errNoVault
	}
	feedback := make([]LeakFeedback, 0, len(list))
	for len(list) > 0 {
		n := min(len(list), maxLeaks)
		var answer struct {
			Results []LeakFeedback `json:"results"`
		}
		err := v.vault.retrying(ctx, func() error {
			return v.vault.write(ctx, "leaked", map[string]any{"tokens": list[:n]}, &answer)
		})
		if err != nil {
			return nil, fmt.Errorf("reporting leaked tokens: %w", err)
		}
		if len(answer.Results) != n {
			return nil, fmt.Errorf("reporting leaked tokens: %d answers to %d reports", len(answer.Results), n)
		}
		feedback, list = append(feedback, answer.Results...), list[n:]
	}
	return feedback, nil
}

// Alive asks the engine whether a token is alive: good for some use, or suspended. Alive is for scanners, and counts no use of
// the token. A text that is no token by its checksum is not asked about.
func (v *Verifier) Alive(ctx context.Context, text string) (bool, error) {
	if v.vault == nil {
		return false, errNoVault
	}
	if len(text) > token.MaxLen || !token.Checksum(text) && !token.IsJWT(text) {
		return false, nil
	}
	_, end := v.events.where()
	a, err := v.vault.introspect(ctx, text, end.cursor)
	if err != nil {
		return false, fmt.Errorf("introspecting a token: %w", err)
	}
	switch a.Reason {
	case access.Malformed, access.WrongEnvironment, access.Unknown, access.Expired, access.Revoked, access.RoleDeleted,
		access.SubjectDisabled:
		return false, nil
	case access.Good:
		return a.Active, nil
	}
	return true, nil // suspended, or the token is for other addresses, regions, hosts or audiences
}
