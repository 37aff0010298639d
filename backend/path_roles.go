package backend

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

func (b *backend) pathsRoles() []*framework.Path {
	fields := map[string]*framework.FieldSchema{
		"name": {
			Type:        framework.TypeString,
			Description: "Name of the role.",
			Required:    true,
		},
		"token_format": {
			Type:          framework.TypeString,
			Description:   "Format of the tokens. \"opaque\": meaningless to anybody but the engine, checked by introspection. \"jwt\": an RFC 9068 access token, which API servers verify with the published keys. Default: opaque.",
			AllowedValues: []any{role.FormatOpaque, role.FormatJWT},
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Token format", Value: role.FormatOpaque},
		},
		"scopes": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Scopes of a token, unless the request names fewer or others of allowed_scopes. A last segment * stands for any: invoices:*.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Scopes"},
		},
		"allowed_scopes": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The most that a request may ask for. Default: scopes.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed scopes"},
		},
		"audience": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "APIs that the token is for. An introspection with an audience accepts only tokens for that audience. Required with token_format=jwt. Default: any.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Audience"},
		},
		"ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long a token lives before its lease must be renewed. Default: the mount's default lease TTL.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "TTL"},
		},
		"max_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long a token can live, renewals included. Default: the mount's maximum lease TTL, which also caps it.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Maximum TTL"},
		},
		"max_tokens": {
			Type:         framework.TypeInt,
			Description:  "How many tokens of the role may be alive at once. A grant counts once, whatever is refreshed or exchanged. Needs leases, except with connection. Default: 0, no limit.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Maximum live tokens"},
		},
		"token_bound_cidrs": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Addresses and CIDR ranges that the token may be used from. Default: anywhere.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Token bound CIDRs"},
		},
		"request_bound_cidrs": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Addresses and CIDR ranges that creds may be read from. Default: anywhere.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Request bound CIDRs"},
		},
		"bound_hosts": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "API hosts that the token is for, such as api.example.com or *.example.com. Default: any.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Bound hosts"},
		},
		"require_bound_checks": {
			Type:         framework.TypeBool,
			Description:  "States that all API servers check token_bound_cidrs and bound_hosts of a JWT, which ordinary JWT libraries ignore. A role of JWTs takes these two fields only with it. Default: false.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Require bound checks"},
		},
		"metadata": {
			Type:         framework.TypeKVPairs,
			Description:  "Key=value pairs that introspection returns. A value may be an identity template, such as {{identity.entity.name}}, filled in when the token is issued.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Metadata"},
		},
		"description": {
			Type:         framework.TypeString,
			Description:  "What the role is for.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Description"},
		},
		"allow_privileged": {
			Type:         framework.TypeBool,
			Description:  "Allow the role to hold scopes that match the mount's privileged_scopes. Default: false.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Allow privileged scopes"},
		},
		"generate_lease": {
			Type:         framework.TypeBool,
			Description:  "Issue under a lease. A JWT without a lease lives for at most 15m, nothing is stored of it, and status lists do not show its revocation. Default: true.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Generate lease", Value: true},
		},
		"refresh": {
			Type:         framework.TypeBool,
			Description:  "Issue short tokens of access_ttl, and a refresh token that gets the next one at oauth/token until the lease ends. Default: false.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Refresh"},
		},
		"access_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long each short token lives. Required with refresh.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Access TTL"},
		},
		"exchange": {
			Type:         framework.TypeBool,
			Description:  "Allow whoever holds a token to exchange it at oauth/token for one that grants less. Default: false.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Exchange"},
		},
		"connection": {
			Type:         framework.TypeString,
			Description:  "Issue tokens of the service of this connection. It cannot be changed. Default: none; the engine issues its own tokens.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Connection"},
		},
		"params": {
			Type:         framework.TypeMap,
			Description:  "What to ask the upstream service for, as the connection's provider says.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Params"},
		},
		"reuse": {
			Type:         framework.TypeDurationSecond,
			Description:  "With connection: how long after its creation a token is given to further requesters, each under a lease of its own. The token is revoked with the last lease. Default: never.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Reuse"},
		},
		"proof": {
			Type:          framework.TypeString,
			Description:   "Bind each token to a key that the request names: \"dpop\" by dpop_jkt (RFC 9449), \"mtls\" by x5t_s256 (RFC 8705). API servers check the proof. Default: none.",
			AllowedValues: []any{"", role.ProofDPoP, role.ProofMTLS},
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Proof"},
		},
	}
	return []*framework.Path{
		{
			Pattern:        "roles/" + framework.GenericNameRegex("name"),
			DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "role"},
			Fields:         fields,
			ExistenceCheck: b.exists(func(st *state, name string) bool { return st.Roles.Has(name) }),
			Operations: kept(
				&framework.PathOperation{
					Callback:  b.pathRolesRead,
					Summary:   "Read a role.",
					Responses: ok(roleResponseFields(fields)),
				},
				change(b.pathRolesWrite, "Create or change a role; what is not given stays as it is."),
				change(b.pathRolesDelete, "Delete a role and revoke all its tokens."),
			),
			HelpSynopsis: "What may be issued, and how it may be used.",
			HelpDescription: "A role says what a token may be used for, where, and how long it lives. Introspection applies a tightened role at once to the tokens " +
				"that are out; widening a role does not widen them. Deleting a role revokes its tokens, and a new role of the same name does not revive them.",
		},
		b.listPath("roles", func(st *state) []string { return st.Roles.Names() }),
	}
}

