package backend

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) exchange(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	text := d.Get("subject_token").(string)
	if err := checkSubjectToken(text, d); err != nil {
		return nil, err
	}
	subject, err := st.open(ctx, req.Storage, text)
	if errors.Is(err, token.ErrBrokenKey) {
		return nil, err
	}
	if err != nil || subject.Generation > 0 {
		return nil, oauthError(invalidGrant, "")
	}
	now := b.now()
	r, grant, life, err := b.grantOf(ctx, st, req, subject, now)
	if err != nil {
		return nil, err
	}
	if r == nil || !r.Exchange {
		return nil, oauthError(invalidGrant, "")
	}
	// Exchanging is a use of the token: it must come from where the token may be used.
	use := &access.Use{}
	use.ClientIP, _ = access.ParseClientIP(remoteAddr(req))
	anyHost := *grant
	anyHost.Hosts = nil
	if access.Decide(now, life, &anyHost, use) != access.Good {
		return nil, oauthError(invalidGrant, "")
	}

	claims, err := newClaims(0, now)
	if err != nil {
		return nil, err
	}
	inherit(claims, subject)
	r.Freeze(claims, grant)
	if err := narrowExchange(claims, r, grant, d); err != nil {
		return nil, err
	}
	ttl, err := exchangedTTL(life.ExpiresAt.Sub(claims.IssuedAt), d)
	if err != nil {
		return nil, err
	}
	claims.ExpiresAt = claims.IssuedAt.Add(ttl)
	issuedType := typeAccessToken
	if requested := d.Get("requested_token_type").(string); requested == typeJWT && r.TokenFormat == role.FormatJWT {
		issuedType = typeJWT
	} else if requested != "" && requested != typeAccessToken {
		return nil, oauthError(invalidRequest, "requested_token_type must be %s, or %s where the role issues JWTs", typeAccessToken, typeJWT)
	}

	c, err := st.config.get()
	if err != nil {
		return nil, err
	}
	i := &issuing{st: st, storage: req.Storage, config: c, role: r, mountPoint: req.MountPoint, lifetime: ttl}
	left, _ := r.Permissions(claims)
	if left.Empty() {
		return nil, oauthError(invalidGrant, "")
	}
	exchanged, err := i.access(ctx, claims)
	if err != nil {
		return nil, refuseGrant(err)
	}
	return noStore(http.StatusOK, answer{
		AccessToken: exchanged, TokenType: tokenTypeOf(claims), ExpiresIn: secondsUntil(claims.ExpiresAt, now),
		Scope: left.Scopes.Parameter(), IssuedTokenType: issuedType,
	})
}

// checkSubjectToken refuses what does not say which token is to be exchanged.
func checkSubjectToken(text string, d *framework.FieldData) error {
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
	return nil
}

// exchangedTTL is how long the new token lives, of which left is left of the old one.
func exchangedTTL(left time.Duration, d *framework.FieldData) (time.Duration, error) {
	s := d.Get("ttl").(string)
	if s == "" {
		return left, nil
	}
	asked, err := parseutil.ParseDurationSecond(s)
	if err != nil || asked < time.Second {
		return 0, oauthError(invalidRequest, "ttl must be a duration of at least 1s, such as 5m")
	} else if asked > left {
		return 0, oauthError(invalidRequest, "ttl exceeds what is left of the token: %s", refusal.Short(left.Truncate(time.Second)))
	}
	return asked, nil
}

// narrowExchange takes over what an exchange asks for, when the token that it exchanges grants it.
func narrowExchange(claims *token.Claims, r *role.Role, grant *access.Permissions, d *framework.FieldData) error {
	if asked := strings.Fields(d.Get("scope").(string)); len(asked) > 0 {
		scopes, err := access.ParseScopes(asked)
		if err != nil {
			return oauthError(invalidScope, "%s", err)
		}
		if missing := grant.Scopes.Missing(scopes); len(missing) > 0 {
			return oauthError(invalidScope, "%s exceeds the token, which grants %s", strings.Join(missing, " "), grant.Scopes.Parameter())
		}
		claims.Scopes = scopes
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
		if _, err := access.ParseAudience(audience); err != nil {
			return oauthError(invalidTarget, "%s", err)
		}
		if allowed := access.IntersectAudiences(audience, grant.Audience); len(allowed) != len(audience) {
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
		if addresses.Restricted() && !r.EnforcesBounds() {
			return oauthError(invalidRequest, "token_bound_cidrs: %s", role.Unenforced)
		}
		claims.Addresses = addresses.Ranges()
	}
	return nil
}
