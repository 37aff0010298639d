package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// isTold reports whether an error may be shown to the caller.
func isTold(err error) bool {
	return refusal.As(err) != nil || errors.As(err, new(*connector.Error)) || errors.Is(err, errNothingLeft)
}

// staticRole returns the role whose token a static role keeps, where the token may be made.
func (b *backend) staticRole(ctx context.Context, st *state, e *staticEntry) (*role.Role, error) {
	r := st.roles.Get(e.Role)
	if err := st.roles.Broken(e.Role); err != nil {
		return nil, refusal.New("%w", err)
	}
	if r == nil {
		return nil, refusal.New("role %q was deleted", e.Role)
	}
	if r.Connection == "" {
		c, err := st.config.get()
		if err != nil {
			return nil, err
		}
		if err := c.mayIssue(r); err != nil {
			return nil, err
		}
	}
	disabled, err := b.subjects.disabled(ctx, e.EntityID)
	if err != nil {
		return nil, err
	}
	if disabled {
		return nil, refusal.New("entity_id: Vault entity %q is disabled or deleted", e.EntityID)
	}
	return r, nil
}

// keepStatic completes the last rotation of a static role, and rotates it where its time has come or its token is not
// good any more. The caller has locked it, and read it from storage.
func (b *backend) keepStatic(ctx context.Context, st *state, e *staticEntry) error {
	if err := b.settleStatic(ctx, b.storage, st, e); err != nil {
		return err
	}
	now := b.now()
	works := st.works(e, now)
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
			b.Logger().Warn("a rotation was missed, and its rotation_window is over", "static_role", e.name, "next", skipped.Next)
			return b.putStatic(ctx, b.storage, st, e, &skipped)
		}
	}
	if err := b.rotateStatic(ctx, b.storage, st, e, e); err != nil {
		return err
	}
	b.Logger().Info("rotated a static role", "static_role", e.name)
	return nil
}

// rotateStatic makes the next token of a static role and stores it in place of old, which is nil for a new static role;
// then the token before ends by the overlap. The caller has locked it. Wherever this is cut short, a token that was not
// stored has been given to nobody, and the queue revokes it at an upstream; and what is stored says which tokens are
// still to be ended.
func (b *backend) rotateStatic(ctx context.Context, s logical.Storage, st *state, old, e *staticEntry) error {
	r, err := b.staticRole(ctx, st, e)
	if err != nil {
		return err
	}
	if err := b.proveWritable(ctx, s); err != nil {
		return err
	}
	now := b.now().UTC()
	next := *e
	var end time.Time
	if next.Next, end, err = e.horizon(now); err != nil {
		return err
	}
	if r.Connection == "" {
		next.Current, err = b.mintStatic(ctx, s, st, r, e, now, end)
	} else {
		next.Current, err = b.mintStaticUpstream(ctx, st, r, e, now, end)
	}
	if err != nil {
		return err
	}
	next.hasten()
	next.succeed(st, e, now)
	if err := b.putStatic(ctx, s, st, old, &next); err != nil {
		// Nobody has the new one. At an upstream the queue revokes it too, if this fails.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), upstream.RevokeWait)
		defer cancel()
		return errors.Join(err, b.endStatic(ending, s, st, &next.Current))
	}
	b.listStatic(st, &next)
	return b.settleStatic(ctx, s, st, &next)
}

// succeed takes over the tokens of e: the current one as the previous, and what was before that to be ended.
func (next *staticEntry) succeed(st *state, e *staticEntry, now time.Time) {
	next.Previous, next.Ended = nil, nil
	before := e.Ended
	if e.Previous != nil {
		before = append(before[:len(before):len(before)], *e.Previous)
	}
	for _, t := range before {
		if st.staticEnd(&t).After(now) {
			next.Ended = append(next.Ended, t)
		}
	}
	if end := st.staticEnd(&e.Current); !e.Current.ID.IsZero() && end.After(now) {
		previous := e.Current
		previous.Text, previous.Data = "", nil
		if previous.Until = now.Add(e.Overlap); end.Before(previous.Until) {
			previous.Until = end
		}
		next.Previous = &previous
	}
}

