package native

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// refreshRetry is how long the refresh token before the current one gets another pair of the same generation: its client
// may not have received the answer, or may refresh on many connections at once.
const refreshRetry = 10 * time.Second

// errInvalidGrant refuses a token without saying why (RFC 6749 section 5.2).
var errInvalidGrant = refusal.OAuth(refusal.InvalidGrant, "")

// RefreshRequest asks for the next pair of tokens of a grant (RFC 6749 section 6).
type RefreshRequest struct {
	RefreshToken string
	Scope        []string // empty: the same scopes
	MountPoint   string
	RemoteAddr   string // where the request comes from; empty if that is not known
}

// Pair is the answer to a refresh or an exchange.
type Pair struct {
	Access      string
	Refresh     string        // empty for an exchange
	Claims      *token.Claims // of the access token
	Permissions *access.Permissions
	IssuedType  string // TypeAccessToken or TypeJWT; empty for a refresh
}

// TokenAnswer is the access token response of RFC 6749 section 5.1 and RFC 8693 section 2.2.1.
type TokenAnswer struct {
	AccessToken     string `json:"access_token"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int64  `json:"expires_in"`
	RefreshToken    string `json:"refresh_token,omitempty"`
	Scope           string `json:"scope"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
}

// Answer returns the answer that delivers the pair.
func (p *Pair) Answer(now time.Time) *TokenAnswer {
	return &TokenAnswer{
		AccessToken: p.Access, TokenType: PresentedAs(p.Claims), RefreshToken: p.Refresh, IssuedTokenType: p.IssuedType,
		ExpiresIn: max(0, int64(p.Claims.ExpiresAt.Sub(now).Seconds())), Scope: p.Permissions.Scopes.Parameter(),
	}
}

// Refresh uses up a refresh token and returns the next pair of tokens. A refresh token that was used before revokes the
// grant.
func (t *Tokens) Refresh(ctx context.Context, s logical.Storage, q *RefreshRequest) (*Pair, error) {
	used, err := Open(ctx, s, t.Sealing, q.RefreshToken, token.Open)
	if errors.Is(err, token.ErrBrokenKey) {
		return nil, err
	}
	if err != nil || used.Generation == 0 {
		return nil, errInvalidGrant
	}
	now := t.Now()
	// Reuse is checked first, so that no other refusal hides the reuse.
	if t.Refreshes.Reused(used.Grant, used.Generation, refreshRetry, now) {
		return nil, t.refreshTokenReused(ctx, s, q, used)
	}
	r, permissions, life, err := t.grantOf(ctx, used, q.RemoteAddr)
	if err != nil {
		return nil, err
	}
	if r == nil || r.AccessTTL == 0 {
		return nil, errInvalidGrant
	}
	if err := checkRefreshScope(q.Scope, permissions); err != nil {
		return nil, err
	}
	grantEnd := used.IssuedAt.Add(used.GrantLifetime)
	m, err := t.mintingFor(s, r, q.MountPoint, grantEnd.Sub(now))
	if err != nil {
		return nil, err
	}
	// The pair is made before the refresh is stored: if the pair cannot be made, the refresh token stays unused.
	pair, err := m.nextPair(ctx, used, permissions, life)
	if err != nil {
		return nil, refuseGrant(err)
	}
	err = t.Refreshes.Refresh(ctx, s, used.Grant, used.Generation, grantEnd, refreshRetry, now)
	if errors.Is(err, ledger.ErrReused) {
		return nil, t.refreshTokenReused(ctx, s, q, used)
	}
	if err != nil {
		return nil, err
	}
	if d, ok := t.Deviations.Get(used.Grant); ok && d.Revoked { // meanwhile
		return nil, errInvalidGrant
	}
	return pair, nil
}

