package static

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// Status is a static role as it is now.
type Status struct {
	*Entry
	TTL          time.Duration // until the current token is rotated or expires
	PreviousEnds time.Time     // when the previous token ends; zero: no previous token works
	LastError    string        // why the last rotation failed; empty: it did not
}

func (k *Keeper) status(st *State, e *Entry) *Status {
	now := k.now()
	status := &Status{
		Entry: e, LastError: k.lastError(e.name),
		TTL: max(0, min(e.Next.Sub(now), st.endsAt(&e.Current).Sub(now))),
	}
	if e.Previous != nil && now.Before(e.Previous.Until) && now.Before(st.endsAt(e.Previous)) {
		status.PreviousEnds = e.Previous.Until
	}
	return status
}

// Read returns a static role; nil if there is none.
func (k *Keeper) Read(ctx context.Context, s logical.Storage, name string) (*Status, error) {
	st, err := k.mount.Load(ctx, s)
	if err != nil {
		return nil, err
	}
	e := st.Entries.Get(name)
	if e == nil {
		return nil, refuseBroken(st.Entries.Broken(name))
	}
	return k.status(st, e), nil
}

// ReadToken is Read for a request that wants the token and comes from an address. ReadToken refuses an address that the
// role does not allow, and a token that does not work.
func (k *Keeper) ReadToken(ctx context.Context, s logical.Storage, name, remoteAddr string) (*Status, error) {
	st, err := k.mount.Load(ctx, s)
	if err != nil {
		return nil, err
	}
	e := st.Entries.Get(name)
	if e == nil {
		return nil, refuseBroken(st.Entries.Broken(name))
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

// refuseBroken refuses a request for a static role that cannot be read for a reason; nil: there is no static role.
func refuseBroken(reason error) error {
	if reason == nil {
		return nil
	}
	return refusal.New("%w", reason)
}

// usable refuses if nobody must get the current token of a static role.
func (k *Keeper) usable(ctx context.Context, st *State, e *Entry) error {
	if err := st.Roles.Broken(e.Role); err != nil {
		return refusal.New("%w", err)
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
		return refusal.New("it has ended, and was not rotated: %s", last)
	}
	return refusal.New("it has ended, and is being rotated: read again")
}