// roleResponseFields are the fields of a role as it is read: those it is written with, and its version.
func roleResponseFields(written map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"version": {Type: framework.TypeInt, Required: true, Description: "Counts the changes of what the role grants."},
	}
	for name, field := range written {
		if name == "name" {
			continue
		}
		shown := &framework.FieldSchema{Type: field.Type, Required: true, Description: field.Description}
		if shown.Type == framework.TypeCommaStringSlice {
			shown.Type = framework.TypeStringSlice
		}
		fields[name] = shown
	}
	return fields
}

func (b *backend) pathRolesRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	r := st.Roles.Get(name)
	if r == nil {
		return unreadable(st.Roles.Broken(name))
	}
	return &logical.Response{Data: map[string]any{
		"version":              int(r.Version),
		"token_format":         r.TokenFormat,
		"generate_lease":       !r.NoLease,
		"refresh":              r.Refresh,
		"access_ttl":           int64(r.AccessTTL.Seconds()),
		"exchange":             r.Exchange,
		"proof":                r.Proof,
		"scopes":               listed(r.Scopes),
		"allowed_scopes":       listed(r.AllowedScopes),
		"audience":             listed(r.Audience),
		"ttl":                  int64(r.TTL.Seconds()),
		"max_ttl":              int64(r.MaxTTL.Seconds()),
		"max_tokens":           r.MaxTokens,
		"token_bound_cidrs":    listed(r.TokenBoundCIDRs),
		"request_bound_cidrs":  listed(r.RequestBoundCIDRs),
		"bound_hosts":          listed(r.BoundHosts),
		"require_bound_checks": r.RequireBoundChecks,
		"metadata":             mapped(r.Metadata),
		"description":          r.Description,
		"allow_privileged":     r.AllowPrivileged,
		"connection":           r.Connection,
		"params":               mapped(r.Params),
		"reuse":                int64(r.Reuse.Seconds()),
	}}, nil
}

