package static

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
)

// Status is the current state of a static role, with the token.
type Status struct {
	Role        string `json:"role"`
	EntityID    string `json:"entity_id"` // empty: none
	Description string `json:"description"`
	review.Review
	Period       time.Duration  `json:"rotation_period"`
	Schedule     string         `json:"rotation_schedule"`
	Window       time.Duration  `json:"rotation_window"`
	Overlap      time.Duration  `json:"overlap"`
	RotatedAt    time.Time      `json:"last_vault_rotation"`
	Next         time.Time      `json:"next_vault_rotation"`
	PreviousEnds time.Time      `json:"previous_token_expires_at"` // zero if no previous token works
	LastError    string         `json:"last_error"`                // of the last rotation; empty if the rotation succeeded
	Token        string         `json:"token"`
	TokenID      string         `json:"token_id"`
	Name         string         `json:"name"`     // of the token at the upstream service; empty for a native token
	Upstream     map[string]any `json:"upstream"` // further members of the service's answer
	TTL          time.Duration  `json:"ttl"`      // time until the token is rotated or expires
}

func (k *Keeper) status(st *State, e *Entry) *Status {
	now, t := k.now(), &e.Current
	status := &Status{
		Role: e.Role, EntityID: e.EntityID, Description: e.Description, Review: e.Review, Period: e.Period, Schedule: e.Schedule, Window: e.Window,
		Overlap: e.Overlap, RotatedAt: t.RotatedAt, Next: e.Next, LastError: k.lastError(e.name),
		Token: t.Text, TokenID: t.ID.String(), Name: t.Name, Upstream: t.Data,
		TTL: max(0, min(e.Next.Sub(now), st.endsAt(t).Sub(now))),
	}
	if e.Previous != nil && now.Before(e.Previous.Until) && now.Before(st.endsAt(e.Previous)) {
		status.PreviousEnds = e.Previous.Until
	}
	return status
}

// get returns the mount's memory and a static role; nil if there is none. A static role that cannot be read is a refusal.
func (k *Keeper) get(ctx context.Context, s logical.Storage, name string) (*State, *Entry, error) {
	st, err := k.mount.Load(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	return st, st.Entries.Get(name), refusal.Wrap(st.Entries.Broken(name))
}

// Read returns a static role; nil if there is none.
func (k *Keeper) Read(ctx context.Context, s logical.Storage, name string) (*Status, error) {
	st, e, err := k.get(ctx, s, name)
	if e == nil || err != nil {
		return nil, err
	}
	return k.status(st, e), nil
}

// ReadToken returns a static role with its token, for a request from an address. ReadToken rejects an address that the role
// does not allow, and returns a refusal if the token is not valid.
func (k *Keeper) ReadToken(ctx context.Context, s logical.Storage, name, remoteAddr string) (*Status, error) {
	st, e, err := k.get(ctx, s, name)
	if e == nil || err != nil {
		return nil, err
	}
	if r := st.Roles.Get(e.Role); r != nil {
		if err := r.CheckRequester(remoteAddr); err != nil {
			return nil, err
		}
	}
	if err := k.usable(ctx, st, e); err != nil {
		if refusal.As(err) != nil {
			k.Wake()
			err = refusal.New("static role %q has no token that works: %w", name, err)
		}
		return nil, err
	}
	return k.status(st, e), nil
}

// usable returns a refusal if the current token of a static role must not be returned.
func (k *Keeper) usable(ctx context.Context, st *State, e *Entry) error {
	if err := st.Roles.Broken(e.Role); err != nil {
		return refusal.Wrap(err)
	}
	disabled, err := k.mount.EntityDisabled(ctx, e.EntityID)
	if err != nil {
		return err
	}
	if disabled {
		return refuseEntity(e)
	}
	if st.works(e) {
		return nil
	}
	if last := k.lastError(e.name); last != "" {
		return refusal.New("the token expired or was revoked, and was not rotated: %s", last)
	}
	return refusal.New("the token expired or was revoked, and is being rotated: read again")
}
