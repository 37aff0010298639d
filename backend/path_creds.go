package backend

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
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
			return fieldError(field, "reading takes no fields: a request that narrows is an update, vault write %s%s %s=...",
				req.MountPoint, clip(req.Path), field), nil
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
	r := st.roles.get(name)
	if err := st.roles.broken(name); err != nil {
		return logical.ErrorResponse(err.Error()), nil
	}
	if r == nil {
		return fieldError("role", "there is no role %q", clip(name)), nil
	}
	if err := r.checkRequester(req.Connection); err != nil {
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
		return logical.ErrorResponse(err.Error()), nil
	}
	if err := r.mayIssue(c); err != nil {
		return logical.ErrorResponse(err.Error()), nil
	}

	narrowed := new(token.Claims)
	if refusal := r.narrow(narrowed, d); refusal != nil {
		return refusal, nil
	}
	if refusal := r.bindToKey(narrowed, d); refusal != nil {
		return refusal, nil
	}
	ttl, lifetime, warnings, refusal, err := b.lifetimes(r, d)
	if refusal != nil || err != nil {
		return refusal, err
	}

	now := b.now()
	place, err := b.limits.reserve(st, r, now)
	if err != nil {
		return logical.ErrorResponse(err.Error()), nil
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
	if claims.Metadata, err = r.metadataFor(req.EntityID, b.System()); err != nil {
		return logical.ErrorResponse("role %q: %s", r.name, err), nil
	}
	if r.TokenFormat == formatJWT && !r.NoLease {
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
			return refuseTooLong(err)
		}
		data["grant_id"] = claims.Grant.String()
	}
	if data["token"], err = i.access(ctx, claims); err != nil {
		return refuseTooLong(err)
	}

	grant, _ := r.grant(claims)
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
				Role: r.name, RoleID: r.ID, RoleVersion: r.Version, Scopes: grant.Scopes.Parameter(),
				Subject: req.EntityID, DisplayName: req.DisplayName, Key: i.key,
			},
		})
	})
	b.flushSoon()
	if st.roles.byID(r.ID) == nil { // and whoever deleted it may not have seen the row
		return logical.ErrorResponse("role %q was deleted meanwhile", r.name), nil
	}
	l := &lease{
		leaseTerms: leaseTerms{ttl: ttl, lifetime: lifetime},
		grant:      claims.Grant, status: claims.Status, roleID: r.ID, role: r.name, expiresAt: end,
	}
	resp := b.Secret(secretTypeToken).Response(data, l.internalData())
	resp.Secret.TTL = ttl
	resp.Secret.MaxTTL = lifetime
	resp.Secret.Renewable = r.TokenFormat == formatOpaque || r.Refresh // a JWT cannot be extended
	resp.Warnings = warnings
	return resp, nil
}

