package mount

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/leaks"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// maxUnknownKeys is how many keys that memory does not have a request of reports reads from storage. Each takes two reads.
const maxUnknownKeys = 8

// Leaked revokes the live tokens that reports name, each with its grant, and makes a finding of each. It returns for each
// report whether this mount made the token, alive or not: the reporter learns nothing about the state of a token. client
// is the address of the request. If a revocation fails, Leaked revokes the others, and returns an error: the caller repeats the
// request.
func (m *Mount) Leaked(
	ctx context.Context, s logical.Storage, st *State, reports []leaks.Report, client string,
) (ours []bool, _ error) {
	l := leaked{m, s, st, client, make(map[string]bool)}
	ours = make([]bool, len(reports))
	var first error
	failed := 0
	for i := range reports {
		var err error
		if ours[i], err = l.end(ctx, &reports[i]); err != nil {
			failed++
			first = cmp.Or(first, err)
		}
	}
	if failed > 0 {
		return nil, fmt.Errorf("%d of %d tokens were not revoked: repeat the request: %w", failed, len(reports), first)
	}
	return ours, nil
}

// leaked handles the reports of one request.
type leaked struct {
	*Mount
	storage logical.Storage
	st      *State
	client  string
	unknown map[string]bool // names of the keys that were looked up in storage
}

// end revokes the token of a report if the token is alive, and reports whether this mount made the token.
func (l *leaked) end(ctx context.Context, r *leaks.Report) (ours bool, _ error) {
	if native.CheckText(r.Token) != nil {
		return false, nil
	}
	if t, known := l.st.Upstreams.Known(r.Token); known {
		return true, l.endUpstream(ctx, r, &t)
	}
	claims, err := l.open(ctx, r.Token)
	switch {
	case foreign(err), errors.Is(err, token.ErrExpiredKey), errors.Is(err, token.ErrDestroyedKey):
		return false, nil // a token whose key is gone cannot be told from a forgery
	case err != nil:
		return false, err
	}
	id := claims.ID
	if claims.Generation > 0 { // a refresh token expires when its grant does
		id = claims.Grant
	}
	life := l.st.Life(id, claims.Grant, claims.Subject, claims.Role, claims.ExpiresAt)
	if life.Revoked || !l.now().Before(life.ExpiresAt.Add(ledger.ClockSkew)) { // by the clock of another node it may be alive
		return true, nil
	}
	if err := l.st.RevokeClaims(ctx, l.storage, claims); err != nil {
		return true, err
	}
	l.Counters.Revoked(metrics.ByLeak, 1)
	found := &detect.Leak{Grant: claims.Grant, Subject: claims.Subject}
	if role := l.st.Roles.ByID(claims.Role); role != nil {
		found.Role = role.Name()
	}
	l.found(r, found)
	return true, nil
}

// endUpstream revokes the token of a service. If the service does not confirm at once, the queue retries.
func (l *leaked) endUpstream(ctx context.Context, r *leaks.Report, t *upstream.Token) error {
	if t.State != upstream.Live {
		return nil
	}
	if _, err := l.Upstreams.Revoke(ctx, t.ID); err != nil {
		return err
	}
	l.Counters.Revoked(metrics.ByLeak, 1)
	l.found(r, &detect.Leak{Grant: t.ID, Role: t.Role, Subject: t.Subject})
	return nil
}

func (l *leaked) found(r *leaks.Report, found *detect.Leak) {
	found.URL, found.Source, found.Client = r.URL, r.Source, l.client
	l.Detect.Leaked(found)
	l.Statics.Wake() // a static role may have kept the token
}

// open opens a token, and looks each key that memory does not have up in storage once, at most maxUnknownKeys.
func (l *leaked) open(ctx context.Context, text string) (claims *token.Claims, err error) {
	if token.IsJWT(text) {
		claims, err = token.OpenJWT(l.st.Signing.Ring(), text)
	} else {
		claims, err = token.Open(l.st.Sealing.Ring(), text)
	}
	key, unknown := errors.AsType[*token.UnknownKeyError](err)
	if !unknown || l.unknown[key.Name] || len(l.unknown) >= maxUnknownKeys {
		return claims, err
	}
	l.unknown[key.Name] = true
	return l.st.Open(ctx, l.storage, text)
}
