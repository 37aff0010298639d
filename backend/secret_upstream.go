package backend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// secretTypeUpstream is the type of the leases of tokens of upstreams. It stays registered for ever.
const secretTypeUpstream = "upstream_token"

const (
	// createAttempts is how often a token is asked for whose creation ended unsure, under another name
	// each time.
	createAttempts = 3

	// revokeWait is how long Vault waits for an upstream to end a token before the queue takes it over.
	revokeWait = 10 * time.Second
)

// upstreamLease is what a lease remembers of its token; what is needed to end it is in the ledger.
type upstreamLease struct {
	leaseTerms
	id   token.ID
	hold string // what it calls itself, where the token is shared; "": it is not
}

func (l *upstreamLease) internalData() map[string]any {
	return l.leaseTerms.internalData(map[string]any{"token_id": l.id.String(), "hold": l.hold})
}

func parseUpstreamLease(secret *logical.Secret) (*upstreamLease, error) {
	terms, text, err := parseLeaseTerms(secret)
	if err != nil {
		return nil, err
	}
	l := &upstreamLease{leaseTerms: terms, hold: text("hold")}
	if l.id, err = token.ParseID(text("token_id")); err != nil {
		return nil, fmt.Errorf("the lease's token_id: %w", err)
	}
	return l, nil
}

func (b *backend) secretUpstream() *framework.Secret {
	return &framework.Secret{
		Type: secretTypeUpstream,
		Fields: map[string]*framework.FieldSchema{
			"token": {Type: framework.TypeString, Description: "API token of the upstream service"},
		},
		Renew:  b.upstreamRenew,
		Revoke: b.upstreamRevoke,
	}
}

// credsUpstream issues a token of the upstream that the role's connection leads to.
func (b *backend) credsUpstream(ctx context.Context, req *logical.Request, d *framework.FieldData, st *state, r *role) (*logical.Response, error) {
	for field := range d.Raw {
		if field != "role" && field != "ttl" {
			return fieldError(field, "is for the engine's own tokens; role %q issues those of connection %q, which its params narrow", r.name, r.Connection), nil
		}
	}
	c := st.connections.get(r.Connection)
	up, err := st.connections.upstream(r.Connection, c)
	if err != nil {
		return logical.ErrorResponse("role %q: %s", r.name, err), nil
	}
	ttl, lifetime, warnings, refusal, err := b.lifetimes(r, d)
	if refusal != nil || err != nil {
		return refusal, err
	}

	now := b.now().UTC()
	end := now.Add(ttl)
	var made *ledger.Upstream
	var hold string
	var room *place // of a token that is made, not of one that is given again
	defer func() { room.giveUp() }()
	reserve := func() (err error) {
		if room == nil {
			room, err = b.limits.reserve(st, r, now)
		}
		return err
	}
	if r.Reuse > 0 {
		made, hold, err = b.sharedUpstream(ctx, req, st, c, up, r, reserve, now, end)
	} else if err = reserve(); err == nil {
		var minted *connector.Created
		if made, minted, err = b.mintUpstream(ctx, req, st, c, up, r, "", now, end); err == nil {
			made.Text, made.Data = minted.Text, minted.Data // of which the ledger keeps what it needs
			for _, name := range slices.Sorted(maps.Keys(minted.Granted)) {
				warnings = append(warnings, fmt.Sprintf("%s: the upstream granted %v, not %v as the role asks for", name, minted.Granted[name], r.Params[name]))
			}
		}
	}
	if err != nil {
		if errors.As(err, new(*fullError)) {
			return logical.ErrorResponse(err.Error()), nil
		}
		if errors.As(err, new(*connector.Error)) {
			return logical.ErrorResponse("connection %q: no token was issued: %s", c.name, err), nil
		}
		return nil, err
	}
	if made.TokenEnd.After(now) && made.TokenEnd.Before(end) {
		end = made.TokenEnd
		ttl = max(time.Second, end.Sub(now).Truncate(time.Second))
		warnings = append(warnings, fmt.Sprintf("ttl: the upstream lets the token live for no longer than %s", short(ttl)))
	}

	data := map[string]any{
		"token":      made.Text,
		"token_id":   made.ID.String(),
		"name":       made.Name,
		"connection": c.name,
		"expires_at": end.Format(time.RFC3339),
	}
	if len(made.Data) > 0 {
		data["upstream"] = made.Data
	}
	room.fill(func() {
		st.inventory.Add(ledger.Row{
			ID: made.ID, IssuedAt: now.Truncate(time.Second), ExpiresAt: end.Truncate(time.Second),
			Holder: ledger.Holder{Role: r.name, RoleID: r.ID, RoleVersion: r.Version, Subject: req.EntityID, DisplayName: req.DisplayName},
		})
	})
	b.flushSoon()
	if r.NoLease {
		return &logical.Response{Data: data, Warnings: warnings}, nil
	}
	l := &upstreamLease{leaseTerms: leaseTerms{ttl: ttl, lifetime: lifetime}, id: made.ID, hold: hold}
	resp := b.Secret(secretTypeUpstream).Response(data, l.internalData())
	resp.Secret.TTL = ttl
	resp.Secret.MaxTTL = lifetime
	resp.Secret.Renewable = up.Provider.CanRenew()
	resp.Warnings = warnings
	return resp, nil
}