// lifetimes gives how long a token is to live that a request asks for, and how long it can, renewals
// included.
func (b *backend) lifetimes(r *role, d *framework.FieldData) (ttl, lifetime time.Duration, warnings []string, refusal *logical.Response, err error) {
	asked := time.Duration(d.Get("ttl").(int)) * time.Second
	maxTTL, defaultTTL := r.MaxTTL, r.TTL
	if r.NoLease && r.Connection == "" {
		maxTTL = cmp.Or(maxTTL, maxLeaselessTTL)
		defaultTTL = cmp.Or(defaultTTL, maxTTL)
	}
	if maxTTL > 0 && asked > maxTTL {
		return 0, 0, nil, fieldError("ttl", "%s is more than max_ttl of role %q, which is %s", short(asked), r.name, short(maxTTL)), nil
	}
	mount := &mountTTLs{SystemView: b.System()}
	if ttl, warnings, err = framework.CalculateTTL(mount, asked, defaultTTL, 0, maxTTL, 0, time.Time{}); err != nil {
		return 0, 0, nil, nil, err
	}
	lifetime = mount.MaxLeaseTTL()
	if maxTTL > 0 {
		lifetime = min(lifetime, maxTTL)
	}
	return ttl, lifetime, warnings, nil, nil
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

// bindToKey takes over the key that the role has tokens bound to.
func (r *role) bindToKey(claims *token.Claims, d *framework.FieldData) *logical.Response {
	for _, p := range []struct {
		field, proof string
		into         *string
	}{
		{"dpop_jkt", proofDPoP, &claims.Confirmation.JKT},
		{"x5t_s256", proofMTLS, &claims.Confirmation.X5T},
	} {
		v, given := d.GetOk(p.field)
		switch {
		case given && r.Proof != p.proof:
			return fieldError(p.field, "is for a role with proof=%s, role %q has proof=%q", p.proof, r.name, r.Proof)
		case !given && r.Proof == p.proof:
			return fieldError(p.field, "is needed: role %q binds its tokens to a key", r.name)
		case given:
			if err := token.CheckThumbprint(v.(string)); err != nil {
				return fieldError(p.field, "%s", err)
			}
			*p.into = v.(string)
		}
	}
	return nil
}

// checkRequester tells whether creds may be read from where this request comes from.
func (r *role) checkRequester(conn *logical.Connection) error {
	if !r.requestAllowed.Restricted() {
		return nil
	}
	if conn == nil {
		return fmt.Errorf("role %q is bound to request addresses %s, and this request has none", r.name, r.RequestBoundCIDRs)
	}
	addr, err := access.ParseClientIP(conn.RemoteAddr)
	if err != nil || !r.requestAllowed.Contains(addr) {
		return fmt.Errorf("role %q may be requested from %s, not from %s", r.name, r.RequestBoundCIDRs, conn.RemoteAddr)
	}
	return nil
}

// narrow takes over what the request asks for, when the role allows it.
func (r *role) narrow(claims *token.Claims, d *framework.FieldData) *logical.Response {
	if v, given := d.GetOk("scopes"); given {
		scopes, err := access.ParseScopes(v.([]string))
		if err != nil {
			return fieldError("scopes", "%s", err)
		}
		if len(scopes) == 0 {
			return fieldError("scopes", "name at least one, or leave it out for the role's %q", r.Scopes)
		}
		if missing := r.allowed.Missing(scopes); len(missing) > 0 {
			return fieldError("scopes", "%q exceeds role %q, which allows %q", missing, r.name, r.allowed)
		}
		claims.Scopes = scopes
	}
	if v, given := d.GetOk("audience"); given {
		if len(v.([]string)) == 0 {
			return fieldError("audience", "name at least one, or leave it out for the role's %q", r.Audience)
		}
		audience, err := checkAudience(v.([]string))
		if err != nil {
			return fieldError("audience", "%s", err)
		}
		if allowed := narrowAudience(audience, r.Audience); len(allowed) != len(audience) {
			return fieldError("audience", "%q exceeds role %q, which allows %q", audience, r.name, r.Audience)
		}
		claims.Audience = audience
	}
	if v, given := d.GetOk("token_bound_cidrs"); given {
		if len(v.([]string)) == 0 {
			return fieldError("token_bound_cidrs", "name at least one, or leave it out for the role's %q", r.TokenBoundCIDRs)
		}
		addresses, err := access.ParseAddresses(v.([]string))
		if err != nil {
			return fieldError("token_bound_cidrs", "%s", err)
		}
		if outside := r.tokenAllowed.Exceeding(addresses); len(outside) > 0 {
			return fieldError("token_bound_cidrs", "%s exceeds role %q, which allows %s", outside, r.name, r.TokenBoundCIDRs)
		}
		if addresses.Restricted() && !r.enforcesBounds() {
			return fieldError("token_bound_cidrs", "role %q issues JWTs, and %s", r.name, unenforced)
		}
		claims.Addresses = addresses.Ranges()
	}
	return nil
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
