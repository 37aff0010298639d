package native

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// IssueRequest asks for a token of a role.
type IssueRequest struct {
	Role        *role.Role
	Asked       *role.Request
	TTL         time.Duration
	Lifetime    time.Duration // renewals included
	MountPoint  string
	Subject     string // Vault entity; empty if there is none
	DisplayName string // of the Vault token that asks

	// Reserve reserves a place below the role's max_tokens.
	Reserve func() (*role.Place, error)
}

// Issued is a token that Issue made.
type Issued struct {
	Text         string
	RefreshToken string // empty unless the role has refresh
	Claims       *token.Claims
	Permissions  *access.Permissions
	GrantEnd     time.Time // when the grant expires unless its lease is renewed
}

// Issue makes a token of a role, and a refresh token if the role has refresh. A token with a lease is listed in the
// inventory.
func (t *Tokens) Issue(ctx context.Context, s logical.Storage, q *IssueRequest) (*Issued, error) {
	r := q.Role
	m, err := t.mintingFor(s, r, q.MountPoint, q.Lifetime)
	if err != nil {
		return nil, err
	}
	if err := m.config.MayIssue(r); err != nil {
		return nil, err
	}
	narrowed, err := r.Narrow(q.Asked)
	if err != nil {
		return nil, err
	}
	place, err := q.Reserve()
	if err != nil {
		return nil, err
	}
	defer place.GiveUp()

	claims, err := t.claimsOf(ctx, s, q, narrowed)
	if err != nil {
		return nil, err
	}
	issued := &Issued{Claims: claims}
	if r.Refresh {
		if issued.RefreshToken, err = m.firstRefreshToken(ctx, claims, q.TTL); err != nil {
			return nil, refuseTooLong(err)
		}
	}
	if issued.Text, err = m.access(ctx, claims); err != nil {
		return nil, refuseTooLong(err)
	}
	issued.Permissions, _ = r.Permissions(claims)
	issued.GrantEnd = claims.IssuedAt.Add(q.TTL)
	if r.NoLease {
		return issued, nil
	}
	place.Fill(func() {
		t.Inventory.Add(ledger.Row{
			ID: claims.Grant, IssuedAt: claims.IssuedAt, ExpiresAt: issued.GrantEnd, Status: claims.Status,
			Holder: ledger.Holder{
				Role: r.Name(), RoleID: r.ID, RoleVersion: r.Version, Scopes: issued.Permissions.Scopes.Parameter(),
				Subject: q.Subject, DisplayName: q.DisplayName, Key: m.key,
			},
		})
	})
	if t.Roles.ByID(r.ID) == nil { // the deletion of the role may not have seen the row
		return nil, refusal.New("role %q was deleted meanwhile", r.Name())
	}
	return issued, nil
}

// claimsOf returns the claims of the first access token of a grant.
func (t *Tokens) claimsOf(ctx context.Context, s logical.Storage, q *IssueRequest, narrowed *token.Claims) (*token.Claims, error) {
	r, ttl, now := q.Role, q.TTL, t.Now()
	if r.Refresh {
		ttl = min(ttl, r.AccessTTL)
	}
	claims, err := t.grantClaims(r, q.Subject, narrowed, ttl, now)
	if err != nil {
		return nil, err
	}
	if r.TokenFormat == role.FormatJWT && !r.NoLease {
		if claims.Status, err = t.StatusIndexes.Next(ctx, s, r.ID, now); err != nil {
			return nil, err
		}
		if claims.Grant, err = token.NewGrantID(rand.Reader, claims.Status); err != nil {
			return nil, err
		}
		claims.ID = claims.Grant
	}
	return claims, nil
}

// grantClaims returns the claims of a token that is alone in a new grant.
func (t *Tokens) grantClaims(r *role.Role, subject string, narrowed *token.Claims, ttl time.Duration, now time.Time) (*token.Claims, error) {
	claims, err := newClaims(ttl, now)
	if err != nil {
		return nil, err
	}
	inherit(claims, narrowed)
	claims.Role, claims.RoleVersion, claims.Subject, claims.Grant = r.ID, r.Version, subject, claims.ID
	claims.Metadata, err = r.MetadataFor(subject, t.Vault())
	return claims, err
}

// firstRefreshToken makes the refresh token that begins a grant. The access token gets an ID of its own.
func (m *minting) firstRefreshToken(ctx context.Context, claims *token.Claims, ttl time.Duration) (text string, err error) {
	if claims.ID, err = token.NewID(rand.Reader); err != nil { // the ID so far is the grant's
		return "", err
	}
	refresh, err := newClaims(ttl, claims.IssuedAt) // the grant expires with its lease, however long this takes
	if err != nil {
		return "", err
	}
	inherit(refresh, claims)
	refresh.Generation, refresh.GrantLifetime = 1, max(m.lifetime, ttl)
	return m.opaque(ctx, refresh)
}

// Answer returns the members of the answer of creds.
func (i *Issued) Answer() map[string]any {
	data := map[string]any{
		"token":      i.Text,
		"token_id":   i.Claims.Name(),
		"token_type": PresentedAs(i.Claims),
		"scopes":     []string(i.Permissions.Scopes),
		"expires_at": rfc3339(i.Claims.ExpiresAt),
	}
	if i.RefreshToken != "" {
		data["refresh_token"], data["grant_id"] = i.RefreshToken, i.Claims.Grant.String()
	}
	if i.Permissions.Audience != nil {
		data["audience"] = i.Permissions.Audience
	}
	AddLimits(data, i.Permissions)
	return data
}
