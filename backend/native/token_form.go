package native

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// TokenForm is the form of a request to the token endpoint as the client sent the form; empty for a parameter that the client
// did not send. A refresh takes RefreshToken and Scope, an exchange takes ExchangeForm.
type TokenForm struct {
	GrantType, RefreshToken string
	ExchangeForm
}

// ReadTokenForm returns the form with the parameters that parameter returns.
func ReadTokenForm(parameter func(name string) string) *TokenForm {
	return &TokenForm{
		GrantType: parameter("grant_type"), RefreshToken: parameter("refresh_token"),
		ExchangeForm: ExchangeForm{
			SubjectToken: parameter("subject_token"), SubjectTokenType: parameter("subject_token_type"),
			RequestedTokenType: parameter("requested_token_type"), ActorToken: parameter("actor_token"),
			Scope: parameter("scope"), Audience: parameter("audience"), Resource: parameter("resource"), TTL: parameter("ttl"),
			TokenBoundCIDRs: parameter("token_bound_cidrs"), BoundRegions: parameter("bound_regions"),
		},
	}
}

// CheckGrantType refuses a grant type that the token endpoint does not have.
func (f *TokenForm) CheckGrantType() error {
	switch f.GrantType {
	case GrantTypeRefresh, GrantTypeExchange:
		return nil
	case "":
		return refusal.OAuth(refusal.InvalidRequest, "grant_type is missing")
	}
	return refusal.OAuth(refusal.UnsupportedGrantType, "grant_type must be %s or %s", GrantTypeRefresh, GrantTypeExchange)
}

// Grant answers a request to the token endpoint, by a refresh or an exchange. remoteAddr is the address of the client; empty
// if unknown.
func (t *Tokens) Grant(ctx context.Context, s logical.Storage, f *TokenForm, mountPoint, remoteAddr string) (*Pair, error) {
	if err := f.CheckGrantType(); err != nil {
		return nil, err
	}
	if f.GrantType == GrantTypeExchange {
		q, err := f.Parse()
		if err != nil {
			return nil, err
		}
		q.MountPoint, q.RemoteAddr = mountPoint, remoteAddr
		return t.Exchange(ctx, s, q)
	}
	if f.RefreshToken == "" {
		return nil, refusal.OAuth(refusal.InvalidRequest, "refresh_token is missing")
	}
	return t.Refresh(ctx, s, &RefreshRequest{
		RefreshToken: f.RefreshToken, Scope: strings.Fields(f.Scope), MountPoint: mountPoint, RemoteAddr: remoteAddr,
	})
}

// ReadUseForm returns the use that the form of a standard introspection describes (RFC 7662 section 2.1). A parameter without
// a value counts as not sent (RFC 6749 section 3.1).
func ReadUseForm(parameter func(name string) string) (*access.Use, error) {
	sent := func(name string) *string {
		if value := parameter(name); value != "" {
			return &value
		}
		return nil
	}
	scopes, err := access.ParseScopes(strings.Fields(parameter("scope")))
	if err != nil {
		return nil, refusal.OAuth(refusal.InvalidRequest, "%s", err)
	}
	q := &UseRequest{Audience: sent("audience"), ClientIP: sent("client_ip"), Region: sent("region"), Host: sent("host")}
	use, err := q.Parse()
	if err != nil {
		return nil, err
	}
	use.Scopes = scopes
	return use, nil
}
