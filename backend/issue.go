package backend

import (
	"context"
	"crypto/rand"
	"errors"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// issuing is what it takes to make tokens of a role: for creds, for a refresh and for an exchange.
type issuing struct {
	st         *state
	storage    logical.Storage
	config     *config
	role       *role.Role
	mountPoint string
	lifetime   time.Duration // the longest that the grant may live, renewals included
	key        string        // set by the first token: name of the key that it was made with
}

// access makes an access token. For an opaque one the claims must be sealed with the ring's current key.
func (i *issuing) access(ctx context.Context, claims *token.Claims) (text string, err error) {
	if i.role.TokenFormat == role.FormatJWT {
		return i.jwt(ctx, claims)
	}
	err = i.st.keys.Seal(ctx, i.storage, 1, i.lifetime, func(ring *token.Ring) error {
		text, err = token.Mint(ring, i.config.TokenPrefix, claims)
		i.made(ring.Keys)
		return err
	})
	return text, err
}

// made notes the key that the first token was made with.
func (i *issuing) made(keys token.Keys) {
	if current := keys.Current(); i.key == "" && current != nil {
		i.key = current.Name
	}
}

// jwt makes a JWT, which says all that it grants.
func (i *issuing) jwt(ctx context.Context, claims *token.Claims) (text string, err error) {
	payload, err := i.payload(claims)
	if err != nil {
		return "", err
	}
	err = i.st.signers.Sign(ctx, i.storage, i.config.SigningAlgorithm, i.lifetime, func(ring *token.SigningRing) error {
		text, err = token.MintJWT(ring, payload)
		i.made(ring.Keys)
		return err
	})
	return text, err
}

// payload is what a JWT says.
func (i *issuing) payload(claims *token.Claims) (*token.JWT, error) {
	grant, metadata := i.role.Permissions(claims)
	if grant.Empty() || grant.Audience == nil { // a JWT is for somebody
		return nil, errNothingLeft
	}
	if claims.Status.IsZero() && !(i.role.NoLease && claims.ExpiresAt.Sub(claims.IssuedAt) <= role.MaxLeaselessTTL) {
		return nil, errNoPlace
	}
	addresses, hosts, _ := grant.Effective()
	if (addresses.Restricted() || len(hosts) > 0) && !i.role.EnforcesBounds() {
		return nil, errNothingLeft // bound when it was issued, by a role that does not bind any more
	}
	if i.config.Issuer == "" {
		return nil, errNoIssuer
	}
	full := *claims
	full.Scopes, full.Audience, full.Metadata = grant.Scopes, grant.Audience, metadata
	full.Addresses, full.Hosts = addresses.Ranges(), hosts
	return token.NewJWT(&full, i.config.Issuer, i.config.environment(i.mountPoint), i.role.Name(), i.config.statusURI(claims.Status.List))
}

// checkLen returns a token.TooLongError where a JWT with all that the role grants would be too long. What a request
// adds, such as filled in templates of metadata, is not known yet.
func (i *issuing) checkLen(now time.Time) error {
	claims, err := newClaims(0, now)
	if err != nil {
		return err
	}
	claims.Role, claims.RoleVersion, claims.Subject = i.role.ID, i.role.Version, someEntity
	claims.Status = token.StatusRef{List: math.MaxInt32, Index: math.MaxUint16}
	payload, err := i.payload(claims)
	if err != nil {
		return err
	}
	_, err = token.MintJWT(i.st.signers.Ring(), payload)
	return err
}

// someEntity is as long as the id of a Vault entity.
const someEntity = "00000000-0000-0000-0000-000000000000"

// errNothingLeft is returned where a role has been tightened so far that nothing is left of a grant.
var errNothingLeft = errors.New("the role has changed since, and nothing is left of what was granted")

// errNoPlace is returned where a role has become one of JWTs: a JWT of an older grant could be revoked for nobody who
// checks tokens offline, since the grant has no place in a status list.
var errNoPlace = errors.New("the role issues JWTs now, and no status list would tell of the end of this grant")

// errNoIssuer is returned where a role issues JWTs and the config was lost.
var errNoIssuer = refusal.New("the role issues JWTs, and the config has no issuer")

// refuseTooLong refuses a request whose token would be too long, with the field to shorten. Any other error stays as it
// is.
func refuseTooLong(err error) error {
	if e := (*token.TooLongError)(nil); errors.As(err, &e) {
		return refusal.Field(e.Field, "%s", e)
	}
	return err
}

// refreshToken makes a refresh token for the grant of claims. The end that it says is the grant's, without
// renewals.
func (i *issuing) refreshToken(ctx context.Context, claims *token.Claims) (text string, err error) {
	err = i.st.keys.Seal(ctx, i.storage, 1, i.lifetime, func(ring *token.Ring) error {
		text, err = token.Mint(ring, i.config.TokenPrefix, claims)
		i.made(ring.Keys)
		return err
	})
	return text, err
}

// newClaims begins the claims of a token with a new id and the times.
func newClaims(ttl time.Duration, now time.Time) (*token.Claims, error) {
	id, err := token.NewID(rand.Reader)
	if err != nil {
		return nil, err
	}
	issuedAt := now.Truncate(time.Second)
	return &token.Claims{ID: id, Grant: id, IssuedAt: issuedAt, ExpiresAt: issuedAt.Add(ttl)}, nil
}

// inherit takes over from another token of the grant everything but the id and the times.
func inherit(claims, from *token.Claims) {
	id, issuedAt, expiresAt := claims.ID, claims.IssuedAt, claims.ExpiresAt
	*claims = *from
	claims.ID, claims.IssuedAt, claims.ExpiresAt = id, issuedAt, expiresAt
	claims.Generation, claims.GrantLifetime = 0, 0
}

// statusURI is where a status list is published.
func (c *config) statusURI(list uint32) string {
	return c.Issuer + "/oauth/status/" + strconv.FormatUint(uint64(list), 10)
}

// members are the members of an introspection answer (RFC 7662 section 2.2) that a token's claims and
// grant make up.
func (v *verdict) members(c *config) map[string]any {
	data := map[string]any{
		"jti":        v.claims.Name(),
		"token_type": tokenTypeOf(v.claims),
		"exp":        v.life.ExpiresAt.Unix(),
		"iat":        v.claims.IssuedAt.Unix(),
	}
	if c.Issuer != "" {
		data["iss"] = c.Issuer
	}
	if v.claims.Subject != "" {
		data["sub"] = v.claims.Subject
	}
	if v.role != nil {
		data["client_id"] = v.role.Name()
	}
	if v.grant != nil {
		data["scope"] = v.grant.Scopes.Parameter()
		if v.grant.Audience != nil {
			data["aud"] = v.grant.Audience
		}
	}
	if cnf := v.claims.Confirmation; cnf.JKT != "" {
		data["cnf"] = map[string]any{"jkt": cnf.JKT}
	} else if cnf.X5T != "" {
		data["cnf"] = map[string]any{"x5t#S256": cnf.X5T}
	}
	return data
}

// tokenTypeOf is the OAuth token type: how a token is presented (RFC 6750, RFC 9449 section 5).
func tokenTypeOf(claims *token.Claims) string {
	if claims.Confirmation.JKT != "" {
		return "DPoP"
	}
	return "Bearer"
}

// addLimits adds to an answer where a token may be used, as far as that is limited.
func addLimits(data map[string]any, g *access.Permissions) {
	addresses, hosts, _ := g.Effective()
	if addresses.Restricted() {
		data["token_bound_cidrs"] = addresses.Strings()
	}
	if len(hosts) > 0 {
		data["bound_hosts"] = slices.Clone([]string(hosts))
	}
}
