package backend

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/custommetadata"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	maxRoleNameLen    = 128
	maxDescriptionLen = 1024
	maxAudienceLen    = 512
	maxAudiences      = 100

	formatOpaque = "opaque"
	formatJWT    = "jwt"

	proofDPoP = "dpop"
	proofMTLS = "mtls"

	// maxLeaselessTTL is how long a token may live that no lease can end.
	maxLeaselessTTL = 15 * time.Minute
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
			AllowedValues: []any{formatOpaque, formatJWT},
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Token format", Value: formatOpaque},
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
			AllowedValues: []any{"", proofDPoP, proofMTLS},
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Proof"},
		},
	}
	return []*framework.Path{
		{
			Pattern:        "roles/" + framework.GenericNameRegex("name"),
			DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "role"},
			Fields:         fields,
			ExistenceCheck: b.exists(func(st *state, name string) bool { return st.roles.has(name) }),
			Operations: kept(
				&framework.PathOperation{
					Callback:  b.roleRead,
					Summary:   "Read a role.",
					Responses: ok(roleResponseFields(fields)),
				},
				change(b.roleWrite, "Create or change a role; what is not given stays as it is."),
				change(b.roleDelete, "Delete a role and revoke all its tokens."),
			),
			HelpSynopsis: "What may be issued, and how it may be used.",
			HelpDescription: "A role says what a token may be used for, where, and how long it lives. Introspection applies a tightened role at once to the tokens " +
				"that are out; widening a role does not widen them. Deleting a role revokes its tokens, and a new role of the same name does not revive them.",
		},
		b.listPath("roles", func(st *state) []string { return st.roles.names() }),
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

