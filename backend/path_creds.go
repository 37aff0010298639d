package backend

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) pathsCreds() []*framework.Path {
	issue := &framework.PathOperation{
		Callback:                    b.credsIssue,
		Summary:                     "Issue a token.",
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		Responses: ok(map[string]*framework.FieldSchema{
			"token":             {Type: framework.TypeString, Required: true, Description: "The token, to be sent as \"Authorization: Bearer\"."},
			"token_id":          {Type: framework.TypeString, Required: true, Description: "The token's public name, safe to log."},
			"token_type":        {Type: framework.TypeString, Description: "How the token is presented: Bearer (RFC 6750) or DPoP (RFC 9449); absent where a connection issued it."},
			"refresh_token":     {Type: framework.TypeString, Description: "Gets the next token at oauth/token, once; only of a role with refresh."},
			"grant_id":          {Type: framework.TypeString, Description: "The id of the grant, which begins the token_id of each of its tokens; only of a role with refresh."},
			"scopes":            {Type: framework.TypeStringSlice, Description: "What was granted; absent where a connection issued it."},
			"expires_at":        {Type: framework.TypeTime, Required: true, Description: "When the token ends unless its lease is renewed."},
			"audience":          {Type: framework.TypeStringSlice, Description: "APIs that the token is for; absent: any."},
			"token_bound_cidrs": {Type: framework.TypeStringSlice, Description: "Where the token may be used from; absent: anywhere."},
			"bound_hosts":       {Type: framework.TypeStringSlice, Description: "API hosts that the token is for; absent: any."},
			"connection":        {Type: framework.TypeString, Description: "The connection that issued it; absent where the engine did."},
			"name":              {Type: framework.TypeString, Description: "The token's name at the connection's service."},
			"upstream":          {Type: framework.TypeMap, Description: "Further members that the service returned, such as the user that the token acts as."},
		}),
	}
	read := *issue
	read.Callback = b.credsRead
	read.Summary = "Issue a token that grants what the role does."
	read.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "credentials"}
	update := *issue
	update.Summary = "Issue a token, which may grant less than the role does."
	update.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "credentials-with-parameters"}
	return []*framework.Path{{
		Pattern:      "creds/" + framework.GenericNameRegex("role"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "generate"},
		Fields: map[string]*framework.FieldSchema{
			"role": {
				Type:        framework.TypeString,
				Description: "Name of the role.",
				Required:    true,
			},
			"scopes": {
				Type:        framework.TypeCommaStringSlice,
				Description: "Scopes of the token, within the role's allowed_scopes. Default: the role's scopes.",
			},
			"ttl": {
				Type:        framework.TypeDurationSecond,
				Description: "How long the token lives, within the role's max_ttl. Default: the role's ttl.",
			},
			"token_bound_cidrs": {
				Type:        framework.TypeCommaStringSlice,
				Description: "Where the token may be used from, within the role's token_bound_cidrs.",
			},
			"audience": {
				Type:        framework.TypeCommaStringSlice,
				Description: "APIs that the token is for, within the role's audience.",
			},
			"dpop_jkt": {
				Type:        framework.TypeString,
				Description: "Thumbprint of the key that the token is to be bound to (RFC 9449 section 6.1); for a role with proof=dpop.",
			},
			"x5t_s256": {
				Type:        framework.TypeString,
				Description: "Thumbprint of the certificate that the token is to be bound to (RFC 8705 section 3.1); for a role with proof=mtls.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   &read,
			logical.UpdateOperation: &update,
		},
		HelpSynopsis: "Issue a token.",
		HelpDescription: "Issues a token of the role under a lease. Reading takes no fields and issues what the role grants. Writing may ask for " +
			"less than the role allows, never for more: a policy with read alone allows nothing but the role's own grant. " +
			"Renewing the lease extends the token. Revoking the lease revokes the token.",
	}}
}

// credsRead issues what the role grants. It takes no fields, so that a policy can allow read without allowing
// everything within allowed_scopes; Vault's allowed_parameters do not hold for the query of a GET.
func (b *backend) credsRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	for _, field := range slices.Sorted(maps.Keys(d.Raw)) {
		if field != "role" {
			return nil, refusal.Field(field, "reading takes no fields: a request that narrows is an update, vault write %s%s %s=...",
				req.MountPoint, refusal.Clip(req.Path), field)
		}
	}
	return b.credsIssue(ctx, req, d)
}

