package native

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Verdict is the result of Verify. Fields that are not known are zero.
type Verdict struct {
	Reason      access.Reason
	Claims      *token.Claims
	Life        access.State // renewals included
	Role        *role.Role
	Permissions *access.Permissions
	Metadata    map[string]string
	Suspended   string      // what is suspended, in a sentence; empty unless the Reason is access.Suspended
	Use         *access.Use // the use that Verify decided on, with the region of its address; nil if the token is not good for any use
}

// Explain says in a sentence why the token is not good.
func (v *Verdict) Explain() string {
	if v.Claims != nil && v.Claims.Generation > 0 && v.Reason == access.WrongAudience {
		return "this is a refresh token, which is for oauth/token and for no API"
	}
	return cmp.Or(v.Suspended, access.Explain(v.Reason, v.Permissions, v.Use))
}

// Open opens a token of either format. A key that memory does not have is read from storage: another process may have
// made the key since Vault last told of a change.
func (t *Tokens) Open(ctx context.Context, s logical.Storage, text string) (*token.Claims, error) {
	if token.IsJWT(text) {
		return Open(ctx, s, t.Signing, text, token.OpenJWT)
	}
	return Open(ctx, s, t.Sealing, text, token.Open)
}

// Verify opens a token and decides whether the token is good for a use. Verify is the only place that decides on a
// native token: access.Decide makes the decision from what Verify knows.
func (t *Tokens) Verify(ctx context.Context, s logical.Storage, text string, use *access.Use) (*Verdict, error) {
	claims, err := t.Open(ctx, s, text)
	if err != nil {
		return unopened(err)
	}
	now := t.Now()
	life := t.Life(claims.ID, claims.Grant, claims.Subject, claims.Role, claims.ExpiresAt)
	v := &Verdict{Claims: claims, Life: life, Role: t.Roles.ByID(claims.Role)}
	if v.Role != nil {
		v.Permissions, v.Metadata = v.Role.Permissions(claims)
	}
	if err := t.Unreadable(claims.ID, claims.Grant, claims.Subject, claims.Role); err != nil && !life.Revoked {
		return nil, err
	}
	if v.Reason = life.Alive(now); v.Reason == access.Suspended {
		v.Suspended, _ = t.ExplainSuspension(claims.Grant, claims.Subject)
	}
	if v.Reason != access.Good {
		return v, nil
	}
	if claims.Generation > 0 {
		v.Reason = access.WrongAudience
		return v, nil
	}
	if v.Permissions == nil { // a version of the role that no live token has
		v.Reason = access.Expired
		return v, nil
	}
	if life.SubjectDisabled, err = t.Subjects.Disabled(ctx, claims.Subject); err != nil {
		return nil, err
	}
	v.Use = t.located(use, v.Permissions)
	v.Reason = access.Decide(now, life, v.Permissions, v.Use)
	return v, nil
}

// located returns a use with the region of its address, if the region matters and the use does not state a region. The
// region stays empty if the config names no database, or if the database does not know the address.
func (t *Tokens) located(use *access.Use, permissions *access.Permissions) *access.Use {
	if len(permissions.Regions) == 0 || use.Region != "" {
		return use
	}
	path := t.Config.OrDefaults().GeoIPDatabase
	if path == "" {
		return use
	}
	with := *use
	with.Region = t.Regions.Region(path, use.ClientIP)
	return &with
}

// unopened returns the verdict on a token that cannot be opened.
func unopened(err error) (*Verdict, error) {
	switch {
	case errors.Is(err, token.ErrMalformed):
		return &Verdict{Reason: access.Malformed}, nil
	case errors.Is(err, token.ErrUnknownKey):
		return &Verdict{Reason: access.WrongEnvironment}, nil
	case errors.Is(err, token.ErrExpiredKey):
		return &Verdict{Reason: access.Expired}, nil
	case errors.Is(err, token.ErrDestroyedKey):
		return &Verdict{Reason: access.Revoked}, nil
	case errors.Is(err, token.ErrBrokenKey):
		return nil, err
	}
	return &Verdict{Reason: access.Unknown}, nil
}

// SignIntrospection returns an introspection answer as a JWT for an audience (RFC 9701 section 5).
func (t *Tokens) SignIntrospection(ctx context.Context, s logical.Storage, c *Config, audience string, answer map[string]any) (signed string, err error) {
	payload, err := json.Marshal(map[string]any{
		"iss": c.Issuer, "aud": audience, "iat": t.Now().Unix(), "token_introspection": answer,
	})
	if err != nil {
		return "", err
	}
	err = t.Signing.Sign(ctx, s, c.SigningAlgorithm, 0, func(ring *token.SigningRing) error {
		signed, err = ring.Sign(token.TypeTokenIntrospection, payload)
		return err
	})
	return signed, err
}
