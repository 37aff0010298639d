package backend

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	grantTypeRefresh  = "refresh_token"
	grantTypeExchange = "urn:ietf:params:oauth:grant-type:token-exchange"

	// Token type identifiers of RFC 8693 section 3.
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"

	// refreshRetry is how long the refresh token before the current one gets the same answer again: its
	// client may not have got it. A client that refreshes with many connections at once also needs it.
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
			"Refreshing (RFC 6749 section 6) uses up the refresh token and gives a new pair; using one again ends the whole grant. " +
			"Exchanging (RFC 8693) gives a token that grants less.",
	}}
}

func (b *backend) oauthToken(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	switch grantType := d.Get("grant_type").(string); grantType {
	case grantTypeRefresh:
		return b.refresh(ctx, st, req, d)
	case grantTypeExchange:
		return b.exchange(ctx, st, req, d)
	case "":
		return oauthError(invalidRequest, "grant_type is missing")
	}
	return oauthError(unsupportedGrantType, "grant_type must be %s or %s", grantTypeRefresh, grantTypeExchange)
}

// grantOf judges the grant of a token that is a credential here: whether the grant is alive, its role is
// there, and the request comes from where it may.
func (b *backend) grantOf(ctx context.Context, st *state, req *logical.Request, claims *token.Claims, now time.Time) (*role, *access.Grant, access.State, error) {
	life := st.life(claims.ID, claims.Grant, claims.Role, claims.ExpiresAt)
	if claims.Generation > 0 { // a refresh token ends when its grant does
		life = st.life(claims.Grant, claims.Grant, claims.Role, claims.ExpiresAt)
	}
	if life.Alive(now) != access.Good {
		return nil, nil, life, nil
	}
	disabled, err := b.subjects.disabled(ctx, claims.Subject)
	if err != nil || disabled {
		return nil, nil, life, err
	}
	r := st.roles.byID(claims.Role)
	if r == nil || r.checkRequester(req.Connection) != nil {
		return nil, nil, life, nil
	}
	grant, _ := r.grant(claims)
	if grant == nil {
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
		return oauthError(invalidRequest, "refresh_token is missing")
	}
	used, err := token.Open(st.keys.ring.Load(), text)
	if err != nil || used.Generation == 0 {
		return oauthError(invalidGrant, "")
	}
	now := b.now()
	r, grant, life, err := b.grantOf(ctx, st, req, used, now)
	if err != nil {
		return nil, err
	}
	if r == nil || r.AccessTTL == 0 {
		return oauthError(invalidGrant, "")
	}
	// A narrower scope would be for this one access token only (RFC 6749 section 6), which is what exchange
	// is for.
	if asked := strings.Fields(d.Get("scope").(string)); len(asked) > 0 {
		if _, err := access.ParseScopes(asked); err != nil || len(grant.Scopes.Missing(asked)) > 0 {
			return oauthError(invalidScope, "the scope exceeds what was granted: %s", grant.Scopes.Parameter())
		}
		if slices.Sort(asked); !slices.Equal(asked, slices.Sorted(slices.Values(grant.Scopes))) {
			return oauthError(invalidScope, "a refresh gets the same scope again; exchange the token for one with less")
		}
	}

	lifetime := st.longestLifetime()
	var pair *refreshed
	err = st.keys.seal(ctx, req.Storage, 2, 0, func(ring *token.Ring) error {
		last, err := st.grants.Refresh(ctx, req.Storage, used.Grant, used.Generation, refreshRetry, now, func() (ledger.Refresh, error) {
			next := ledger.Refresh{
				Key: ring.Current().Number, KeepUntil: now.Add(lifetime).Unix(),
				AccessEnd: min(now.Truncate(time.Second).Add(r.AccessTTL).Unix(), life.ExpiresAt.Unix()),
			}
			if next.AccessID, err = token.NewID(rand.Reader); err != nil {
				return next, err
			}
			next.RefreshID, err = token.NewID(rand.Reader)
			return next, err
		})
		if err != nil {
			return err
		}
		pair, err = makePair(ring, st.config.get().TokenPrefix, r, used, &last)
		return err
	})
	if errors.Is(err, ledger.ErrReused) {
		b.Logger().Warn("a refresh token was used again: its grant is ended, one of its holders is not who should be",
			"role", r.name, "grant_id", used.Grant.String(), "entity_id", used.Subject, "remote_address", remoteAddr(req))
		if err := st.revokeGrant(ctx, req.Storage, used.Grant, used.Status); err != nil {
			return nil, err
		}
		return oauthError(invalidGrant, "")
	}
	if err != nil {
		return nil, err
	}
	// The grant may have been ended while this was going on.
	if d, ok := st.deviations.Get(used.Grant); ok && d.Revoked {
		return oauthError(invalidGrant, "")
	}
	if r.TokenType == tokenTypeJWT {
		i := &issuing{st: st, storage: req.Storage, config: st.config.get(), role: r, mountPoint: req.MountPoint, lifetime: r.AccessTTL}
		pair.access, err = i.jwt(ctx, pair.claims)
		if errors.Is(err, errNothingLeft) {
			return oauthError(invalidGrant, "")
		}
		if err != nil {
			return nil, err
		}
	}
	return noStore(http.StatusOK, answer{
		AccessToken: pair.access, TokenType: tokenTypeOf(used), RefreshToken: pair.refresh,
		ExpiresIn: max(0, int64(pair.claims.ExpiresAt.Sub(now).Seconds())), Scope: grant.Scopes.Parameter(),
	})
}

