package backend

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	grantTypeRefresh  = "refresh_token"
	grantTypeExchange = "urn:ietf:params:oauth:grant-type:token-exchange"

	// Token type identifiers of RFC 8693 section 3.
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"

	// refreshRetry is how long the refresh token before the current one gets another pair of the same
	// generation: its client may not have got the answer. A client that refreshes on many connections at once
	// also needs it.
	refreshRetry = 10 * time.Second
)

func (b *backend) pathsOAuthToken() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "oauth/token",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "request", OperationSuffix: "oauth-token"},
		Fields: map[string]*framework.FieldSchema{
			"grant_type":           {Type: framework.TypeString, Required: true, Description: "refresh_token, or urn:ietf:params:oauth:grant-type:token-exchange."},
			"refresh_token":        {Type: framework.TypeString, Description: "The refresh token; it is used up.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
			"subject_token":        {Type: framework.TypeString, Description: "The token to exchange, of a role with exchange=true.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
			"subject_token_type":   {Type: framework.TypeString, Description: "urn:ietf:params:oauth:token-type:access_token; or ...:jwt for a JWT."},
			"requested_token_type": {Type: framework.TypeString, Description: "As subject_token_type. Default: the kind that the role issues."},
			"actor_token":          {Type: framework.TypeString, Description: "Not supported.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
			"scope":                {Type: framework.TypeString, Description: "Scopes of the new token, separated by spaces, within those of the old one. Default: the same."},
			"audience":             {Type: framework.TypeString, Description: "API that the new token is for, within the audience of the old one. Default: the same."},
			"resource":             {Type: framework.TypeString, Description: "As audience (RFC 8707)."},
			"ttl":                  {Type: framework.TypeString, Description: "How long the new token lives, at most as long as the old one; an extension of this engine."},
			"token_bound_cidrs":    {Type: framework.TypeString, Description: "Where the new token may be used from, separated by spaces, within where the old one may; an extension of this engine."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback:                    b.oauthToken,
				Summary:                     "Refresh or exchange a token.",
				ForwardPerformanceStandby:   true,
				ForwardPerformanceSecondary: true,
				Responses:                   rawResponses(http.StatusOK, mediaJSON, "Access token response of RFC 6749 section 5.1"),
			},
		},
		HelpSynopsis: "The OAuth 2.0 token endpoint: refresh and exchange tokens.",
		HelpDescription: "Takes form-encoded parameters and needs no Vault token: the refresh token, or the token to exchange, is the credential. " +
			"Refreshing (RFC 6749 section 6) uses up the refresh token and returns a new pair; using a refresh token again, more than 10 seconds later, revokes the whole grant. " +
			"Exchanging (RFC 8693) returns a token that grants less.",
	}}
}

func (b *backend) oauthToken(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	grantType := d.Get("grant_type").(string)
	if grantType == grantTypeRefresh || grantType == grantTypeExchange {
		if err := b.proveWritable(ctx, req.Storage); err != nil {
			return nil, err
		}
	}
	switch grantType {
	case grantTypeRefresh:
		return b.refresh(ctx, st, req, d)
	case grantTypeExchange:
		return b.exchange(ctx, st, req, d)
	case "":
		return nil, oauthError(invalidRequest, "grant_type is missing")
	}
	return nil, oauthError(unsupportedGrantType, "grant_type must be %s or %s", grantTypeRefresh, grantTypeExchange)
}

// grantOf judges the grant of a token that is a credential here: whether the grant is alive, its role is
// there and allows something of it still, and the request comes from where it may.
func (b *backend) grantOf(ctx context.Context, st *state, req *logical.Request, claims *token.Claims, now time.Time) (*role.Role, *access.Permissions, access.State, error) {
	life := st.life(claims.ID, claims.Grant, claims.Role, claims.ExpiresAt)
	if claims.Generation > 0 { // a refresh token ends when its grant does
		life = st.life(claims.Grant, claims.Grant, claims.Role, claims.ExpiresAt)
	}
	if err := cmp.Or(st.readable(claims.ID, claims.Grant, claims.Role), st.refreshes.Unreadable(claims.Grant)); err != nil && !life.Revoked {
		return nil, nil, life, err
	}
	if life.Alive(now) != access.Good {
		return nil, nil, life, nil
	}
	disabled, err := b.subjects.disabled(ctx, claims.Subject)
	if err != nil || disabled {
		return nil, nil, life, err
	}
	r := st.roles.ByID(claims.Role)
	if r == nil || r.CheckRequester(remoteAddr(req)) != nil {
		return nil, nil, life, nil
	}
	grant, _ := r.Permissions(claims)
	if grant.Empty() {
		return nil, nil, life, nil
	}
	return r, grant, life, nil
}

// answer is the access token response of RFC 6749 section 5.1 and RFC 8693 section 2.2.1.
type answer struct {
	AccessToken     string `json:"access_token"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int64  `json:"expires_in"`
	RefreshToken    string `json:"refresh_token,omitempty"`
	Scope           string `json:"scope"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
}