// putStatic stores a static role in place of old. Where it is not known whether storage has taken it, storage is asked.
func (b *backend) putStatic(ctx context.Context, s logical.Storage, st *state, old, next *staticEntry) error {
	if old == nil { // its role must be there until it is stored
		st.roles.Writing.Lock()
		defer st.roles.Writing.Unlock()
		r, err := st.roles.Latest(ctx, s, next.Role)
		if err != nil {
			return err
		}
		if r == nil || r.ID != next.Current.RoleID {
			return refusal.New("role %q was deleted meanwhile", next.Role)
		}
	}
	stored, err := st.statics.Latest(ctx, s, next.name)
	if err != nil {
		return err
	}
	if stored != old {
		return refusal.New("static role %q was changed meanwhile", next.name)
	}
	if err = st.statics.Put(ctx, s, next); err == nil {
		return nil
	}
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), upstream.RevokeWait)
	defer cancel()
	if stored, e := st.statics.Latest(asking, s, next.name); e == nil && stored != nil && stored.Current.ID == next.Current.ID && stored.Next.Equal(next.Next) {
		return nil
	}
	return err
}

// listStatic has the inventory list the current token of a static role: after a crash it may not.
func (b *backend) listStatic(st *state, e *staticEntry) {
	if _, listed := st.inventory.Get(e.Current.ID); !listed {
		st.inventory.Add(st.staticRow(e))
		b.flushSoon()
	}
}

// mintStatic makes a token of the engine's own.
func (b *backend) mintStatic(ctx context.Context, s logical.Storage, st *state, r *role.Role, e *staticEntry, now, end time.Time) (staticToken, error) {
	claims, err := newClaims(end.Sub(now), now)
	if err != nil {
		return staticToken{}, err
	}
	claims.Role, claims.RoleVersion, claims.Subject, claims.Grant = r.ID, r.Version, e.EntityID, claims.ID
	if claims.Metadata, err = r.MetadataFor(e.EntityID, b.System()); err != nil {
		return staticToken{}, err
	}
	c, err := st.config.get()
	if err != nil {
		return staticToken{}, err
	}
	i := &issuing{st: st, storage: s, config: c, role: r, mountPoint: e.MountPoint, lifetime: end.Sub(now)}
	text, err := i.access(ctx, claims)
	if err != nil {
		return staticToken{}, err
	}
	return staticToken{ID: claims.ID, Text: text, RoleID: r.ID, Version: r.Version, Key: i.key, RotatedAt: now, ExpiresAt: claims.ExpiresAt}, nil
}

// mintStaticUpstream makes a token of an upstream.
func (b *backend) mintStaticUpstream(ctx context.Context, st *state, r *role.Role, e *staticEntry, now, end time.Time) (staticToken, error) {
	order, err := st.connections.Order(r, e.MountPoint, now, end)
	if err != nil {
		return staticToken{}, refusal.New("%w", err)
	}
	order.StaticRole, order.Subject = e.name, e.EntityID
	made, err := b.upstreams.Mint(ctx, order)
	if err != nil {
		if errors.As(err, new(*connector.Error)) {
			err = fmt.Errorf("connection %q: no token was issued: %w", r.Connection, err)
		}
		return staticToken{}, err
	}
	return staticToken{
		ID: made.ID, Text: made.Text, RoleID: r.ID, Version: r.Version, Upstream: true, Name: made.Name, Data: made.Data, RotatedAt: now, ExpiresAt: made.End,
	}, nil
}

// settleStatic sees to it that the tokens before the current one end when they are to end. It does nothing that is
// done already.
func (b *backend) settleStatic(ctx context.Context, s logical.Storage, st *state, e *staticEntry) error {
	now := b.now()
	for i := range e.Ended {
		if err := b.endStatic(ctx, s, st, &e.Ended[i]); err != nil {
			return err
		}
	}
	t := e.Previous
	if t == nil || !st.staticEnd(t).After(t.Until) {
		return nil
	}
	if !now.Before(t.Until) {
		return b.endStatic(ctx, s, st, t)
	}
	if t.Upstream {
		return b.upstreams.Shorten(ctx, t.ID, t.Until)
	}
	err := st.deviations.Renew(ctx, s, t.ID, t.ExpiresAt, t.Until, now)
	if errors.Is(err, ledger.ErrRevoked) {
		return nil
	}
	return err
}

// endStatic revokes a token of a static role.
func (b *backend) endStatic(ctx context.Context, s logical.Storage, st *state, t *staticToken) error {
	if t.Upstream {
		return b.endUpstream(ctx, s, st, t.ID)
	}
	return st.revoke(ctx, s, t.ID, token.StatusRef{}, t.ExpiresAt)
}

// endStatics revokes all tokens of a static role, the current one last.
func (b *backend) endStatics(ctx context.Context, s logical.Storage, st *state, e *staticEntry) error {
	for _, t := range e.tokens() {
		if err := b.endStatic(ctx, s, st, &t); err != nil {
			return err
		}
	}
	return nil
}
