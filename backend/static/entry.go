// Package static keeps static roles. A static role keeps one token of a role, and rotates the token on schedule.
package static

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Prefix is the prefix of the storage keys of static roles.
const Prefix = "static-role/"

// Entry is a static role as stored, seal-wrapped. An Entry does not change: an update makes a new Entry.
type Entry struct {
	name string

	Role        string        `json:"role"`
	EntityID    string        `json:"entity_id,omitempty"` // Vault entity that the token is for; empty: none
	MountPoint  string        `json:"mount_point"`
	Period      time.Duration `json:"period,omitempty"`   // time between two rotations; 0: by Schedule
	Schedule    string        `json:"schedule,omitempty"` // times of rotations in cron syntax; empty: by Period
	Window      time.Duration `json:"window,omitempty"`   // how long after a time of Schedule a rotation may begin; 0: no limit
	Overlap     time.Duration `json:"overlap,omitempty"`  // how long the previous token works after a rotation
	Description string        `json:"description,omitempty"`
	review.Review

	Current  Token     `json:"current"`
	Previous *Token    `json:"previous,omitempty"` // works until its Until; nil: none
	Ended    []Token   `json:"ended,omitempty"`    // tokens to revoke; the next rotation drops the revoked tokens
	Next     time.Time `json:"next"`               // time of the next rotation
}

// Token is a token of a static role. Only the current token has Text and Data.
type Token struct {
	role.Minted
	RotatedAt time.Time `json:"rotated_at"`
	Until     time.Time `json:"until,omitzero"` // when the overlap of a previous token is over
}

// Name implements store.Named.
func (e *Entry) Name() string { return e.name }

// Identity implements store.Named: static roles have no IDs.
func (e *Entry) Identity() struct{} { return struct{}{} }

// Stored implements store.Named.
func (e *Entry) Stored() any { return e }

// tokens returns the tokens that may be alive, the current token last.
func (e *Entry) tokens() []Token {
	all := slices.Clone(e.Ended)
	if e.Previous != nil {
		all = append(all, *e.Previous)
	}
	return append(all, e.Current)
}

// keeps reports whether the static role keeps a token.
func (e *Entry) keeps(id token.ID, now time.Time) bool {
	return e.Current.ID == id || e.Previous != nil && e.Previous.ID == id && now.Before(e.Previous.Until)
}

// Store keeps the static roles of a mount in memory and in storage.
type Store = store.Store[struct{}, *Entry]

// Load reads the static roles from storage.
func Load(ctx context.Context, s logical.Storage) (*Store, error) {
	return store.Load(ctx, s, Prefix, true, func(name string, stored *logical.StorageEntry) (*Entry, error) {
		e := &Entry{name: name}
		return e, stored.DecodeJSON(e)
	})
}

// OfRole returns a static role that keeps a token of a role; nil if there is none.
func OfRole(all *Store, roleName string) *Entry {
	for _, e := range all.All() {
		if e.Role == roleName {
			return e
		}
	}
	return nil
}

// State is the part of a mount's memory that a Keeper needs. The fields of a State do not change: a reload makes a new State.
type State struct {
	Roles     *role.Store
	Entries   *Store
	Inventory *ledger.Inventory
	role.Minters
}

// endsAt returns when a token expires or has expired; the zero time if the token was revoked.
func (st *State) endsAt(t *Token) time.Time { return st.Of(&t.Minted).EndsAt(&t.Minted) }

// works reports whether the current token of a static role is valid for any use.
func (st *State) works(e *Entry) bool { return st.Of(&e.Current.Minted).Works(&e.Current.Minted) }

// settled reports whether every earlier token is revoked, or expires on time.
func (st *State) settled(e *Entry, now time.Time) bool {
	for i := range e.Ended {
		if st.endsAt(&e.Ended[i]).After(now) {
			return false
		}
	}
	return e.Previous == nil || !st.endsAt(e.Previous).After(e.Previous.Until)
}

// row returns the inventory's row of the current token of a static role.
func (st *State) row(e *Entry) ledger.Row {
	t := &e.Current
	row := ledger.Row{
		ID: t.ID, IssuedAt: t.RotatedAt.Truncate(time.Second), ExpiresAt: t.ExpiresAt.Truncate(time.Second),
		Holder: ledger.Holder{
			Role: e.Role, RoleID: t.RoleID, RoleVersion: t.Version, Subject: e.EntityID,
			DisplayName: "static role " + e.name, StaticRole: e.name, Key: t.Key,
		},
	}
	if r := st.Roles.ByID(t.RoleID); r != nil {
		if permissions, _ := r.Permissions(&token.Claims{RoleVersion: t.Version}); permissions != nil {
			row.Scopes = permissions.Scopes.Parameter()
		}
	}
	return row
}