func (b *backend) refresh(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	text := d.Get("refresh_token").(string)
	if text == "" {
		return nil, oauthError(invalidRequest, "refresh_token is missing")
	}
	used, err := native.Open(ctx, req.Storage, st.keys, text, token.Open)
	if errors.Is(err, token.ErrBrokenKey) {
		return nil, err
	}
	if err != nil || used.Generation == 0 {
		return nil, oauthError(invalidGrant, "")
	}
	now := b.now()
	// Whatever else there is to refuse: somebody has a refresh token who should not.
	if st.refreshes.Reused(used.Grant, used.Generation, refreshRetry, now) {
		return b.refreshReused(ctx, st, req, used, now)
	}
	r, grant, life, err := b.grantOf(ctx, st, req, used, now)
	if err != nil {
		return nil, err
	}
	if r == nil || r.AccessTTL == 0 {
		return nil, oauthError(invalidGrant, "")
	}
	// A narrower scope would be for this one access token only (RFC 6749 section 6), which is what exchange
	// is for.
	if asked := strings.Fields(d.Get("scope").(string)); len(asked) > 0 {
		if _, err := access.ParseScopes(asked); err != nil || len(grant.Scopes.Missing(asked)) > 0 {
			return nil, oauthError(invalidScope, "the scope exceeds what was granted: %s", grant.Scopes.Parameter())
		}
		if slices.Sort(asked); !slices.Equal(asked, slices.Sorted(slices.Values(grant.Scopes))) {
			return nil, oauthError(invalidScope, "a refresh gets the same scope again; exchange the token for one with less")
		}
	}

	c, err := st.config.get()
	if err != nil {
		return nil, err
	}
	i := &issuing{
		st: st, storage: req.Storage, config: c, role: r, mountPoint: req.MountPoint,
		lifetime: used.IssuedAt.Add(used.GrantLifetime).Sub(now),
	}
	// The pair is made first and handed out last: what cannot be made does not use up the refresh token.
	pair, err := i.nextPair(ctx, used, grant, life, now)
	if err != nil {
		return nil, refuseGrant(err)
	}
	err = st.refreshes.Refresh(ctx, req.Storage, used.Grant, used.Generation, used.IssuedAt.Add(used.GrantLifetime), refreshRetry, now)
	if errors.Is(err, ledger.ErrReused) {
		return b.refreshReused(ctx, st, req, used, now)
	}
	if err != nil {
		return nil, err
	}
	// The grant may have been revoked meanwhile.
	if d, ok := st.deviations.Get(used.Grant); ok && d.Revoked {
		return nil, oauthError(invalidGrant, "")
	}
	return noStore(http.StatusOK, answer{
		AccessToken: pair.access, TokenType: tokenTypeOf(used), RefreshToken: pair.refresh,
		ExpiresIn: secondsUntil(pair.claims.ExpiresAt, now), Scope: grant.Scopes.Parameter(),
	})
}

// refreshReused revokes the grant of a refresh token that was used before: one of its holders has stolen it (RFC 9700
// section 4.14.2).
func (b *backend) refreshReused(ctx context.Context, st *state, req *logical.Request, used *token.Claims, now time.Time) (*logical.Response, error) {
	if life := st.life(used.Grant, used.Grant, used.Role, used.ExpiresAt); life.Revoked || !now.Before(life.ExpiresAt) {
		return nil, oauthError(invalidGrant, "")
	}
	name := ""
	if r := st.roles.ByID(used.Role); r != nil {
		name = r.Name()
	}
	b.Logger().Warn("refresh token reuse detected; grant revoked",
		"role", name, "grant_id", used.Grant.String(), "entity_id", used.Subject, "remote_address", remoteAddr(req))
	if err := b.revokeToken(ctx, req.Storage, st, used); err != nil {
		return nil, err
	}
	return nil, oauthError(invalidGrant, "")
}

// refreshed is the pair of tokens that a refresh returns.
type refreshed struct {
	access, refresh string
	claims          *token.Claims // of the access token
}

// nextPair makes the tokens of a refresh. Each retry of a refresh gets a pair with ids of its own.
func (i *issuing) nextPair(ctx context.Context, used *token.Claims, grant *access.Permissions, life access.State, now time.Time) (*refreshed, error) {
	claims, err := newClaims(i.role.AccessTTL, now)
	if err != nil {
		return nil, err
	}
	if claims.ExpiresAt.After(life.ExpiresAt) {
		claims.ExpiresAt = life.ExpiresAt
	}
	inherit(claims, used)
	i.role.Freeze(claims, grant)
	pair := &refreshed{claims: claims}
	if pair.access, err = i.access(ctx, claims); err != nil {
		return nil, err
	}
	next := *used
	if next.ID, err = token.NewID(rand.Reader); err != nil {
		return nil, err
	}
	next.Generation++
	pair.refresh, err = i.refreshToken(ctx, &next)
	return pair, err
}

// refuseGrant is the error where a token could not be made of a grant.
func refuseGrant(err error) error {
	if errors.Is(err, errNothingLeft) || errors.Is(err, errNoPlace) {
		return oauthError(invalidGrant, "")
	}
	if e := (*token.TooLongError)(nil); errors.As(err, &e) {
		return oauthError(invalidRequest, "%s: %s", e.Field, e)
	}
	return err
}

// secondsUntil is the expires_in of an answer.
func secondsUntil(end, now time.Time) int64 { return max(0, int64(end.Sub(now).Seconds())) }

// remoteAddr is where a request comes from; empty where that is not known.
func remoteAddr(req *logical.Request) string {
	if req.Connection == nil {
		return ""
	}
	return req.Connection.RemoteAddr
}
