package mount

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
)

// OAuthIntrospection is a standard introspection (RFC 7662).
type OAuthIntrospection struct {
	Text   string // of the token
	Use    *access.Use
	Signed bool   // the caller accepts a signed answer (RFC 9701)
	Caller string // Vault entity or display name of the caller: the audience of a signed answer
}

// IntrospectOAuth returns the members of the answer. If the caller accepts a signed answer and the mount has an issuer,
// IntrospectOAuth returns the signed answer, too.
func (m *Mount) IntrospectOAuth(
	ctx context.Context, s logical.Storage, st *State, q *OAuthIntrospection,
) (answer map[string]any, signed string, _ error) {
	v, err := st.Verify(ctx, s, q.Text, q.Use)
	if err != nil {
		return nil, "", err
	}
	m.Counters.Decided(metrics.Introspection, v.Reason, 1)
	if m.MayWrite() {
		m.NoteUse(v, q.Use, q.Text)
	}
	c, err := st.Config.Get()
	if err != nil {
		if q.Signed {
			return nil, "", err
		}
		c = st.Config.OrDefaults()
	}
	answer = map[string]any{"active": false}
	if v.Reason == access.Good {
		answer = v.Members(c)
		answer["active"] = true
	}
	if q.Signed && c.Issuer != "" {
		signed, err = st.SignIntrospection(ctx, s, c, q.Caller, answer)
		return answer, signed, err
	}
	return answer, "", nil
}