func (b *backend) credsIssue(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("role").(string)
	r := st.roles.Get(name)
	if err := st.roles.Broken(name); err != nil {
		return nil, refusal.New("%w", err)
	}
	if r == nil {
		return nil, refusal.Field("role", "there is no role %q", refusal.Clip(name))
	}
	if err := r.CheckRequester(remoteAddr(req)); err != nil {
		return nil, logical.CodedError(403, err.Error())
	}
	if err := b.proveWritable(ctx, req.Storage); err != nil {
		return nil, err
	}
	if r.Connection != "" {
		return b.credsUpstream(ctx, req, d, st, r)
	}
	c, err := st.config.get()
	if err != nil {
		return nil, err
	}
	if err := c.mayIssue(r); err != nil {
		return nil, err
	}

	narrowed, err := r.Narrow(&role.Request{
		Scopes: given[[]string](d, "scopes"), Audience: given[[]string](d, "audience"), TokenBoundCIDRs: given[[]string](d, "token_bound_cidrs"),
		DPoPJKT: given[string](d, "dpop_jkt"), X5TS256: given[string](d, "x5t_s256"),
	})
	if err != nil {
		return nil, err
	}
	ttl, lifetime, warnings, err := b.lifetimes(r, d)
	if err != nil {
		return nil, err
	}

	now := b.now()
	place, err := b.limits.reserve(st, r, now)
	if err != nil {
		return nil, refusal.New("%w", err)
	}
	defer place.giveUp()

	accessTTL := ttl
	if r.Refresh {
		accessTTL = min(ttl, r.AccessTTL)
	}
	claims, err := newClaims(accessTTL, now)
	if err != nil {
		return nil, err
	}
	inherit(claims, narrowed)
	claims.Role, claims.RoleVersion, claims.Subject, claims.Grant = r.ID, r.Version, req.EntityID, claims.ID
	if claims.Metadata, err = r.MetadataFor(req.EntityID, b.System()); err != nil {
		return nil, err
	}
	if r.TokenFormat == role.FormatJWT && !r.NoLease {
		if claims.Status, err = st.indexes.Next(ctx, req.Storage, r.ID, now); err != nil {
			return nil, err
		}
		if claims.Grant, err = token.NewGrantID(rand.Reader, claims.Status); err != nil {
			return nil, err
		}
		claims.ID = claims.Grant
	}
	i := &issuing{st: st, storage: req.Storage, config: c, role: r, mountPoint: req.MountPoint, lifetime: lifetime}
	data := make(map[string]any)
	if r.Refresh {
		if data["refresh_token"], err = i.firstRefreshToken(ctx, claims, ttl, now); err != nil {
			return nil, refuseTooLong(err)
		}
		data["grant_id"] = claims.Grant.String()
	}
	if data["token"], err = i.access(ctx, claims); err != nil {
		return nil, refuseTooLong(err)
	}

	grant, _ := r.Permissions(claims)
	data["token_id"] = claims.Name()
	data["token_type"] = tokenTypeOf(claims)
	data["scopes"] = []string(grant.Scopes)
	data["expires_at"] = claims.ExpiresAt.UTC().Format(time.RFC3339)
	if grant.Audience != nil {
		data["audience"] = grant.Audience
	}
	addLimits(data, grant)
	if r.NoLease {
		return &logical.Response{Data: data, Warnings: warnings}, nil
	}

	end := claims.IssuedAt.Add(ttl)
	place.fill(func() {
		st.inventory.Add(ledger.Row{
			ID: claims.Grant, IssuedAt: claims.IssuedAt, ExpiresAt: end, Status: claims.Status,
			Holder: ledger.Holder{
				Role: r.Name(), RoleID: r.ID, RoleVersion: r.Version, Scopes: grant.Scopes.Parameter(),
				Subject: req.EntityID, DisplayName: req.DisplayName, Key: i.key,
			},
		})
	})
	b.flushSoon()
	if st.roles.ByID(r.ID) == nil { // and whoever deleted it may not have seen the row
		return nil, refusal.New("role %q was deleted meanwhile", r.Name())
	}
	l := &lease{
		leaseTerms: leaseTerms{ttl: ttl, lifetime: lifetime},
		grant:      claims.Grant, status: claims.Status, roleID: r.ID, role: r.Name(), expiresAt: end,
	}
	resp := b.Secret(secretTypeToken).Response(data, l.internalData())
	resp.Secret.TTL = ttl
	resp.Secret.MaxTTL = lifetime
	resp.Secret.Renewable = r.TokenFormat == role.FormatOpaque || r.Refresh // a JWT cannot be extended
	resp.Warnings = warnings
	return resp, nil
}

// lifetimes returns how long a token lives that a request asks for, and how long the token can live, renewals included.
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

// firstRefreshToken makes the refresh token that begins a grant, and the claims belong to that grant.
func (i *issuing) firstRefreshToken(ctx context.Context, claims *token.Claims, ttl time.Duration, now time.Time) (text string, err error) {
	if claims.ID, err = token.NewID(rand.Reader); err != nil { // the one it has is the grant's
		return "", err
	}
	refresh, err := newClaims(ttl, now)
	if err != nil {
		return "", err
	}
	inherit(refresh, claims)
	refresh.Generation, refresh.GrantLifetime = 1, max(i.lifetime, ttl)
	return i.refreshToken(ctx, refresh)
}

// mountTTLs asks Vault for the mount's maximum lease TTL once, not at each use.
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