func (b *backend) roleRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	r := st.roles.get(name)
	if r == nil {
		return unreadable(st.roles.broken(name))
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

func (b *backend) roleWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	if len(name) > maxRoleNameLen {
		return fieldError("name", "is %d bytes long, at most %d are allowed", len(name), maxRoleNameLen), nil
	}
	st.roles.writing.Lock()
	defer st.roles.writing.Unlock()

	entry := roleEntry{TokenFormat: formatOpaque}
	old, err := st.roles.latest(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if old != nil {
		entry = old.roleEntry
	}
	if v, given := d.GetOk("connection"); given && old != nil && v.(string) != old.Connection {
		return fieldError("connection", "of role %q is %q and cannot be changed: delete the role and write another", name, old.Connection), nil
	} else if given {
		entry.Connection = v.(string)
	}
	refusal := (*logical.Response)(nil)
	if entry.Connection == "" {
		refusal = entry.update(d)
	} else {
		refusal = entry.updateUpstream(d, st.connections)
	}
	if refusal != nil {
		return refusal, nil
	}
	if field, err := entry.checkSize(); field != "" {
		return fieldError(field, "%s", err), nil
	} else if err != nil {
		return nil, err
	}
	if old == nil {
		if entry.ID, err = token.NewRoleID(rand.Reader); err != nil {
			return nil, err
		}
		entry.Version, entry.Since = 1, b.now().UTC()
	} else if err := entry.succeed(&old.roleEntry, b.longestOf(st, &old.roleEntry), b.now().UTC()); err != nil {
		return nil, err
	}
	r, err := newRole(name, entry)
	if err != nil {
		return nil, err
	}
	if refusal, err := b.checkNative(ctx, req, st, r); refusal != nil || err != nil {
		return refusal, err
	}
	if err := b.dropBrokenRole(ctx, req.Storage, st, name); err != nil { // whose tokens end, as it were deleted
		return nil, err
	}
	if err := st.roles.put(ctx, req.Storage, r); err != nil {
		return nil, err
	}

	if mountMax := b.System().MaxLeaseTTL(); r.MaxTTL > mountMax || r.TTL > mountMax {
		resp := new(logical.Response)
		resp.AddWarning(fmt.Sprintf("tokens will live for at most %s, the maximum lease TTL of the mount, which is less than the role says", short(mountMax)))
		return resp, nil
	}
	return nil, nil
}

// checkNative refuses a role of the engine's own tokens that could issue none.
func (b *backend) checkNative(ctx context.Context, req *logical.Request, st *state, r *role) (*logical.Response, error) {
	stored, err := readConfig(ctx, req.Storage) // which another process may have changed
	if err != nil {
		return nil, err
	}
	c, err := stored.get()
	if err != nil {
		return logical.ErrorResponse(err.Error()), nil
	}
	if err := r.privileged(c); err != nil {
		return logical.ErrorResponse(err.Error()), nil
	}
	if r.TokenFormat != formatJWT {
		return nil, nil
	}
	if c.Issuer == "" {
		return fieldError("token_format", "JWTs need an issuer: vault write %sconfig issuer=<URL of this mount, such as https://vault.example.com:8200/v1/%s>",
			req.MountPoint, strings.TrimSuffix(req.MountPoint, "/")), nil
	}
	// Verifiers should find the key before the first token.
	if err := st.signers.Prepare(ctx, req.Storage, c.SigningAlgorithm, 0); err != nil {
		return nil, err
	}
	i := &issuing{st: st, storage: req.Storage, config: c, role: r, mountPoint: req.MountPoint}
	return refuseTooLong(i.checkLen(b.now()))
}

// update takes over the fields that are given, and refuses what is not allowed.
func (e *roleEntry) update(d *framework.FieldData) *logical.Response {
	for _, field := range []string{"params", "reuse"} {
		if _, given := d.GetOk(field); given {
			return fieldError(field, "is for a role with a connection")
		}
	}
	if v, given := d.GetOk("token_format"); given {
		e.TokenFormat = v.(string)
		if e.TokenFormat != formatOpaque && e.TokenFormat != formatJWT {
			return fieldError("token_format", "%q is not one of: %s, %s", clip(e.TokenFormat), formatOpaque, formatJWT)
		}
	}

	lists := []struct {
		field string
		into  *[]string
		check func([]string) ([]string, error)
	}{
		{"scopes", &e.Scopes, func(l []string) ([]string, error) { return access.ParseScopes(l) }},
		{"allowed_scopes", &e.AllowedScopes, func(l []string) ([]string, error) { return access.ParseScopes(l) }},
		{"audience", &e.Audience, checkAudience},
		{"token_bound_cidrs", &e.TokenBoundCIDRs, checkAddresses},
		{"bound_hosts", &e.BoundHosts, func(l []string) ([]string, error) { return access.ParseHosts(l) }},
	}
	for _, list := range lists {
		v, given := d.GetOk(list.field)
		if !given {
			continue
		}
		checked, err := list.check(v.([]string))
		if err != nil {
			return fieldError(list.field, "%s", err)
		}
		if len(checked) == 0 {
			checked = nil
		}
		*list.into = checked
	}
	if len(e.Scopes) == 0 {
		return fieldError("scopes", "a role needs at least one")
	}
	if missing := e.allowedScopes().Missing(e.Scopes); len(missing) > 0 {
		return fieldError("scopes", "%q exceeds allowed_scopes, which is %q", missing, e.AllowedScopes)
	}

	if v, given := d.GetOk("generate_lease"); given {
		e.NoLease = !v.(bool)
	}
	if refusal := e.updateCommon(d); refusal != nil {
		return refusal
	}
	if v, given := d.GetOk("metadata"); given {
		metadata := v.(map[string]string)
		if err := custommetadata.Validate(metadata); err != nil {
			return fieldError("metadata", "%s", strings.Join(strings.Fields(err.Error()), " "))
		}
		for key, value := range metadata {
			if err := checkTemplate(value); err != nil {
				return fieldError("metadata", "%s: %s", clip(key), err)
			}
		}
		e.Metadata = metadata
	}
	for field, into := range map[string]*bool{"allow_privileged": &e.AllowPrivileged, "refresh": &e.Refresh, "exchange": &e.Exchange, "require_bound_checks": &e.RequireBoundChecks} {
		if v, given := d.GetOk(field); given {
			*into = v.(bool)
		}
	}
	if v, given := d.GetOk("access_ttl"); given {
		e.AccessTTL = time.Duration(v.(int)) * time.Second
	}
	if v, given := d.GetOk("proof"); given {
		if e.Proof = v.(string); e.Proof != "" && e.Proof != proofDPoP && e.Proof != proofMTLS {
			return fieldError("proof", "%q is not one of: %s, %s, or empty", clip(e.Proof), proofDPoP, proofMTLS)
		}
	}
	return e.checkIssuing()
}

// updateCommon takes over the fields that every role has.
func (e *roleEntry) updateCommon(d *framework.FieldData) *logical.Response {
	if v, given := d.GetOk("request_bound_cidrs"); given {
		checked, err := checkAddresses(v.([]string))
		if err != nil {
			return fieldError("request_bound_cidrs", "%s", err)
		}
		e.RequestBoundCIDRs = checked
	}
	if v, given := d.GetOk("ttl"); given {
		e.TTL = time.Duration(v.(int)) * time.Second
	}
	if v, given := d.GetOk("max_ttl"); given {
		e.MaxTTL = time.Duration(v.(int)) * time.Second
	}
	if e.MaxTTL > 0 && e.TTL > e.MaxTTL {
		return fieldError("ttl", "%s is more than max_ttl, which is %s", short(e.TTL), short(e.MaxTTL))
	}
	if v, given := d.GetOk("max_tokens"); given {
		e.MaxTokens = v.(int)
	}
	if err := e.checkMaxTokens(); err != nil {
		return fieldError("max_tokens", "%s", err)
	}
	if v, given := d.GetOk("description"); given {
		e.Description = v.(string)
		if len(e.Description) > maxDescriptionLen {
			return fieldError("description", "is %d bytes long, at most %d are allowed", len(e.Description), maxDescriptionLen)
		}
	}
	return nil
}

// upstreamFields are the fields of a role that issues tokens of an upstream.
var upstreamFields = []string{"name", "connection", "params", "ttl", "max_ttl", "max_tokens", "request_bound_cidrs", "description", "generate_lease", "reuse"}

// updateUpstream takes over the fields that are given for a role that issues tokens of an upstream.
func (e *roleEntry) updateUpstream(d *framework.FieldData, cs *connectionStore) *logical.Response {
	c := cs.get(e.Connection)
	if c == nil {
		return fieldError("connection", "there is no connection %q", clip(e.Connection))
	}
	up, err := cs.upstream(e.Connection, c)
	if err != nil {
		return fieldError("connection", "%s", err)
	}
	for field := range d.Raw {
		if !slices.Contains(upstreamFields, field) {
			return fieldError(field, "is for the engine's own tokens; a role with a connection has %s", strings.Join(upstreamFields, ", "))
		}
	}
	params := e.Params
	if v, given := d.GetOk("params"); given {
		params = v.(map[string]any)
	}
	if e.Params, err = connector.Values(up.Provider.Params, params); err != nil {
		return fieldError("params", "%s (provider %q)", err, up.Provider.Name)
	}
	if v, given := d.GetOk("generate_lease"); given {
		e.NoLease = !v.(bool)
	}
	if v, given := d.GetOk("reuse"); given {
		e.Reuse = time.Duration(v.(int)) * time.Second
	}
	if e.Reuse > 0 && e.NoLease {
		return fieldError("reuse", "needs leases: the token ends with the last of them")
	}
	e.TokenFormat = ""
	return e.updateCommon(d)
}

// checkIssuing refuses fields that do not go together.
func (e *roleEntry) checkIssuing() *logical.Response {
	jwt := e.TokenFormat == formatJWT
	switch {
	case jwt && len(e.Audience) == 0:
		return fieldError("audience", "a role of JWTs needs at least one: the API that the token is for (RFC 9068 section 2.2)")
	case !e.enforcesBounds() && len(e.TokenBoundCIDRs) > 0:
		return fieldError("token_bound_cidrs", unenforced)
	case !e.enforcesBounds() && len(e.BoundHosts) > 0:
		return fieldError("bound_hosts", unenforced)
	case e.NoLease && !jwt:
		return fieldError("generate_lease", "only a role with token_format=jwt can do without a lease")
	case e.NoLease && e.Refresh:
		return fieldError("generate_lease", "a role with refresh=true needs leases")
	case e.NoLease && (e.TTL > maxLeaselessTTL || e.MaxTTL > maxLeaselessTTL):
		return fieldError("generate_lease", "without a lease ttl and max_ttl may be at most %s", short(maxLeaselessTTL))
	case e.Refresh && e.AccessTTL == 0:
		return fieldError("access_ttl", "is needed with refresh=true: how long each token lives, such as 5m")
	case !e.Refresh && e.AccessTTL != 0:
		return fieldError("access_ttl", "is for a role with refresh=true")
	case e.MaxTTL > 0 && e.AccessTTL > e.MaxTTL:
		return fieldError("access_ttl", "%s is more than max_ttl, which is %s", short(e.AccessTTL), short(e.MaxTTL))
	}
	return nil
}

func checkAddresses(list []string) ([]string, error) {
	addresses, err := access.ParseAddresses(list)
	if err != nil {
		return nil, err
	}
	return addresses.Strings(), nil
}

// checkAudience accepts what a StringOrURI of RFC 7519 section 2 may be, without spaces.
func checkAudience(list []string) ([]string, error) {
	if len(list) > maxAudiences {
		return nil, fmt.Errorf("%d audiences given, at most %d are allowed", len(list), maxAudiences)
	}
	for i, audience := range list {
		switch {
		case audience == "" || len(audience) > maxAudienceLen || !isPrintable(audience) || strings.Contains(audience, " "):
			return nil, fmt.Errorf("%q must be 1 to %d printable ASCII characters without spaces", clip(audience), maxAudienceLen)
		case slices.Contains(list[:i], audience):
			return nil, fmt.Errorf("%q is given twice", clip(audience))
		}
	}
	return list, nil
}

func (b *backend) roleDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	r, refusal, err := b.dropRole(ctx, req.Storage, st, d.Get("name").(string))
	if r == nil || err != nil {
		return refusal, err
	}
	// Nobody is kept from other roles meanwhile. If this is cut short, the queue completes it.
	return nil, b.upstreams.EndRole(ctx, r.ID)
}

// dropRole deletes a role. It returns nil where there is no role that can be read.
func (b *backend) dropRole(ctx context.Context, s logical.Storage, st *state, name string) (*role, *logical.Response, error) {
	st.roles.writing.Lock()
	defer st.roles.writing.Unlock()
	r, err := st.roles.latest(ctx, s, name)
	if err != nil {
		return nil, nil, err
	}
	if r == nil {
		return nil, nil, b.dropBrokenRole(ctx, s, st, name)
	}
	if err := st.statics.refresh(ctx, s); err != nil {
		return nil, nil, err
	}
	if keeper := st.staticOf(r.name); keeper != nil {
		return nil, fieldError("name", "static role %q keeps a token of role %q: delete it first", keeper.name, r.name), nil
	}
	// Status lists show the tokens as revoked once the role is gone, too, however this is cut short.
	if err := st.deleted.Add(ctx, s, r.ID, b.now().Add(b.longestOf(st, new(roleEntry)))); err != nil {
		return nil, nil, err
	}
	if err := st.roles.delete(ctx, s, r); err != nil {
		return nil, nil, err
	}
	st.deleted.Changed()
	b.limits.forget(r.ID)
	return r, nil, nil
}
