package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
)

// roleFields are the fields of a role.
var roleFields = map[string]*framework.FieldSchema{
	"name":                 {Type: framework.TypeString, Required: true, Description: "Name of the role."},
	"token_format":         preset(oneOf(field(framework.TypeString, "Token format", "Format of the tokens. \"opaque\": API servers check the token by introspection. \"jwt\": an RFC 9068 access token; API servers verify the token with the published keys. Default: opaque."), role.FormatOpaque, role.FormatJWT), role.FormatOpaque),
	"scopes":               field(framework.TypeCommaStringSlice, "Scopes", "Scopes of a token, unless the request names other scopes within allowed_scopes. A last segment * matches any: invoices:*."),
	"allowed_scopes":       field(framework.TypeCommaStringSlice, "Allowed scopes", "All scopes that a request may name. Default: scopes."),
	"audience":             field(framework.TypeCommaStringSlice, "Audience", "APIs that the token is for. An introspection with an audience accepts only tokens for that audience. Required with token_format=jwt. Default: any."),
	"ttl":                  field(framework.TypeDurationSecond, "TTL", "TTL of a token without renewal. Default: the mount's default lease TTL."),
	"max_ttl":              field(framework.TypeDurationSecond, "Maximum TTL", "Longest lifetime of a token, renewals included; at most the mount's maximum lease TTL. Default: the mount's maximum lease TTL."),
	"max_tokens":           field(framework.TypeInt, "Maximum live tokens", "Maximum number of live tokens of the role. A grant counts once, however often a token is refreshed or exchanged. Requires leases, except with connection. Default: 0, no limit."),
	"token_bound_cidrs":    field(framework.TypeCommaStringSlice, "Token bound CIDRs", "Addresses and CIDR ranges that the token may be used from. Default: anywhere."),
	"request_bound_cidrs":  field(framework.TypeCommaStringSlice, "Request bound CIDRs", "Addresses and CIDR ranges that creds may be read from. Default: anywhere."),
	"bound_hosts":          field(framework.TypeCommaStringSlice, "Bound hosts", "API hosts that the token is for, such as api.example.com or *.example.com. Default: any."),
	"bound_regions":        field(framework.TypeCommaStringSlice, "Bound regions", "Countries that the token may be used from: codes of ISO 3166-1 alpha-2 in upper case, such as DE or US. EU and EEA stand for their members. Default: any."),
	"require_bound_checks": field(framework.TypeBool, "Require bound checks", "States that all API servers check token_bound_cidrs, bound_regions and bound_hosts of a JWT, which ordinary JWT libraries ignore. A role of JWTs takes these three fields only with require_bound_checks. Default: false."),
	"rate_limit":           field(framework.TypeString, "Rate limit", "How often a token may be used: 100/1m, or 10/1s burst 50, with the window in s, m or h. Verifiers enforce the rate per token and process; the engine does not. Default: no limit."),
	"metadata":             field(framework.TypeKVPairs, "Metadata", "Key=value pairs that introspection returns. A value may be an identity template, such as {{identity.entity.name}}; the engine fills in the template when issuing the token. Default: none."),
	"description":          field(framework.TypeString, "Description", "Purpose of the role."),
	"allow_privileged":     field(framework.TypeBool, "Allow privileged scopes", "Allow the role to hold scopes that match the mount's privileged_scopes. Default: false."),
	"generate_lease":       preset(field(framework.TypeBool, "Generate lease", "Issue tokens under a lease. A JWT without a lease lives for at most 15m. The engine stores nothing of such a JWT, and status lists do not show its revocation. Default: true."), true),
	"refresh":              field(framework.TypeBool, "Refresh", "Issue short-lived tokens with access_ttl, and a refresh token for the next token at oauth/token, until the lease ends. Default: false."),
	"access_ttl":           field(framework.TypeDurationSecond, "Access TTL", "TTL of each short-lived token. Required with refresh."),
	"exchange":             field(framework.TypeBool, "Exchange", "Allow the holder of a token to exchange the token at oauth/token for a token with fewer permissions. Default: false."),
	"connection":           field(framework.TypeString, "Connection", "Connection whose service issues the tokens. The connection of a role cannot be changed. Default: none, native tokens."),
	"params":               field(framework.TypeMap, "Params", "Parameters of the tokens at the upstream service; the connection's provider defines the fields."),
	"reuse":                field(framework.TypeDurationSecond, "Reuse", "With connection: how long after its creation a token is issued to further requesters, each under a separate lease. The token is revoked with the last lease. Default: 0, no reuse."),
	"proof":                oneOf(field(framework.TypeString, "Proof", "Bind each token to a key that the request names: \"dpop\" by dpop_jkt (RFC 9449), \"mtls\" by x5t_s256 (RFC 8705). API servers check the proof. Default: none."), "", role.ProofDPoP, role.ProofMTLS),
}

