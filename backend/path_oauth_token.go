package backend

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) pathsOAuthToken() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "oauth/token",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "request", OperationSuffix: "oauth-token"},
		Fields: map[string]*framework.FieldSchema{
			"grant_type":           {Type: framework.TypeString, Required: true, Description: "refresh_token or urn:ietf:params:oauth:grant-type:token-exchange."},
			"refresh_token":        {Type: framework.TypeString, Description: "Refresh token, for one use.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
			"subject_token":        {Type: framework.TypeString, Description: "Token to exchange, of a role with exchange=true.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
			"subject_token_type":   {Type: framework.TypeString, Description: "urn:ietf:params:oauth:token-type:access_token, or ...:jwt for a JWT."},
			"requested_token_type": {Type: framework.TypeString, Description: "Same values as subject_token_type. Default: the token format of the role."},
			"actor_token":          {Type: framework.TypeString, Description: "Not supported.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
			"scope":                {Type: framework.TypeString, Description: "Scopes of the new token, separated by spaces, within the scopes of the old token. Default: the same."},
			"audience":             {Type: framework.TypeString, Description: "API that the new token is for, within the audience of the old token. Default: the same."},
			"resource":             {Type: framework.TypeString, Description: "Same as audience (RFC 8707)."},
			"ttl":                  {Type: framework.TypeString, Description: "TTL of the new token, at most the remaining lifetime of the old token; an extension of this engine."},
			"bound_regions":        {Type: framework.TypeString, Description: "Regions that the new token may be used from, separated by spaces, within the regions of the old token; an extension of this engine. Default: the same."},
			"token_bound_cidrs":    {Type: framework.TypeString, Description: "Addresses that the new token may be used from, separated by spaces, within the addresses of the old token; an extension of this engine. Default: the same."},
		},
		Operations:   only(logical.UpdateOperation, forward(b.answer(b.pathOAuthTokenUpdate, "Refresh or exchange a token.", rawResponses(http.StatusOK, mediaJSON, "Access token response of RFC 6749 section 5.1")))),
		HelpSynopsis: "The OAuth 2.0 token endpoint: refresh and exchange tokens.",
		HelpDescription: "Takes form-encoded parameters and needs no Vault token: the refresh token, or the token to exchange, is the credential. " +
			"A refresh (RFC 6749 section 6) returns a new pair of tokens and invalidates the refresh token. Reuse of a refresh token after more than 10 seconds revokes the whole grant. " +
			"An exchange (RFC 8693) returns a token with fewer permissions.",
	}}
}

func (b *backend) pathOAuthTokenUpdate(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	grantType := d.Get("grant_type").(string)
	if grantType == native.GrantTypeRefresh || grantType == native.GrantTypeExchange {
		if err := b.fence.ProveWritable(ctx, req.Storage); err != nil {
			return nil, err
		}
	}
	switch grantType {
	case native.GrantTypeRefresh:
		return b.oauthRefresh(ctx, st, req, d)
	case native.GrantTypeExchange:
		return b.oauthExchange(ctx, st, req, d)
	case "":
		return nil, refusal.OAuth(refusal.InvalidRequest, "grant_type is missing")
	}
	return nil, refusal.OAuth(refusal.UnsupportedGrantType, "grant_type must be %s or %s", native.GrantTypeRefresh, native.GrantTypeExchange)
}

// answer returns the access token response of RFC 6749 section 5.1 and RFC 8693 section 2.2.1.
type answer struct {
	AccessToken     string `json:"access_token"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int64  `json:"expires_in"`
	RefreshToken    string `json:"refresh_token,omitempty"`
	Scope           string `json:"scope"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
}

func (b *backend) oauthRefresh(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	text := d.Get("refresh_token").(string)
	if text == "" {
		return nil, refusal.OAuth(refusal.InvalidRequest, "refresh_token is missing")
	}
	pair, err := st.Refresh(ctx, req.Storage, &native.RefreshRequest{
		RefreshToken: text, Scope: strings.Fields(d.Get("scope").(string)), MountPoint: req.MountPoint, RemoteAddr: remoteAddr(req),
	})
	if err != nil {
		return nil, err
	}
	return b.answerPair(pair)
}

func (b *backend) oauthExchange(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	text := d.Get("subject_token").(string)
	if err := checkSubjectToken(text, d); err != nil {
		return nil, err
	}
	ttl, err := askedTTL(d.Get("ttl").(string))
	if err != nil {
		return nil, err
	}
	var audience []string
	for _, field := range []string{"audience", "resource"} {
		// A request may repeat both parameters (RFC 8693 section 2.1). Vault joins the values with commas.
		for v := range strings.SplitSeq(d.Get(field).(string), ",") {
			if v != "" && !slices.Contains(audience, v) {
				audience = append(audience, v)
			}
		}
	}
	pair, err := st.Exchange(ctx, req.Storage, &native.ExchangeRequest{
		SubjectToken: text, RequestedType: d.Get("requested_token_type").(string), Scope: strings.Fields(d.Get("scope").(string)),
		Audience: audience, TokenBoundCIDRs: strings.Fields(d.Get("token_bound_cidrs").(string)), BoundRegions: strings.Fields(d.Get("bound_regions").(string)), TTL: ttl,
		MountPoint: req.MountPoint, RemoteAddr: remoteAddr(req),
	})
	if err != nil {
		return nil, err
	}
	return b.answerPair(pair)
}

func (b *backend) answerPair(pair *native.Pair) (*logical.Response, error) {
	return noStore(http.StatusOK, answer{
		AccessToken: pair.Access, TokenType: native.PresentedAs(pair.Claims), RefreshToken: pair.Refresh,
		ExpiresIn: max(0, int64(pair.Claims.ExpiresAt.Sub(b.now()).Seconds())), Scope: pair.Permissions.Scopes.Parameter(),
		IssuedTokenType: pair.IssuedType,
	})
}

// checkSubjectToken rejects a request without a valid subject_token and subject_token_type.
func checkSubjectToken(text string, d *framework.FieldData) error {
	subjectType := d.Get("subject_token_type").(string)
	switch {
	case text == "":
		return refusal.OAuth(refusal.InvalidRequest, "subject_token is missing")
	case subjectType == "":
		return refusal.OAuth(refusal.InvalidRequest, "subject_token_type is missing")
	case subjectType != native.TypeAccessToken && subjectType != native.TypeJWT:
		return refusal.OAuth(refusal.InvalidRequest, "subject_token_type must be %s or %s", native.TypeAccessToken, native.TypeJWT)
	case subjectType == native.TypeJWT && !token.IsJWT(text):
		return refusal.OAuth(refusal.InvalidRequest, "subject_token is no JWT")
	case d.Get("actor_token").(string) != "":
		return refusal.OAuth(refusal.InvalidRequest, "actor_token is not supported")
	}
	return nil
}

// askedTTL returns the TTL that a request asks for; 0 if the request asks for none.
func askedTTL(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	ttl, err := parseutil.ParseDurationSecond(s)
	if err != nil || ttl < time.Second {
		return 0, refusal.OAuth(refusal.InvalidRequest, "ttl must be a duration of at least 1s, such as 5m")
	}
	return ttl, nil
}

// remoteAddr returns the client address of a request; empty if unknown.
func remoteAddr(req *logical.Request) string {
	if req.Connection == nil {
		return ""
	}
	return req.Connection.RemoteAddr
}
