package native

import (
	"context"
	"crypto/rand"
	"errors"
	"math"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// minting makes tokens of a role: for creds, a static role, a refresh or an exchange.
type minting struct {
	*Tokens
	storage    logical.Storage
	config     *Config
	role       *role.Role
	mountPoint string
	lifetime   time.Duration // how long the grant may live, renewals included
	key        string        // name of the key that made the first token; empty before
}

// mintingFor returns what makes tokens of a role by the current settings of the mount.
func (t *Tokens) mintingFor(s logical.Storage, r *role.Role, mountPoint string, lifetime time.Duration) (*minting, error) {
	c, err := t.Config.Get()
	if err != nil {
		return nil, err
	}
	return &minting{Tokens: t, storage: s, config: c, role: r, mountPoint: mountPoint, lifetime: lifetime}, nil
}

// access makes an access token. For an opaque token the claims are sealed with the ring's current key.
func (m *minting) access(ctx context.Context, claims *token.Claims) (string, error) {
	if m.role.TokenFormat == role.FormatJWT {
		return m.jwt(ctx, claims)
	}
	return m.opaque(ctx, claims)
}

// opaque makes an opaque token; a refresh token is always opaque.
func (m *minting) opaque(ctx context.Context, claims *token.Claims) (text string, err error) {
	err = m.Sealing.Seal(ctx, m.storage, 1, m.lifetime, func(ring *token.Ring) error {
		text, err = token.Mint(ring, m.config.TokenPrefix, claims)
		m.made(ring.Keys)
		return err
	})
	return text, err
}

// made notes the key that made the first token.
func (m *minting) made(keys token.Keys) {
	if current := keys.Current(); m.key == "" && current != nil {
		m.key = current.Name
	}
}

// jwt makes a JWT.
func (m *minting) jwt(ctx context.Context, claims *token.Claims) (text string, err error) {
	payload, err := m.payload(claims)
	if err != nil {
		return "", err
	}
	err = m.Signing.Sign(ctx, m.storage, m.config.SigningAlgorithm, m.lifetime, func(ring *token.SigningRing) error {
		text, err = token.MintJWT(ring, payload)
		m.made(ring.Keys)
		return err
	})
	return text, err
}

// payload returns the payload of a JWT (RFC 9068 section 2.2).
func (m *minting) payload(claims *token.Claims) (*token.JWT, error) {
	permissions, metadata := m.role.Permissions(claims)
	if permissions.Empty() || permissions.Audience == nil { // a JWT needs an audience
		return nil, errNothingLeft
	}
	if claims.Status.IsZero() && !(m.role.NoLease && claims.ExpiresAt.Sub(claims.IssuedAt) <= role.MaxLeaselessTTL) {
		return nil, errNoPlace
	}
	bounds, _ := permissions.Effective()
	if bounds.Restricted() && !m.role.EnforcesBounds() {
		return nil, errNothingLeft // the token is bound, and the role no longer enforces bounds
	}
	if m.config.Issuer == "" {
		return nil, errNoIssuer
	}
	full := *claims
	full.Scopes, full.Audience, full.Metadata = permissions.Scopes, permissions.Audience, metadata
	full.Addresses, full.Regions, full.Hosts = bounds.Addresses.Ranges(), bounds.Regions, bounds.Hosts
	payload, err := token.NewJWT(&full, m.config.Issuer, m.config.EnvironmentOf(m.mountPoint), m.role.Name(), m.config.StatusURI(claims.Status.List))
	if err != nil {
		return nil, err
	}
	payload.Engine.RateLimit = m.role.RateLimit
	return payload, nil
}

// Prepare publishes the key of a role's JWTs, since verifiers should find the key before the first token. It refuses a
// role whose JWTs would be too long. What a request adds, such as filled in templates of metadata, is not known yet.
func (t *Tokens) Prepare(ctx context.Context, s logical.Storage, c *Config, r *role.Role, mountPoint string) error {
	if err := t.Signing.Prepare(ctx, s, c.SigningAlgorithm, 0); err != nil {
		return err
	}
	claims, err := newClaims(0, t.Now())
	if err != nil {
		return err
	}
	claims.Role, claims.RoleVersion, claims.Subject = r.ID, r.Version, someEntity
	claims.Status = token.StatusRef{List: math.MaxInt32, Index: math.MaxUint16}
	m := &minting{Tokens: t, storage: s, config: c, role: r, mountPoint: mountPoint}
	payload, err := m.payload(claims)
	if err != nil {
		return err
	}
	_, err = token.MintJWT(t.Signing.Ring(), payload)
	return refuseTooLong(err)
}

// someEntity is as long as the ID of a Vault entity.
const someEntity = "00000000-0000-0000-0000-000000000000"

// errNothingLeft is returned if a role was tightened so far that nothing is left of a grant.
var errNothingLeft = refusal.New("the role has changed since, and nothing is left of what was granted")

// errNoPlace is returned if a role became a role of JWTs. A JWT of an older grant could not be revoked for API servers
// that check tokens offline, since the grant has no place in a status list.
var errNoPlace = errors.New("the role issues JWTs now, and the grant has no place in a status list")

// errNoIssuer is returned if a role issues JWTs and the config was lost. It is not a refusal: Config.MayIssue refuses
// requests for new grants, and the client of an older grant has done nothing wrong.
var errNoIssuer = errors.New("the role issues JWTs, and the config has no issuer")

// refuseTooLong refuses a request whose token would be too long, with the field to shorten. Any other error stays as it
// is.
func refuseTooLong(err error) error {
	if e := (*token.TooLongError)(nil); errors.As(err, &e) {
		return refusal.Field(e.Field, "%s", e)
	}
	return err
}

// newClaims begins the claims of a token with a new ID and the times.
func newClaims(ttl time.Duration, now time.Time) (*token.Claims, error) {
	id, err := token.NewID(rand.Reader)
	if err != nil {
		return nil, err
	}
	issuedAt := now.Truncate(time.Second)
	return &token.Claims{ID: id, Grant: id, IssuedAt: issuedAt, ExpiresAt: issuedAt.Add(ttl)}, nil
}

// inherit takes over from another token of the grant everything but the ID and the times.
func inherit(claims, from *token.Claims) {
	id, issuedAt, expiresAt := claims.ID, claims.IssuedAt, claims.ExpiresAt
	*claims = *from
	claims.ID, claims.IssuedAt, claims.ExpiresAt = id, issuedAt, expiresAt
	claims.Generation, claims.GrantLifetime = 0, 0
}

// PresentedAs returns the OAuth token type of a token: how the token is presented (RFC 6750, RFC 9449 section 5).
func PresentedAs(claims *token.Claims) string {
	if claims.Confirmation.JKT != "" {
		return "DPoP"
	}
	return "Bearer"
}