func (b *backend) pathsRoles() []*framework.Path {
	return []*framework.Path{
		{
			Pattern:        "roles/" + framework.GenericNameRegex("name"),
			DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "role"},
			Fields:         roleFields,
			ExistenceCheck: b.exists(func(st *state, name string) bool { return st.Roles.Has(name) }),
			Operations: crud(
				b.answer(b.pathRolesRead, "Read a role.", ok(readFields(map[string]*framework.FieldSchema{
					"version": {Type: framework.TypeInt, Required: true, Description: "Version of the role's permissions: incremented by each change of the permissions."},
				}, roleFields, "name"))),
				b.change(b.pathRolesWrite, "Create or change a role. Omitted fields keep their values."),
				b.change(b.pathRolesDelete, "Delete a role and revoke all its tokens."),
			),
			HelpSynopsis: "The tokens that may be issued, and their permitted use.",
			HelpDescription: "A role defines what a token may be used for, where, and how long. Tightening a role also restricts the live tokens at once. " +
				"Widening a role does not extend live tokens. Deleting a role revokes its tokens, and a new role of the same name does not revive these tokens.",
		},
		b.listPath("roles", func(st *state) []string { return st.Roles.Names() }),
	}
}

func (b *backend) pathRolesRead(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	r := st.Roles.Get(name)
	if r == nil {
		return nil, refusal.Wrap(st.Roles.Broken(name))
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
		"bound_regions":        listed(r.BoundRegions),
		"require_bound_checks": r.RequireBoundChecks,
		"rate_limit":           r.RateLimit,
		"metadata":             mapped(r.Metadata),
		"description":          r.Description,
		"allow_privileged":     r.AllowPrivileged,
		"connection":           r.Connection,
		"params":               mapped(r.Params),
		"reuse":                int64(r.Reuse.Seconds()),
	}}, nil
}

// listed returns an empty list for nil: JSON shows [] instead of null.
func listed(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// mapped returns an empty map for nil: JSON shows {} instead of null.
func mapped[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

func (b *backend) pathRolesWrite(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r, err := st.WriteRole(ctx, req.Storage, &native.WriteRoleRequest{
		Name: d.Get("name").(string), Connection: given[string](d, "connection"), Given: slices.Collect(maps.Keys(d.Raw)),
		MountPoint: req.MountPoint, Upstreams: b.upstreams,
		Change: &role.Change{
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
			BoundRegions:       given[[]string](d, "bound_regions"),
			RequireBoundChecks: given[bool](d, "require_bound_checks"),
			Metadata:           given[map[string]string](d, "metadata"),
			Description:        given[string](d, "description"),
			AllowPrivileged:    given[bool](d, "allow_privileged"),
			GenerateLease:      given[bool](d, "generate_lease"),
			Refresh:            given[bool](d, "refresh"),
			AccessTTL:          givenSeconds(d, "access_ttl"),
			Exchange:           given[bool](d, "exchange"),
			Proof:              given[string](d, "proof"),
			RateLimit:          given[string](d, "rate_limit"),
			Params:             given[map[string]any](d, "params"),
			Reuse:              givenSeconds(d, "reuse"),
		},
	})
	if err != nil {
		return nil, err
	}
	if mountMax := b.System().MaxLeaseTTL(); r.MaxTTL > mountMax || r.TTL > mountMax {
		return warned([]string{fmt.Sprintf("tokens will live for at most %s, the maximum lease TTL of the mount, which is less than the role says", refusal.Short(mountMax))}, nil)
	}
	return nil, nil
}

func (b *backend) pathRolesDelete(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, st.DeleteRole(ctx, req.Storage, d.Get("name").(string), func(r *role.Role) error {
		if err := st.statics.ReloadAll(ctx, req.Storage); err != nil {
			return err
		}
		if keeper := static.OfRole(st.statics, r.Name()); keeper != nil {
			return refusal.Field("name", "static role %q keeps a token of role %q: delete the static role first", keeper.Name(), r.Name())
		}
		return nil
	}, b.upstreams)
}