// checkRefreshScope refuses another scope than the grant has. A narrower scope would hold for one access token only (RFC
// 6749 section 6): exchange makes such a token.
func checkRefreshScope(asked []string, permissions *access.Permissions) error {
	if len(asked) == 0 {
		return nil
	}
	if _, err := access.ParseScopes(asked); err != nil || len(permissions.Scopes.Missing(asked)) > 0 {
		return refusal.OAuth(refusal.InvalidScope, "the scope exceeds what was granted: %s", permissions.Scopes.Parameter())
	}
	if !slices.Equal(slices.Sorted(slices.Values(asked)), slices.Sorted(slices.Values(permissions.Scopes))) {
		return refusal.OAuth(refusal.InvalidScope, "a refresh cannot change the scope: exchange the token for a token with a narrower scope")
	}
	return nil
}

// refreshTokenReused revokes the grant of a refresh token that was used before: one of its holders has stolen the token
// (RFC 9700 section 4.14.2). It returns the refusal.
func (t *Tokens) refreshTokenReused(ctx context.Context, s logical.Storage, q *RefreshRequest, used *token.Claims) error {
	if life := t.Life(used.Grant, used.Grant, used.Subject, used.Role, used.ExpiresAt); life.Revoked || !t.Now().Before(life.ExpiresAt) {
		return errInvalidGrant
	}
	name := ""
	if r := t.Roles.ByID(used.Role); r != nil {
		name = r.Name()
	}
	t.Log().Warn("refresh token reuse detected; grant revoked",
		"role", name, "grant_id", used.Grant.String(), "entity_id", used.Subject, "remote_address", q.RemoteAddr)
	if err := t.RevokeClaims(ctx, s, used); err != nil {
		return err
	}
	t.Reused(used.Grant, name, used.Subject, q.RemoteAddr)
	return errInvalidGrant
}

// nextPair makes the tokens of a refresh. Each retry of a refresh gets a pair with IDs of its own.
func (m *minting) nextPair(ctx context.Context, used *token.Claims, permissions *access.Permissions, life access.State) (*Pair, error) {
	claims, err := newClaims(m.role.AccessTTL, m.Now())
	if err != nil {
		return nil, err
	}
	if claims.ExpiresAt.After(life.ExpiresAt) {
		claims.ExpiresAt = life.ExpiresAt
	}
	inherit(claims, used)
	m.role.Freeze(claims, permissions)
	pair := &Pair{Claims: claims, Permissions: permissions}
	if pair.Access, err = m.access(ctx, claims); err != nil {
		return nil, err
	}
	next := *used
	if next.ID, err = token.NewID(rand.Reader); err != nil {
		return nil, err
	}
	next.Generation++
	pair.Refresh, err = m.opaque(ctx, &next)
	return pair, err
}

// grantOf returns the role, the permissions and the life of the grant of a token that is a credential: a refresh token or
// a token to exchange. The role is nil if the grant is not alive, the role grants nothing of it, or the request comes
// from an address that the role does not allow.
func (t *Tokens) grantOf(ctx context.Context, claims *token.Claims, remoteAddr string) (*role.Role, *access.Permissions, access.State, error) {
	life := t.Life(claims.ID, claims.Grant, claims.Subject, claims.Role, claims.ExpiresAt)
	if claims.Generation > 0 { // a refresh token expires when its grant does
		life = t.Life(claims.Grant, claims.Grant, claims.Subject, claims.Role, claims.ExpiresAt)
	}
	if err := cmp.Or(t.Unreadable(claims.ID, claims.Grant, claims.Subject, claims.Role), t.Refreshes.Unreadable(claims.Grant)); err != nil && !life.Revoked {
		return nil, nil, life, err
	}
	if life.Alive(t.Now()) != access.Good {
		return nil, nil, life, nil
	}
	disabled, err := t.Subjects.Disabled(ctx, claims.Subject)
	if err != nil || disabled {
		return nil, nil, life, err
	}
	r := t.Roles.ByID(claims.Role)
	if r == nil || r.CheckRequester(remoteAddr) != nil {
		return nil, nil, life, nil
	}
	permissions, _ := r.Permissions(claims)
	if permissions.Empty() {
		return nil, nil, life, nil
	}
	return r, permissions, life, nil
}

// refuseGrant turns the error of a token that cannot be made of a grant into a refusal.
func refuseGrant(err error) error {
	if errors.Is(err, errNothingLeft) || errors.Is(err, errNoPlace) {
		return errInvalidGrant
	}
	return refuseTooLong(err)
}
