package backend

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

func (b *backend) pathsCreds() []*framework.Path {
	issue := forward(b.answer(b.pathCredsUpdate, "Issue a token.", ok(map[string]*framework.FieldSchema{
		"token":             {Type: framework.TypeString, Required: true, Description: "Token. Send it as \"Authorization: Bearer\"."},
		"token_id":          {Type: framework.TypeString, Required: true, Description: "Public name of the token, safe to log."},
		"token_type":        {Type: framework.TypeString, Description: "Bearer (RFC 6750) or DPoP (RFC 9449); absent for tokens of a connection."},
		"refresh_token":     {Type: framework.TypeString, Description: "Refresh token, for one use at oauth/token; only for a role with refresh."},
		"grant_id":          {Type: framework.TypeString, Description: "ID of the grant, the prefix of the token_id of each of its tokens; only for a role with refresh."},
		"scopes":            {Type: framework.TypeStringSlice, Description: "Granted scopes; absent for tokens of a connection."},
		"expires_at":        {Type: framework.TypeTime, Required: true, Description: "Expiry of the token unless the lease is renewed."},
		"audience":          {Type: framework.TypeStringSlice, Description: "APIs that the token is for; absent if any."},
		"token_bound_cidrs": {Type: framework.TypeStringSlice, Description: "Addresses that the token may be used from; absent if any."},
		"bound_regions":     {Type: framework.TypeStringSlice, Description: "Countries that the token may be used from (ISO 3166-1 alpha-2); absent if any."},
		"bound_hosts":       {Type: framework.TypeStringSlice, Description: "API hosts that the token is for; absent if any."},
		"connection":        {Type: framework.TypeString, Description: "Connection that issued the token; absent for native tokens."},
		"name":              {Type: framework.TypeString, Description: "Name of the token at the upstream service."},
		"upstream":          {Type: framework.TypeMap, Description: "Further members of the service's answer, such as the user of the token."},
	})))
	read := *issue
	read.Callback = b.on(b.pathCredsRead)
	read.Summary = "Issue a token with the permissions of the role."
	read.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "credentials"}
	update := *issue
	update.Summary = "Issue a token, optionally with fewer permissions than the role."
	update.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "credentials-with-parameters"}
	return []*framework.Path{{
		Pattern:      "creds/" + framework.GenericNameRegex("role"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "generate"},
		Fields: map[string]*framework.FieldSchema{
			"role":              {Type: framework.TypeString, Required: true, Description: "Name of the role."},
			"scopes":            {Type: framework.TypeCommaStringSlice, Description: "Scopes of the token, within the role's allowed_scopes. Default: the role's scopes."},
			"ttl":               {Type: framework.TypeDurationSecond, Description: "TTL of the token, at most the role's max_ttl. Default: the role's ttl."},
			"token_bound_cidrs": {Type: framework.TypeCommaStringSlice, Description: "Addresses that the token may be used from, within the role's token_bound_cidrs. Default: the role's."},
			"bound_regions":     {Type: framework.TypeCommaStringSlice, Description: "Countries that the token may be used from, within the role's bound_regions: codes of ISO 3166-1 alpha-2, EU or EEA. Default: the role's."},
			"audience":          {Type: framework.TypeCommaStringSlice, Description: "APIs that the token is for, within the role's audience. Default: the role's."},
			"dpop_jkt":          {Type: framework.TypeString, Description: "Thumbprint of the key to bind the token to (RFC 9449 section 6.1). Required for a role with proof=dpop."},
			"x5t_s256":          {Type: framework.TypeString, Description: "Thumbprint of the certificate to bind the token to (RFC 8705 section 3.1). Required for a role with proof=mtls."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   &read,
			logical.UpdateOperation: &update,
		},
		HelpSynopsis: "Issue a token.",
		HelpDescription: "Issues a token of the role under a lease. A read takes no fields: the token has the permissions of the role. A write may " +
			"request fewer permissions, never more. A policy with read only allows no other permissions than those of the role. " +
			"Renewing the lease extends the token. Revoking the lease revokes the token.",
	}}
}

// pathCredsRead issues a token with the permissions of the role. A read takes no fields, so that a policy can allow read
// without allowing everything within allowed_scopes: Vault does not apply allowed_parameters to the query of a GET.
func (b *backend) pathCredsRead(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	for _, field := range slices.Sorted(maps.Keys(d.Raw)) {
		if field != "role" {
			return nil, refusal.Field(field, "reading takes no fields: a request that narrows is an update, vault write %s%s %s=...",
				req.MountPoint, refusal.Clip(req.Path), field)
		}
	}
	return b.pathCredsUpdate(ctx, st, req, d)
}

