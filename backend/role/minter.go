package role

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Minter makes the tokens of one kind of role and revokes them. There are two kinds: native tokens, and tokens of
// upstream services. An error that the caller may see is a refusal.
type Minter interface {
	// Permit returns a refusal if no token of the role may be made at present.
	Permit(r *Role) error

	// Mint makes a token.
	Mint(ctx context.Context, s logical.Storage, q *MintRequest) (*Minted, error)

	// EndsAt returns when a token expires or has expired; the zero time if the token was revoked.
	EndsAt(t *Minted) time.Time

	// Works reports whether a token is valid for any use.
	Works(t *Minted) bool

	// ShortenTo makes a token expire at end, unless the token expires earlier. A revoked token is no error.
	ShortenTo(ctx context.Context, s logical.Storage, t *Minted, end time.Time) error

	// Revoke revokes a token for good. A revoked or expired token is no error.
	Revoke(ctx context.Context, s logical.Storage, t *Minted) error
}

// MintRequest is a request for a token that no lease holds. Fields without a remark are required.
type MintRequest struct {
	Role       *Role
	MountPoint string
	EntityID   string    // Vault entity that the token is for; empty: none
	StaticRole string    // name of the static role that keeps the token
	Now        time.Time // time of the request
	End        time.Time // until when the token must live; an upstream service may end the token sooner
}

// Minted is a token that a Minter has made.
type Minted struct {
	ID        token.ID       `json:"id"`
	Text      string         `json:"text,omitempty"`
	Upstream  bool           `json:"upstream"` // minted by an upstream service; false: native
	RoleID    token.RoleID   `json:"role_id"`
	Version   uint32         `json:"version"`        // version of the role
	Key       string         `json:"key,omitempty"`  // key of a native token
	Name      string         `json:"name,omitempty"` // name at the upstream service
	Data      map[string]any `json:"data,omitempty"` // further members that the upstream service returned
	ExpiresAt time.Time      `json:"expires_at"`
}

// Minters are the minters of both kinds.
type Minters struct{ Native, Upstream Minter }

// For returns the minter of a role's tokens.
func (m *Minters) For(r *Role) Minter { return m.of(r.Connection != "") }

// Of returns the minter of a token. The token remembers its kind, since its role may be gone.
func (m *Minters) Of(t *Minted) Minter { return m.of(t.Upstream) }

func (m *Minters) of(upstream bool) Minter {
	if upstream {
		return m.Upstream
	}
	return m.Native
}