// refreshed is the pair of tokens that a refresh gives.
type refreshed struct {
	access, refresh string
	claims          *token.Claims // of the access token
}

// makePair makes the tokens of a refresh. Made again of the same refresh token and the same refresh they
// are the same; only the access token of a role of JWTs, which is made elsewhere, is signed anew.
func makePair(ring *token.Ring, prefix string, r *role, used *token.Claims, last *ledger.Refresh) (*refreshed, error) {
	issuedAt := time.UnixMilli(last.At).Truncate(time.Second)
	claims := &token.Claims{ID: last.AccessID, IssuedAt: issuedAt, ExpiresAt: time.Unix(last.AccessEnd, 0)}
	inherit(claims, used)
	pair := &refreshed{claims: claims}
	var err error
	if r.TokenType == tokenTypeOpaque {
		if pair.access, err = token.MintAgain(ring, last.Key, prefix, claims); err != nil {
			return nil, err
		}
	}
	// The end that a refresh token tells is that of the grant, which refreshing does not move.
	next := *used
	next.ID, next.Generation = last.RefreshID, last.Generation
	pair.refresh, err = token.MintAgain(ring, last.Key, prefix, &next)
	return pair, err
}

func (b *backend) exchange(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	text := d.Get("subject_token").(string)
	subjectType := d.Get("subject_token_type").(string)
	switch {
	case text == "":
		return oauthError(invalidRequest, "subject_token is missing")
	case subjectType == "":
		return oauthError(invalidRequest, "subject_token_type is missing")
	case subjectType != typeAccessToken && subjectType != typeJWT:
		return oauthError(invalidRequest, "subject_token_type must be %s or %s", typeAccessToken, typeJWT)
	case subjectType == typeJWT && !token.IsJWT(text):
		return oauthError(invalidRequest, "subject_token is no JWT")
	case d.Get("actor_token").(string) != "":
		return oauthError(invalidRequest, "actor_token is not supported")
	}
	subject, err := st.open(text)
	if err != nil || subject.Generation > 0 {
		return oauthError(invalidGrant, "")
	}
	now := b.now()
	r, grant, life, err := b.grantOf(ctx, st, req, subject, now)
	if err != nil {
		return nil, err
	}
	if r == nil || !r.Exchange {
		return oauthError(invalidGrant, "")
	}
	// Exchanging is a use of the token: it must come from where the token may be used.
	use := &access.Use{}
	use.ClientIP, _ = access.ParseClientIP(remoteAddr(req))
	anyHost := *grant
	anyHost.Hosts = nil
	if access.Decide(now, life, &anyHost, use) != access.Good {
		return oauthError(invalidGrant, "")
	}

	claims, err := newClaims(0, now)
	if err != nil {
		return nil, err
	}
	inherit(claims, subject)
	if refusal, err := narrowExchange(claims, r, grant, d); refusal != nil || err != nil {
		return refusal, err
	}
	ttl := life.ExpiresAt.Sub(claims.IssuedAt)
	if s := d.Get("ttl").(string); s != "" {
		asked, err := parseutil.ParseDurationSecond(s)
		if err != nil || asked < time.Second {
			return oauthError(invalidRequest, "ttl must be a duration of at least 1s, such as 5m")
		}
		if asked > ttl {
			return oauthError(invalidRequest, "ttl exceeds what is left of the token: %s", short(ttl.Truncate(time.Second)))
		}
		ttl = asked
	}
	claims.ExpiresAt = claims.IssuedAt.Add(ttl)
	issuedType := typeAccessToken
	if requested := d.Get("requested_token_type").(string); requested == typeJWT && r.TokenType == tokenTypeJWT {
		issuedType = typeJWT
	} else if requested != "" && requested != typeAccessToken {
		return oauthError(invalidRequest, "requested_token_type must be %s, or %s where the role issues JWTs", typeAccessToken, typeJWT)
	}

	i := &issuing{st: st, storage: req.Storage, config: st.config.get(), role: r, mountPoint: req.MountPoint, lifetime: ttl}
	exchanged, err := i.access(ctx, claims)
	if errors.Is(err, errNothingLeft) {
		return oauthError(invalidGrant, "")
	}
	if err != nil {
		return nil, err
	}
	left, _ := r.grant(claims)
	return noStore(http.StatusOK, answer{
		AccessToken: exchanged, TokenType: tokenTypeOf(claims), ExpiresIn: int64(claims.ExpiresAt.Sub(now).Seconds()),
		Scope: left.Scopes.Parameter(), IssuedTokenType: issuedType,
	})
}