// sharedUpstream gives the token that others of the role have too, if it is young enough, under a lease of its
// own; and else mints the next one, once for all who ask at the same time.
func (b *backend) sharedUpstream(ctx context.Context, req *logical.Request, st *state, c *connection, up *connector.Upstream, r *role, reserve func() error, now, end time.Time) (*ledger.Upstream, string, error) {
	id, err := token.NewID(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	hold := id.String()
	for ctx.Err() == nil {
		u, found := st.upstreams.Young(r.ID, r.Params, now.Add(-r.Reuse))
		if found {
			_, err := st.upstreams.Hold(ctx, req.Storage, u.ID, hold, end)
			if errors.Is(err, ledger.ErrEnded) {
				continue // just now
			}
			return &u, hold, err
		}
		_, err, _ := b.minting.Do(r.ID.String(), func() (any, error) {
			if err := reserve(); err != nil {
				return nil, err
			}
			// Whoever gets it last is to have it for as long as whoever gets it first.
			shared := context.WithoutCancel(ctx)
			_, _, err := b.mintUpstream(shared, req, st, c, up, r, "", now, end.Add(r.Reuse))
			return nil, err
		})
		if err != nil {
			return nil, "", err
		}
	}
	return nil, "", ctx.Err()
}

// mintUpstream creates a token. The ledger knows of it before the upstream does, so that whatever is cut
// short, the reaper finds the token by its name and ends it. StaticRole is what holds it in place of a lease.
func (b *backend) mintUpstream(ctx context.Context, req *logical.Request, st *state, c *connection, up *connector.Upstream, r *role, staticRole string, now, end time.Time) (*ledger.Upstream, *connector.Created, error) {
	started := b.now()
	for attempt := 1; ; attempt++ {
		made, minted, err := b.tryMint(ctx, req, st, c, up, r, staticRole, now, end)
		var e *connector.Error
		again := errors.As(err, &e) && e.Unsure && attempt < createAttempts && ctx.Err() == nil && b.now().Sub(started) < up.Client.Timeout()/2
		if !again {
			return made, minted, err
		}
	}
}

func (b *backend) tryMint(ctx context.Context, req *logical.Request, st *state, c *connection, up *connector.Upstream, r *role, staticRole string, now, end time.Time) (*ledger.Upstream, *connector.Created, error) {
	name, err := c.newName(req.MountPoint, r.name, up.Provider.MaxName)
	if err != nil {
		return nil, nil, err
	}
	id, err := token.NewID(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	b.reaper.begin(id)
	defer b.reaper.watch()
	defer b.reaper.done(id)
	u := ledger.Upstream{
		ID: id, State: ledger.Creating, Connection: c.name, ConnectionID: c.ID, Role: r.name, RoleID: r.ID,
		Name: name, Params: r.Params, CreatedAt: b.now().UTC(), EndsAt: end, Leaseless: r.NoLease || staticRole != "", StaticRole: staticRole,
		Shared: r.Reuse > 0 && staticRole == "",
	}
	if err := st.upstreams.Put(ctx, req.Storage, u); err != nil {
		return nil, nil, err
	}
	minted, err := up.Create(ctx, name, r.name, r.Params, now, end)
	if err != nil {
		if e := (*connector.Error)(nil); errors.As(err, &e) && !e.Unsure {
			// There is surely no token. If this fails, the reaper finds out.
			if err := st.upstreams.Delete(ctx, req.Storage, id); err != nil {
				b.Logger().Warn("a token that was not created is still in the ledger, until it is found not to exist", "name", name, "error", err)
			}
		}
		return nil, nil, err
	}

	u.State, u.UpstreamID, u.Record = ledger.Live, minted.ID, minted.Record
	u.Hash = ledger.HashOf(minted.Text)
	if up.Provider.RevokeNeedsToken() || u.Shared {
		u.Text = minted.Text
	}
	if u.Shared {
		u.Data = minted.Data
	}
	if u.TokenEnd = minted.ExpiresAt.UTC(); minted.ExpiresAt.IsZero() {
		u.TokenEnd = time.Time{}
	} else if u.TokenEnd.Before(end) {
		u.EndsAt = u.TokenEnd
	}
	err = st.upstreams.Put(ctx, req.Storage, u)
	deleted := err == nil && (st.connections.byID(c.ID) == nil || st.roles.byID(r.ID) == nil)
	if deleted {
		err = &connector.Error{Message: "the role or its connection was deleted meanwhile"}
	}
	if err != nil {
		// It is ended at once if it can be. Else the reaper tries again, unless the connection is gone.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeWait)
		defer cancel()
		revokeErr := settled(up.Revoke(ending, &minted.Token))
		switch {
		case revokeErr != nil:
			b.Logger().Warn("a token that nobody gets was not ended either", "connection", c.name, "name", name, "error", revokeErr)
			if deleted {
				err = errors.Join(err, st.upstreams.End(ending, req.Storage, id, b.now().UTC()))
			}
		case deleted:
			err = errors.Join(err, st.upstreams.Delete(ending, req.Storage, id))
		}
		return nil, nil, err
	}
	return &u, minted, nil
}

// upstreamRenew moves the end of the token to the end that the lease will have.
func (b *backend) upstreamRenew(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	l, err := parseUpstreamLease(req.Secret)
	if err != nil {
		return nil, err
	}
	u, known := st.upstreams.Get(l.id)
	if !known || u.State != ledger.Live {
		return logical.ErrorResponse("the token cannot be renewed: it is revoked"), nil
	}
	r := st.roles.byID(u.RoleID)
	if r == nil {
		return logical.ErrorResponse("role %q was deleted after the token was issued: it cannot be renewed", u.Role), nil
	}
	up, err := st.connections.upstream(u.Connection, st.connections.byID(u.ConnectionID))
	if err != nil {
		return logical.ErrorResponse("the token cannot be renewed: %s", err), nil
	}
	if !up.Provider.CanRenew() {
		return logical.ErrorResponse("the token cannot be renewed: provider %q cannot move the end of a token", up.Provider.Name), nil
	}
	ttl, maxTTL, err := b.renewal(req.Secret, l.leaseTerms, r)
	if err != nil {
		return logical.ErrorResponse("the token cannot be renewed: %s", err), nil
	}
	now := b.now().UTC()
	told, err := up.Renew(ctx, tokenAt(&u), now, now.Add(ttl))
	if err != nil {
		return logical.ErrorResponse("connection %q: the token was not renewed: %s", up.Connection, err), nil
	}
	end := now.Add(ttl)
	if !told.IsZero() && told.Before(end) {
		end = told.UTC()
		ttl = max(time.Second, end.Sub(now).Truncate(time.Second))
	}
	if l.hold != "" {
		_, err = st.upstreams.Hold(ctx, req.Storage, l.id, l.hold, end)
	} else {
		u.EndsAt = end
		err = st.upstreams.Put(ctx, req.Storage, u)
	}
	if errors.Is(err, ledger.ErrEnded) {
		return logical.ErrorResponse("the token cannot be renewed: it is revoked"), nil
	}
	if err != nil {
		return nil, err
	}
	return renewed(req.Secret, ttl, maxTTL), nil
}

// upstreamRevoke ends the token, or leaves that to the queue: Vault would give up after some tries.
func (b *backend) upstreamRevoke(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	l, err := parseUpstreamLease(req.Secret)
	if err != nil {
		return nil, err
	}
	if l.hold != "" {
		left, err := st.upstreams.Hold(ctx, req.Storage, l.id, l.hold, time.Time{})
		if err == nil && left == 0 {
			b.reaper.kick() // which ends it
		}
		if errors.Is(err, ledger.ErrEnded) {
			err = nil
		}
		return nil, err
	}
	return nil, b.endUpstream(ctx, req.Storage, st, l.id)
}

// endUpstream ends a token now if the upstream can be reached, and else as soon as it can.
func (b *backend) endUpstream(ctx context.Context, s logical.Storage, st *state, id token.ID) error {
	u, known := st.upstreams.Get(id)
	if !known || u.State != ledger.Live {
		return nil
	}
	if !b.reaper.down(u.ConnectionID) {
		up, err := st.connections.upstream(u.Connection, st.connections.byID(u.ConnectionID))
		if err == nil {
			trying, cancel := context.WithTimeout(ctx, revokeWait)
			err = settled(up.Revoke(trying, tokenAt(&u)))
			cancel()
		}
		if err == nil {
			return st.upstreams.Delete(ctx, s, id)
		}
		b.Logger().Warn("a token was not ended, its revocation is queued", "connection", u.Connection, "name", u.Name, "error", err)
	}
	if err := st.upstreams.End(ctx, s, id, b.now().UTC()); err != nil {
		return err
	}
	b.reaper.kick()
	return nil
}

// userAgent names the plugin and its version to upstreams.
func userAgent() string {
	return "vault-plugin-secrets-apitoken/" + strings.TrimPrefix(Version, "v") + " (+https://github.com/vault-apitoken/vault-plugin-secrets-apitoken)"
}