func (b *backend) pathCredsUpdate(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("role").(string)
	r := st.Roles.Get(name)
	if err := st.Roles.Broken(name); err != nil {
		return nil, refusal.Wrap(err)
	}
	if r == nil {
		return nil, refusal.Field("role", "there is no role %q", refusal.Clip(name))
	}
	if err := r.CheckRequester(remoteAddr(req)); err != nil {
		return nil, err
	}
	if err := b.fence.ProveWritable(ctx, req.Storage); err != nil {
		return nil, err
	}
	if r.Connection != "" {
		return b.credsUpstream(ctx, req, d, st, r)
	}
	return b.credsNative(ctx, req, d, st, r)
}

// credsNative issues a native token.
func (b *backend) credsNative(ctx context.Context, req *logical.Request, d *framework.FieldData, st *state, r *role.Role) (*logical.Response, error) {
	ttl, lifetime, warnings, err := b.lifetimes(r, d)
	if err != nil {
		return nil, err
	}
	issued, err := st.Issue(ctx, req.Storage, &native.IssueRequest{
		Role: r, TTL: ttl, Lifetime: lifetime, MountPoint: req.MountPoint, Subject: req.EntityID, DisplayName: req.DisplayName,
		Asked: &role.Request{
			Scopes: given[[]string](d, "scopes"), Audience: given[[]string](d, "audience"), TokenBoundCIDRs: given[[]string](d, "token_bound_cidrs"),
			BoundRegions: given[[]string](d, "bound_regions"), DPoPJKT: given[string](d, "dpop_jkt"), X5TS256: given[string](d, "x5t_s256"),
		},
		Reserve: func() (*role.Place, error) { return b.reserve(st, r) },
	})
	if err != nil {
		return nil, err
	}
	claims := issued.Claims
	data := map[string]any{
		"token":      issued.Text,
		"token_id":   claims.Name(),
		"token_type": native.PresentedAs(claims),
		"scopes":     []string(issued.Permissions.Scopes),
		"expires_at": rfc3339(claims.ExpiresAt),
	}
	if r.Refresh {
		data["refresh_token"], data["grant_id"] = issued.RefreshToken, claims.Grant.String()
	}
	if issued.Permissions.Audience != nil {
		data["audience"] = issued.Permissions.Audience
	}
	addLimits(data, issued.Permissions)
	if r.NoLease {
		return &logical.Response{Data: data, Warnings: warnings}, nil
	}
	b.flushSoon()
	l := &native.Lease{
		LeaseTerms: role.LeaseTerms{TTL: ttl, Lifetime: lifetime},
		Grant:      claims.Grant, Status: claims.Status, RoleID: r.ID, Role: r.Name(), ExpiresAt: issued.GrantEnd,
	}
	resp := b.Secret(secretTypeToken).Response(data, l.InternalData())
	resp.Secret.TTL, resp.Secret.MaxTTL = ttl, lifetime
	resp.Secret.Renewable = r.TokenFormat == role.FormatOpaque || r.Refresh // a JWT cannot be extended
	resp.Warnings = warnings
	return resp, nil
}

// addLimits adds to an answer the addresses, regions and hosts that a token is limited to. If nothing is left of one of
// them, token_bound_cidrs is empty: an absent list stands for no limit.
func addLimits(data map[string]any, p *access.Permissions) {
	bounds, ok := p.Effective()
	if !ok {
		data["token_bound_cidrs"] = []string{}
		return
	}
	if bounds.Addresses.Restricted() {
		data["token_bound_cidrs"] = bounds.Addresses.Strings()
	}
	if bounds.Regions.Restricted() {
		data["bound_regions"] = bounds.Regions.Strings()
	}
	if len(bounds.Hosts) > 0 {
		data["bound_hosts"] = slices.Clone([]string(bounds.Hosts))
	}
}

// lifetimes returns the TTL of a requested token, and the token's longest lifetime, renewals included.
func (b *backend) lifetimes(r *role.Role, d *framework.FieldData) (ttl, lifetime time.Duration, warnings []string, _ error) {
	asked := time.Duration(d.Get("ttl").(int)) * time.Second
	defaultTTL, maxTTL, err := r.Lives(asked)
	if err != nil {
		return 0, 0, nil, err
	}
	mount := &mountTTLs{SystemView: b.System()}
	if ttl, warnings, err = framework.CalculateTTL(mount, asked, defaultTTL, 0, maxTTL, 0, time.Time{}); err != nil {
		return 0, 0, nil, err
	}
	lifetime = mount.MaxLeaseTTL()
	if maxTTL > 0 {
		lifetime = min(lifetime, maxTTL)
	}
	return ttl, lifetime, warnings, nil
}

// mountTTLs asks Vault once for the mount's maximum lease TTL.
type mountTTLs struct {
	logical.SystemView
	max time.Duration
}

func (m *mountTTLs) MaxLeaseTTL() time.Duration {
	if m.max == 0 {
		m.max = m.SystemView.MaxLeaseTTL()
	}
	return m.max
}