// narrowExchange takes over what an exchange asks for, when the token that it exchanges grants it.
func narrowExchange(claims *token.Claims, r *role, grant *access.Grant, d *framework.FieldData) (*logical.Response, error) {
	if asked := strings.Fields(d.Get("scope").(string)); len(asked) > 0 {
		scopes, err := access.ParseScopes(asked)
		if err != nil {
			return oauthError(invalidScope, "%s", err)
		}
		if missing := grant.Scopes.Missing(scopes); len(missing) > 0 {
			return oauthError(invalidScope, "%s exceeds the token, which grants %s", strings.Join(missing, " "), grant.Scopes.Parameter())
		}
		claims.Scopes = scopes
	} else {
		claims.Scopes = grant.Scopes
	}

	var audience []string
	for _, field := range []string{"audience", "resource"} {
		// Both may be given several times (RFC 8693 section 2.1), which Vault joins with commas.
		for v := range strings.SplitSeq(d.Get(field).(string), ",") {
			if v != "" && !slices.Contains(audience, v) {
				audience = append(audience, v)
			}
		}
	}
	if len(audience) > 0 {
		if _, err := checkAudience(audience); err != nil {
			return oauthError(invalidTarget, "%s", err)
		}
		if allowed := narrowAudience(audience, grant.Audience); len(allowed) != len(audience) {
			return oauthError(invalidTarget, "the token is for %s", strings.Join(grant.Audience, " "))
		}
		claims.Audience = audience
	}

	if asked := strings.Fields(d.Get("token_bound_cidrs").(string)); len(asked) > 0 {
		addresses, err := access.ParseAddresses(asked)
		if err != nil {
			return oauthError(invalidRequest, "token_bound_cidrs: %s", err)
		}
		for _, allowed := range grant.Addresses {
			if len(allowed.Exceeding(addresses)) > 0 {
				return oauthError(invalidRequest, "token_bound_cidrs exceeds the token, which may be used from %s", strings.Join(allowed.Strings(), " "))
			}
		}
		if addresses.Restricted() && !r.enforcesBounds() {
			return oauthError(invalidRequest, "token_bound_cidrs: %s", unenforced)
		}
		claims.Addresses = addresses.Ranges()
	}
	return nil, nil
}

// remoteAddr is where a request comes from; empty where that is not known.
func remoteAddr(req *logical.Request) string {
	if req.Connection == nil {
		return ""
	}
	return req.Connection.RemoteAddr
}
