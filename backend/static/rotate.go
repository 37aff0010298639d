package static

import (
	"context"
	"errors"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// permit returns the role of a static role, or a refusal if no token of the role may be made.
func (t *task) permit(ctx context.Context, e *Entry) (*role.Role, error) {
	r := t.Roles.Get(e.Role)
	if err := t.Roles.Broken(e.Role); err != nil {
		return nil, refusal.Wrap(err)
	}
	if r == nil {
		return nil, refusal.New("role %q was deleted", e.Role)
	}
	if err := t.For(r).Permit(r); err != nil {
		return nil, err
	}
	disabled, err := t.mount.EntityDisabled(ctx, e.EntityID)
	if err != nil {
		return nil, err
	}
	if disabled {
		return nil, refuseEntity(e)
	}
	return r, nil
}

// refuseEntity returns the refusal of a token for a disabled or deleted entity.
func refuseEntity(e *Entry) error {
	return refusal.Field("entity_id", "Vault entity %q is disabled or deleted", e.EntityID)
}

// keep completes the last rotation, and rotates the static role if the rotation is due or the token is not valid.
func (t *task) keep(ctx context.Context) error {
	e := t.stored
	if err := t.settle(ctx, e); err != nil {
		return err
	}
	now := t.now()
	works := t.works(e)
	if works && now.Before(e.Next) {
		return nil
	}
	if works && e.Window > 0 && now.After(e.Next.Add(e.Window)) {
		skipped := *e
		var err error
		if skipped.Next, err = e.after(now); err != nil {
			return err
		}
		if !skipped.last().Before(skipped.Next) {
			t.log.Warn("rotation missed, and its rotation_window is over", "static_role", t.name, "next", skipped.Next)
			return t.put(ctx, &skipped)
		}
	}
	err := t.rotate(ctx, e)
	t.report(ctx, err)
	if err != nil {
		return err
	}
	t.log.Info("static role rotated", "static_role", t.name)
	return nil
}

// rotate makes the next token of a static role, and stores e with that token. The previous token works for the overlap. After
// a crash in between, no reader has an unstored token, and the queue revokes an unstored upstream token. The stored entry
// names the tokens still to be revoked.
func (t *task) rotate(ctx context.Context, e *Entry) error {
	r, err := t.permit(ctx, e)
	if err != nil {
		return err
	}
	if err := t.mount.ProveWritable(ctx, t.storage); err != nil {
		return err
	}
	now := t.now().UTC()
	next := *e
	var end time.Time
	if next.Next, end, err = e.horizon(now); err != nil {
		return err
	}
	minted, err := t.For(r).Mint(ctx, t.storage, &role.MintRequest{
		Role: r, MountPoint: e.MountPoint, EntityID: e.EntityID, StaticRole: t.name, Now: now, End: end,
	})
	if err != nil {
		return err
	}
	next.Current = Token{Minted: *minted, RotatedAt: now}
	next.hasten()
	t.succeed(&next, e, now)
	if err := t.put(ctx, &next); err != nil {
		// No reader has the new token. If this revocation fails, the queue revokes an upstream token.
		revoking, cancel := context.WithTimeout(context.WithoutCancel(ctx), upstream.RevokeWait)
		defer cancel()
		return errors.Join(err, t.revoke(revoking, &next.Current))
	}
	t.list(t.State, &next)
	return t.settle(ctx, &next)
}

// succeed moves the tokens of e to next: the current token becomes the previous token, and the earlier tokens are to be
// revoked.
func (t *task) succeed(next, e *Entry, now time.Time) {
	next.Previous, next.Ended = nil, nil
	before := e.Ended
	if e.Previous != nil {
		before = append(before[:len(before):len(before)], *e.Previous)
	}
	for i := range before {
		if t.endsAt(&before[i]).After(now) {
			next.Ended = append(next.Ended, before[i])
		}
	}
	if e.Current.ID.IsZero() {
		return
	}
	if end := t.endsAt(&e.Current); end.After(now) {
		previous := e.Current
		previous.Text, previous.Data = "", nil
		if previous.Until = now.Add(e.Overlap); end.Before(previous.Until) {
			previous.Until = end
		}
		next.Previous = &previous
	}
}

// put replaces the stored static role of the task. After a failed write, put reads storage to determine whether the write was
// done.
func (t *task) put(ctx context.Context, next *Entry) error {
	if t.stored == nil { // the role must exist until the static role is stored
		t.Roles.Writing.Lock()
		defer t.Roles.Writing.Unlock()
		r, err := t.Roles.Latest(ctx, t.storage, next.Role)
		if err != nil {
			return err
		}
		if r == nil || r.ID != next.Current.RoleID {
			return refusal.New("role %q was deleted meanwhile", next.Role)
		}
	}
	stored, err := t.Entries.Latest(ctx, t.storage, t.name)
	if err != nil {
		return err
	}
	if stored != t.stored {
		return refusal.New("static role %q was changed meanwhile", t.name)
	}
	if err = t.Entries.Put(ctx, t.storage, next); err == nil {
		return nil
	}
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), upstream.RevokeWait)
	defer cancel()
	if stored, e := t.Entries.Latest(asking, t.storage, t.name); e == nil && stored != nil && stored.Current.ID == next.Current.ID && stored.Next.Equal(next.Next) {
		return nil
	}
	return err
}

// list adds the current token of a static role to the inventory. After a crash the inventory may lack the token.
func (k *Keeper) list(st *State, e *Entry) {
	if _, listed := st.Inventory.Get(e.Current.ID); !listed {
		st.Inventory.Add(st.row(e))
		k.mount.FlushInventory()
	}
}

// settle revokes or shortens every earlier token. A completed step costs nothing.
func (t *task) settle(ctx context.Context, e *Entry) error {
	for i := range e.Ended {
		if err := t.revoke(ctx, &e.Ended[i]); err != nil {
			return err
		}
	}
	previous := e.Previous
	switch {
	case previous == nil || !t.endsAt(previous).After(previous.Until):
		return nil
	case t.now().Before(previous.Until):
		return t.Of(&previous.Minted).ShortenTo(ctx, t.storage, &previous.Minted, previous.Until)
	}
	return t.revoke(ctx, previous)
}

// revoke revokes a token of the static role.
func (t *task) revoke(ctx context.Context, one *Token) error {
	return t.Of(&one.Minted).Revoke(ctx, t.storage, &one.Minted)
}

// revokeAll revokes all tokens of the static role, the current token last.
func (t *task) revokeAll(ctx context.Context) error {
	for _, one := range t.stored.tokens() {
		if err := t.revoke(ctx, &one); err != nil {
			return err
		}
	}
	return nil
}
