package mount

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// RevokeOAuth revokes the grant of a native token, or an upstream token, by the rules of RFC 7009. Revoking an unknown token is
// a success (section 2.2).
func (m *Mount) RevokeOAuth(ctx context.Context, s logical.Storage, st *State, text string) error {
	defer m.Statics.Wake() // a static role may have kept the token
	f, err := st.find(ctx, s, text)
	switch {
	case foreign(err):
		return nil
	case keyGone(err):
		// By section 2.1 a client takes a success for the revocation of the grant. The answer is therefore the error of section
		// 2.2.1.
		return refusal.OAuth(refusal.UnsupportedTokenType, "the token is not active, but its key is gone: the grant of the token is "+
			"unknown, and no other token was revoked")
	case err != nil:
		return err
	case f.claims == nil:
		_, err = m.Upstreams.Revoke(ctx, f.service)
	default:
		err = st.RevokeClaims(ctx, s, f.claims)
	}
	if err == nil {
		m.Counters.Revoked(metrics.ByRequest, 1)
	}
	return err
}

// Revoke revokes the grant of a token, by the text of a token or, if the text is empty, by the ID of the grant. Revoke
// refuses a text that is no token of this mount, and warns where more may be alive than was revoked.
func (m *Mount) Revoke(
	ctx context.Context, s logical.Storage, st *State, text string, id token.ID,
) (warnings []string, err error) {
	defer m.Statics.Wake() // a static role may have kept the token
	if text == "" {
		t, isUpstream, err := st.Upstreams.Find(ctx, id)
		if err != nil {
			return nil, err
		}
		if isUpstream {
			return m.revokeUpstream(ctx, t.ID)
		}
		return revokeID(ctx, s, st, id)
	}
	f, err := st.find(ctx, s, text)
	switch {
	case foreign(err):
		return nil, notFound(err, "revoked", "revoke the token at the mount that issued it")
	case keyGone(err):
		return revokeUnopened(ctx, s, st, text, err)
	case err != nil:
		return nil, err
	case f.claims == nil:
		return m.revokeUpstream(ctx, f.service)
	}
	return nil, st.RevokeClaims(ctx, s, f.claims)
}

// revokeID revokes the grant with an ID, and warns if the ID is unknown.
func revokeID(ctx context.Context, s logical.Storage, st *State, id token.ID) (warnings []string, _ error) {
	if known, err := st.RevokeID(ctx, s, id); err != nil || known {
		return nil, err
	}
	return []string{fmt.Sprintf("token_id %q is unknown. If this mount issued a token of that id just before a crash, or without "+
		"a lease, introspection now rejects the token; a status list does not show the revocation. If you have the token, revoke "+
		"by token", id)}, nil
}

// revokeUnopened revokes the grant of a token whose key is gone, and warns if the grant is unknown.
func revokeUnopened(ctx context.Context, s logical.Storage, st *State, text string, reason error) (warnings []string, _ error) {
	if known, err := st.RevokeUnopened(ctx, s, text); err != nil || known {
		return nil, err
	}
	return []string{fmt.Sprintf("the token was %s and is not valid, but its grant is unknown: other tokens of the grant, "+
		"refreshed or exchanged with another key, may be active. To revoke the grant, revoke its token_id or its lease", reason)}, nil
}

// revokeUpstream revokes an upstream token, and warns if the service has not confirmed the revocation.
func (m *Mount) revokeUpstream(ctx context.Context, id token.ID) (warnings []string, _ error) {
	o, err := m.Upstreams.Revoke(ctx, id)
	if err != nil || !o.Queued {
		return nil, err
	}
	if !o.EndsAt.IsZero() {
		return []string{fmt.Sprintf("the service of connection %q cannot revoke the token. The token works there until %s: limit "+
			"its permissions there", o.Service, o.EndsAt.UTC().Format(time.RFC3339))}, nil
	}
	return []string{fmt.Sprintf("the service of connection %q has not confirmed the revocation yet. The engine retries until the "+
		"service confirms: see the queue of the connection", o.Service)}, nil
}

// RevokeLease revokes the grant of a native token whose lease Vault revokes, unless the grant has expired.
func (m *Mount) RevokeLease(ctx context.Context, s logical.Storage, st *State, l *native.Lease) error {
	before := st.Revoked(l.Grant)
	if err := st.RevokeLease(ctx, s, l.Grant, l.Status, l.ExpiresAt, l.RenewedUntil); err != nil {
		return err
	}
	if !before && st.Revoked(l.Grant) {
		m.Counters.Revoked(metrics.ByLease, 1)
	}
	return nil
}

// RevokeUpstreamLease revokes the token of a service whose lease has expired or is revoked. If the service fails, the queue
// retries the revocation: Vault would give up after some tries.
func (m *Mount) RevokeUpstreamLease(ctx context.Context, st *State, l *upstream.Lease) error {
	if l.Hold != "" { // others may hold the token
		return m.Upstreams.Unhold(ctx, l.ID, l.Hold)
	}
	t, known := st.Upstreams.Get(l.ID)
	if _, err := m.Upstreams.Revoke(ctx, l.ID); err != nil {
		return err
	}
	switch {
	case !known || t.State != upstream.Live: // revoked before
	case m.now().Before(st.Upstreams.ExpiresAt(&t)):
		m.Counters.Revoked(metrics.ByLease, 1)
	default:
		m.Counters.Revoked(metrics.ByExpiry, 1)
	}
	return nil
}
