package native

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Token type identifiers of RFC 8693 section 3.
const (
	TypeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	TypeJWT         = "urn:ietf:params:oauth:token-type:jwt"
)

// ExchangeRequest asks for a token that grants less than another token of the same grant (RFC 8693).
type ExchangeRequest struct {
	SubjectToken    string
	RequestedType   string        // TypeAccessToken or TypeJWT; empty: TypeAccessToken
	Scope           []string      // empty: the same scopes
	Audience        []string      // empty: the same audience
	TokenBoundCIDRs []string      // empty: the same addresses
	BoundRegions    []string      // empty: the same regions
	TTL             time.Duration // 0: what is left of the subject token
	MountPoint      string
	RemoteAddr      string // where the request comes from; empty if that is not known
}

// ExchangeForm is the form of an exchange as the client sent the form; empty for a parameter that the client did not send.
type ExchangeForm struct {
	SubjectToken, SubjectTokenType, RequestedTokenType, ActorToken string
	Scope, Audience, Resource, TTL, TokenBoundCIDRs, BoundRegions  string
}

// Parse returns the request, or a refusal. Its MountPoint and RemoteAddr are empty.
func (f *ExchangeForm) Parse() (*ExchangeRequest, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	q := &ExchangeRequest{
		SubjectToken: f.SubjectToken, RequestedType: f.RequestedTokenType, Scope: strings.Fields(f.Scope),
		TokenBoundCIDRs: strings.Fields(f.TokenBoundCIDRs), BoundRegions: strings.Fields(f.BoundRegions),
	}
	if f.TTL != "" {
		var err error
		if q.TTL, err = parseutil.ParseDurationSecond(f.TTL); err != nil || q.TTL < time.Second {
			return nil, refusal.OAuth(refusal.InvalidRequest, "ttl must be a duration of at least 1s, such as 5m")
		}
	}
	// A request may repeat both parameters (RFC 8693 section 2.1). Vault joins the values with commas.
	for v := range strings.SplitSeq(f.Audience+","+f.Resource, ",") {
		if v != "" && !slices.Contains(q.Audience, v) {
			q.Audience = append(q.Audience, v)
		}
	}
	return q, nil
}

// check rejects a form without a valid subject_token and subject_token_type.
func (f *ExchangeForm) check() error {
	switch {
	case f.SubjectToken == "":
		return refusal.OAuth(refusal.InvalidRequest, "subject_token is missing")
	case f.SubjectTokenType == "":
		return refusal.OAuth(refusal.InvalidRequest, "subject_token_type is missing")
	case f.SubjectTokenType != TypeAccessToken && f.SubjectTokenType != TypeJWT:
		return refusal.OAuth(refusal.InvalidRequest, "subject_token_type must be %s or %s", TypeAccessToken, TypeJWT)
	case f.SubjectTokenType == TypeJWT && !token.IsJWT(f.SubjectToken):
		return refusal.OAuth(refusal.InvalidRequest, "subject_token is no JWT")
	case f.ActorToken != "":
		return refusal.OAuth(refusal.InvalidRequest, "actor_token is not supported")
	}
	return nil
}

// Exchange returns a new token of the grant of a token.
func (t *Tokens) Exchange(ctx context.Context, s logical.Storage, q *ExchangeRequest) (*Pair, error) {
	subject, err := t.Open(ctx, s, q.SubjectToken)
	if errors.Is(err, token.ErrBrokenKey) {
		return nil, err
	}
	if err != nil || subject.Generation > 0 {
		return nil, errInvalidGrant
	}
	now := t.Now()
	r, permissions, life, err := t.grantOf(ctx, subject, q.RemoteAddr)
	if err != nil {
		return nil, err
	}
	if r == nil || !r.Exchange || !t.usableFrom(q.RemoteAddr, permissions, life) {
		return nil, errInvalidGrant
	}
	claims, err := newClaims(0, now)
	if err != nil {
		return nil, err
	}
	inherit(claims, subject)
	r.Freeze(claims, permissions)
	ttl, err := q.narrow(claims, r, permissions, life)
	if err != nil {
		return nil, err
	}
	claims.ExpiresAt = claims.IssuedAt.Add(ttl)
	issued := TypeAccessToken
	if q.RequestedType == TypeJWT && r.TokenFormat == role.FormatJWT {
		issued = TypeJWT
	} else if q.RequestedType != "" && q.RequestedType != TypeAccessToken {
		return nil, refusal.OAuth(refusal.InvalidRequest, "requested_token_type must be %s, or %s where the role issues JWTs", TypeAccessToken, TypeJWT)
	}
	left, _ := r.Permissions(claims)
	if left.Empty() {
		return nil, errInvalidGrant
	}
	m, err := t.mintingFor(s, r, q.MountPoint, ttl)
	if err != nil {
		return nil, err
	}
	text, err := m.access(ctx, claims)
	if err != nil {
		return nil, refuseGrant(err)
	}
	return &Pair{Access: text, Claims: claims, Permissions: left, IssuedType: issued}, nil
}