// listed shows an empty list as one, not as null.
func listed(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// mapped shows an empty map as one, not as null.
func mapped[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

func (b *backend) pathRolesWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	if len(name) > role.MaxNameLen {
		return nil, refusal.Field("name", "is %d bytes long, at most %d are allowed", len(name), role.MaxNameLen)
	}
	st.Roles.Writing.Lock()
	defer st.Roles.Writing.Unlock()

	entry := role.Entry{TokenFormat: role.FormatOpaque}
	old, err := st.Roles.Latest(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if old != nil {
		entry = old.Entry
	}
	if v, given := d.GetOk("connection"); given && old != nil && v.(string) != old.Connection {
		return nil, refusal.Field("connection", "of role %q is %q and cannot be changed: delete the role and write another", name, old.Connection)
	} else if given {
		entry.Connection = v.(string)
	}
	if err := changeRole(&entry, d, st.connections); err != nil {
		return nil, err
	}
	if field, err := entry.CheckSize(); field != "" {
		return nil, refusal.Field(field, "%s", err)
	} else if err != nil {
		return nil, err
	}
	if old == nil {
		if entry.ID, err = token.NewRoleID(rand.Reader); err != nil {
			return nil, err
		}
		entry.Version, entry.Since = 1, b.now().UTC()
	} else if err := entry.Succeed(&old.Entry, st.LongestOf(&old.Entry), b.now().UTC()); err != nil {
		return nil, err
	}
	r, err := role.New(name, entry)
	if err != nil {
		return nil, err
	}
	if err := b.checkNative(ctx, req, st, r); err != nil {
		return nil, err
	}
	if err := b.dropBrokenRole(ctx, req.Storage, st, name); err != nil { // whose tokens end, as it were deleted
		return nil, err
	}
	if err := st.Roles.Put(ctx, req.Storage, r); err != nil {
		return nil, err
	}

	if mountMax := b.System().MaxLeaseTTL(); r.MaxTTL > mountMax || r.TTL > mountMax {
		resp := new(logical.Response)
		resp.AddWarning(fmt.Sprintf("tokens will live for at most %s, the maximum lease TTL of the mount, which is less than the role says", refusal.Short(mountMax)))
		return resp, nil
	}
	return nil, nil
}

// changeRole applies a request to a role.
func changeRole(entry *role.Entry, d *framework.FieldData, connections *upstream.Connections) error {
	change := &role.Change{
		TokenFormat:        given[string](d, "token_format"),
		Scopes:             given[[]string](d, "scopes"),
		AllowedScopes:      given[[]string](d, "allowed_scopes"),
		Audience:           given[[]string](d, "audience"),
		TTL:                givenSeconds(d, "ttl"),
		MaxTTL:             givenSeconds(d, "max_ttl"),
		MaxTokens:          given[int](d, "max_tokens"),
		TokenBoundCIDRs:    given[[]string](d, "token_bound_cidrs"),
		RequestBoundCIDRs:  given[[]string](d, "request_bound_cidrs"),
		BoundHosts:         given[[]string](d, "bound_hosts"),
		RequireBoundChecks: given[bool](d, "require_bound_checks"),
		Metadata:           given[map[string]string](d, "metadata"),
		Description:        given[string](d, "description"),
		AllowPrivileged:    given[bool](d, "allow_privileged"),
		GenerateLease:      given[bool](d, "generate_lease"),
		Refresh:            given[bool](d, "refresh"),
		AccessTTL:          givenSeconds(d, "access_ttl"),
		Exchange:           given[bool](d, "exchange"),
		Proof:              given[string](d, "proof"),
		Params:             given[map[string]any](d, "params"),
		Reuse:              givenSeconds(d, "reuse"),
	}
	if entry.Connection == "" {
		return entry.Change(change)
	}
	if !connections.Has(entry.Connection) {
		return refusal.Field("connection", "there is no connection %q", refusal.Clip(entry.Connection))
	}
	service, err := connections.Service(entry.Connection)
	if err != nil {
		return refusal.Field("connection", "%s", err)
	}
	for field := range d.Raw {
		if !slices.Contains(role.ConnectionFields, field) {
			return refusal.Field(field, "is for the engine's own tokens; a role with a connection has %s", strings.Join(role.ConnectionFields, ", "))
		}
	}
	return entry.ChangeConnected(change, func(params map[string]any) (map[string]any, error) {
		values, err := connector.Values(service.Provider.Params, params)
		if err != nil {
			return nil, fmt.Errorf("%w (provider %q)", err, service.Provider.Name)
		}
		return values, nil
	})
}

// checkNative refuses a role of native tokens that could issue none.
func (b *backend) checkNative(ctx context.Context, req *logical.Request, st *state, r *role.Role) error {
	stored, err := native.ReadConfig(ctx, req.Storage) // which another process may have changed
	if err != nil {
		return err
	}
	c, err := stored.Get()
	if err != nil {
		return err
	}
	if err := r.Privileged(c.PrivilegedScopes); err != nil {
		return err
	}
	if r.TokenFormat != role.FormatJWT {
		return nil
	}
	if c.Issuer == "" {
		return refusal.Field("token_format", "JWTs need an issuer: vault write %sconfig issuer=<URL of this mount, such as https://vault.example.com:8200/v1/%s>",
			req.MountPoint, strings.TrimSuffix(req.MountPoint, "/"))
	}
	return st.Prepare(ctx, req.Storage, c, r, req.MountPoint)
}

func (b *backend) pathRolesDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	r, err := b.dropRole(ctx, req.Storage, st, d.Get("name").(string))
	if r == nil || err != nil {
		return nil, err
	}
	// Nobody is kept from other roles meanwhile. If this is cut short, the queue completes it.
	return nil, b.upstreams.EndRole(ctx, r.ID)
}

// dropRole deletes a role. It returns nil where there is no role that can be read.
func (b *backend) dropRole(ctx context.Context, s logical.Storage, st *state, name string) (*role.Role, error) {
	st.Roles.Writing.Lock()
	defer st.Roles.Writing.Unlock()
	r, err := st.Roles.Latest(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, b.dropBrokenRole(ctx, s, st, name)
	}
	if err := st.statics.ReloadAll(ctx, s); err != nil {
		return nil, err
	}
	if keeper := static.OfRole(st.statics, r.Name()); keeper != nil {
		return nil, refusal.Field("name", "static role %q keeps a token of role %q: delete it first", keeper.Name(), r.Name())
	}
	// Status lists show the tokens as revoked once the role is gone, too, however this is cut short.
	if err := st.DeletedRoles.Add(ctx, s, r.ID, b.now().Add(st.LongestOf(new(role.Entry)))); err != nil {
		return nil, err
	}
	if err := st.Roles.Delete(ctx, s, r.Name()); err != nil {
		return nil, err
	}
	st.DeletedRoles.Changed()
	b.limits.Forget(r.ID)
	return r, nil
}
