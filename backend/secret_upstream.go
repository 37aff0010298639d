package backend

import (
	"context"
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
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// secretTypeUpstream is the type of the leases of tokens of upstreams. It stays registered for ever.
const secretTypeUpstream = "upstream_token"

// upstreamLease is what a lease remembers of its token; what is needed to revoke it is in storage.
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

// credsUpstream issues a token of the service that the role's connection leads to.
func (b *backend) credsUpstream(ctx context.Context, req *logical.Request, d *framework.FieldData, st *state, r *role.Role) (*logical.Response, error) {
	for field := range d.Raw {
		if field != "role" && field != "ttl" {
			return nil, refusal.Field(field, "is for the engine's own tokens; role %q issues those of connection %q, which its params narrow", r.Name(), r.Connection)
		}
	}
	ttl, lifetime, warnings, err := b.lifetimes(r, d)
	if err != nil {
		return nil, err
	}
	now := b.now().UTC()
	order, err := st.connections.Order(r, req.MountPoint, now, now.Add(ttl))
	if err != nil {
		return nil, refusal.New("%w", err)
	}
	order.Subject = req.EntityID

	var room *role.Place // of a token that is made, not of one that is given again
	defer func() { room.GiveUp() }()
	order.Reserve = func() (err error) {
		if room == nil {
			room, err = b.reserve(st, r)
		}
		return err
	}
	order.Reuse = r.Reuse
	made, err := b.upstreams.Issue(ctx, order)
	if err != nil {
		if errors.As(err, new(*connector.Error)) {
			return nil, refusal.New("connection %q: no token was issued: %s", r.Connection, err)
		}
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(made.Granted)) {
		warnings = append(warnings, fmt.Sprintf("%s: the upstream granted %v, not %v as the role asks for", name, made.Granted[name], r.Params[name]))
	}
	if made.End.Before(order.End) {
		ttl = made.End.Sub(now).Truncate(time.Second)
		warnings = append(warnings, fmt.Sprintf("ttl: the upstream lets the token live for no longer than %s", refusal.Short(ttl)))
	}

	data := map[string]any{
		"token":      made.Text,
		"token_id":   made.ID.String(),
		"name":       made.Name,
		"connection": r.Connection,
		"expires_at": made.End.Format(time.RFC3339),
	}
	if len(made.Data) > 0 {
		data["upstream"] = made.Data
	}
	room.Fill(func() {
		st.Inventory.Add(ledger.Row{
			ID: made.ID, IssuedAt: now.Truncate(time.Second), ExpiresAt: made.End.Truncate(time.Second),
			Holder: ledger.Holder{Role: r.Name(), RoleID: r.ID, RoleVersion: r.Version, Subject: req.EntityID, DisplayName: req.DisplayName},
		})
	})
	b.flushSoon()
	if r.NoLease {
		return &logical.Response{Data: data, Warnings: warnings}, nil
	}
	l := &upstreamLease{leaseTerms: leaseTerms{ttl: ttl, lifetime: lifetime}, id: made.ID, hold: made.Hold}
	resp := b.Secret(secretTypeUpstream).Response(data, l.internalData())
	resp.Secret.TTL = ttl
	resp.Secret.MaxTTL = lifetime
	resp.Secret.Renewable = order.Connection.Service.Provider.CanRenew()
	resp.Warnings = warnings
	return resp, nil
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
	refused := func(format string, args ...any) (*logical.Response, error) {
		return nil, refusal.New("the token cannot be renewed: %s", fmt.Sprintf(format, args...))
	}
	t, known, err := st.upstreams.Find(ctx, l.id)
	if err != nil {
		return nil, err
	}
	if !known || t.State != upstream.Live {
		return refused("it is revoked")
	}
	r := st.Roles.ByID(t.RoleID)
	if r == nil {
		return nil, refusal.New("role %q was deleted after the token was issued: it cannot be renewed", t.Role)
	}
	up, err := st.connections.ServiceOf(&t)
	if err != nil {
		return refused("%s", err)
	}
	if !up.Provider.CanRenew() {
		return refused("provider %q cannot move the end of a token", up.Provider.Name)
	}
	ttl, maxTTL, err := b.renewal(req.Secret, l.leaseTerms, r)
	if err != nil {
		return refused("%s", err)
	}
	now := b.now().UTC()
	end, err := b.upstreams.Renew(ctx, l.id, l.hold, now, now.Add(ttl))
	switch {
	case errors.Is(err, upstream.ErrEnded):
		return refused("it is revoked")
	case errors.As(err, new(*connector.Error)):
		return nil, refusal.New("connection %q: the token was not renewed: %s", up.Connection, err)
	case err != nil:
		return nil, err
	}
	if ttl = min(ttl, end.Sub(now).Truncate(time.Second)); ttl <= 0 {
		return refused("the service ends it at %s", end.Format(time.RFC3339))
	}
	return renewed(req.Secret, ttl, maxTTL), nil
}

// upstreamRevoke revokes the token, or leaves that to the queue: Vault would give up after some tries.
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
		return nil, b.upstreams.Unhold(ctx, l.id, l.hold)
	}
	return nil, b.endUpstream(ctx, req.Storage, st, l.id)
}

// userAgent names the plugin and its version to upstreams.
func userAgent() string {
	return "vault-plugin-secrets-apitoken/" + strings.TrimPrefix(Version, "v") + " (+https://github.com/vault-apitoken/vault-plugin-secrets-apitoken)"
}