// usableFrom reports whether a token may be used from an address, whatever the host: an exchange is a use of the token.
// Without a database the region of the address is not checked, and the new token is bound to the same regions.
func (t *Tokens) usableFrom(remoteAddr string, permissions *access.Permissions, life access.State) bool {
	use := &access.Use{}
	use.ClientIP, _ = access.ParseClientIP(remoteAddr)
	anyHost := *permissions
	anyHost.Hosts = nil
	if t.Config.OrDefaults().GeoIPDatabase == "" {
		anyHost.Regions = nil
	}
	return access.Decide(t.Now(), life, &anyHost, t.located(use, &anyHost)) == access.Good
}

// narrow narrows claims to what the exchange asks for, if the exchanged token grants that, and returns the TTL of the new
// token.
func (q *ExchangeRequest) narrow(claims *token.Claims, r *role.Role, permissions *access.Permissions, life access.State) (time.Duration, error) {
	if len(q.Scope) > 0 {
		scopes, err := access.ParseScopes(q.Scope)
		if err != nil {
			return 0, refusal.OAuth(refusal.InvalidScope, "%s", err)
		}
		if missing := permissions.Scopes.Missing(scopes); len(missing) > 0 {
			return 0, refusal.OAuth(refusal.InvalidScope, "%s exceeds the token, which grants %s", strings.Join(missing, " "), permissions.Scopes.Parameter())
		}
		claims.Scopes = scopes
	}
	if len(q.Audience) > 0 {
		audience, err := access.ParseAudience(q.Audience)
		if err != nil {
			return 0, refusal.OAuth(refusal.InvalidTarget, "%s", err)
		}
		if allowed := access.IntersectAudiences(audience, permissions.Audience); len(allowed) != len(audience) {
			return 0, refusal.OAuth(refusal.InvalidTarget, "the token is for %s", strings.Join(permissions.Audience, " "))
		}
		claims.Audience = audience
	}
	if len(q.TokenBoundCIDRs) > 0 {
		if err := q.narrowAddresses(claims, r, permissions); err != nil {
			return 0, err
		}
	}
	if len(q.BoundRegions) > 0 {
		if err := q.narrowRegions(claims, r, permissions); err != nil {
			return 0, err
		}
	}
	left := life.ExpiresAt.Sub(claims.IssuedAt)
	if q.TTL > left {
		return 0, refusal.OAuth(refusal.InvalidRequest, "ttl exceeds what is left of the token: %s", refusal.Short(left.Truncate(time.Second)))
	}
	if q.TTL > 0 {
		return q.TTL, nil
	}
	return left, nil
}

func (q *ExchangeRequest) narrowAddresses(claims *token.Claims, r *role.Role, permissions *access.Permissions) error {
	addresses, err := access.ParseAddresses(q.TokenBoundCIDRs)
	if err != nil {
		return refusal.OAuth(refusal.InvalidRequest, "token_bound_cidrs: %s", err)
	}
	for _, allowed := range permissions.Addresses {
		if len(allowed.Exceeding(addresses)) > 0 {
			return refusal.OAuth(refusal.InvalidRequest, "token_bound_cidrs exceeds the token, which may be used from %s", strings.Join(allowed.Strings(), " "))
		}
	}
	if addresses.Restricted() && !r.EnforcesBounds() {
		return refusal.OAuth(refusal.InvalidRequest, "token_bound_cidrs: %s", role.Unenforced)
	}
	claims.Addresses = addresses.Ranges()
	return nil
}

func (q *ExchangeRequest) narrowRegions(claims *token.Claims, r *role.Role, permissions *access.Permissions) error {
	regions, err := access.ParseRegions(q.BoundRegions)
	if err != nil {
		return refusal.OAuth(refusal.InvalidRequest, "bound_regions: %s", err)
	}
	for _, allowed := range permissions.Regions {
		if len(allowed.Exceeding(regions)) > 0 {
			return refusal.OAuth(refusal.InvalidRequest, "bound_regions exceeds the token, which may be used from %s", strings.Join(allowed, " "))
		}
	}
	if !r.EnforcesBounds() {
		return refusal.OAuth(refusal.InvalidRequest, "bound_regions: %s", role.Unenforced)
	}
	claims.Regions = regions
	return nil
}
