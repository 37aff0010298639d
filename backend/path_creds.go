package backend

import (
	"context"
	"crypto/rand"
	"fmt"
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
			"token_type":        {Type: framework.TypeString, Required: true, Description: "How the token is presented: Bearer (RFC 6750)."},
			"scopes":            {Type: framework.TypeStringSlice, Required: true, Description: "What was granted."},
			"expires_at":        {Type: framework.TypeTime, Required: true, Description: "When the token ends unless its lease is renewed."},
			"audience":          {Type: framework.TypeStringSlice, Description: "APIs that the token is for; absent: any."},
			"token_bound_cidrs": {Type: framework.TypeStringSlice, Description: "Where the token may be used from; absent: anywhere."},
			"bound_hosts":       {Type: framework.TypeStringSlice, Description: "API hosts that the token is for; absent: any."},
		}),
	}
	read := *issue
	read.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "credentials"}
	update := *issue
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
				Query:       true,
			},
			"ttl": {
				Type:        framework.TypeDurationSecond,
				Description: "How long the token lives, within the role's max_ttl. Default: the role's ttl.",
				Query:       true,
			},
			"token_bound_cidrs": {
				Type:        framework.TypeCommaStringSlice,
				Description: "Where the token may be used from, within the role's token_bound_cidrs.",
				Query:       true,
			},
			"audience": {
				Type:        framework.TypeCommaStringSlice,
				Description: "APIs that the token is for, within the role's audience.",
				Query:       true,
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   &read,
			logical.UpdateOperation: &update,
		},
		HelpSynopsis: "Issue a token.",
		HelpDescription: "Issues a token of the role under a lease. A request may ask for less than the role allows, never for more. " +
			"Renewing the lease extends the token, revoking it ends the token at once.",
	}}
}

func (b *backend) credsIssue(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("role").(string)
	r := st.roles.get(name)
	if r == nil {
		return fieldError("role", "there is no role %q", clip(name)), nil
	}
	c := st.config.get()
	if err := r.privileged(c); err != nil {
		return logical.ErrorResponse(err.Error()), nil
	}
	if err := r.checkRequester(req.Connection); err != nil {
		return nil, logical.CodedError(403, err.Error())
	}

	claims := &token.Claims{Role: r.ID, RoleVersion: r.Version, Subject: req.EntityID}
	if refusal := r.narrow(claims, d); refusal != nil {
		return refusal, nil
	}
	mount := &mountTTLs{SystemView: b.System()}
	asked := time.Duration(d.Get("ttl").(int)) * time.Second
	if r.MaxTTL > 0 && asked > r.MaxTTL {
		return fieldError("ttl", "%s is more than max_ttl of role %q, which is %s", short(asked), r.name, short(r.MaxTTL)), nil
	}
	ttl, warnings, err := framework.CalculateTTL(mount, asked, r.TTL, 0, r.MaxTTL, 0, time.Time{})
	if err != nil {
		return nil, err
	}
	lifetime := mount.MaxLeaseTTL()
	if r.MaxTTL > 0 {
		lifetime = min(lifetime, r.MaxTTL)
	}
	if claims.Metadata, err = r.metadataFor(req.EntityID, b.System()); err != nil {
		return logical.ErrorResponse("role %q: %s", r.name, err), nil
	}

	if claims.ID, err = token.NewID(rand.Reader); err != nil {
		return nil, err
	}
	minted, err := st.keys.mint(ctx, req.Storage, c.TokenPrefix, claims, ttl, lifetime)
	if err != nil {
		return nil, err
	}

	grant, _ := r.grant(claims)
	st.inventory.Add(ledger.Row{
		ID: claims.ID, IssuedAt: claims.IssuedAt, ExpiresAt: claims.ExpiresAt,
		Holder: ledger.Holder{
			Role: r.name, RoleID: r.ID, RoleVersion: r.Version, Scopes: grant.Scopes.Parameter(),
			Subject: req.EntityID, DisplayName: req.DisplayName,
		},
	})
	b.flushSoon()

	l := &lease{
		tokenID: claims.ID, roleID: r.ID, role: r.name,
		expiresAt: claims.ExpiresAt, ttl: ttl, lifetime: lifetime,
	}
	data := map[string]any{
		"token":      minted,
		"token_id":   claims.ID.String(),
		"token_type": bearer,
		"scopes":     []string(grant.Scopes),
		"expires_at": claims.ExpiresAt.UTC().Format(time.RFC3339),
	}
	addLimits(data, grant)
	resp := b.Secret(secretTypeToken).Response(data, l.internalData())
	resp.Secret.TTL = ttl
	resp.Secret.MaxTTL = lifetime
	resp.Warnings = warnings
	return resp, nil
}

// bearer is the OAuth token type of a token that whoever holds it may use (RFC 6750).
const bearer = "Bearer"

// addLimits adds to an answer where a token may be used, as far as that is limited.
func addLimits(data map[string]any, g *access.Grant) {
	if g.Audience != nil {
		data["audience"] = g.Audience
	}
	if cidrs := boundCIDRs(g); len(cidrs) > 0 {
		data["token_bound_cidrs"] = cidrs
	}
	if len(g.Hosts) > 0 {
		data["bound_hosts"] = []string(g.Hosts[len(g.Hosts)-1])
	}
}

// boundCIDRs lists the narrowest set of ranges that a token is bound to.
func boundCIDRs(g *access.Grant) []string {
	if len(g.Addresses) == 0 {
		return nil
	}
	return g.Addresses[len(g.Addresses)-1].Strings()
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
	if v, given := d.GetOk("audience"); given && len(v.([]string)) > 0 {
		audience, err := checkAudience(v.([]string))
		if err != nil {
			return fieldError("audience", "%s", err)
		}
		if allowed := narrowAudience(audience, r.Audience); len(allowed) != len(audience) {
			return fieldError("audience", "%q exceeds role %q, which allows %q", audience, r.name, r.Audience)
		}
		claims.Audience = audience
	}
	if v, given := d.GetOk("token_bound_cidrs"); given && len(v.([]string)) > 0 {
		addresses, err := access.ParseAddresses(v.([]string))
		if err != nil {
			return fieldError("token_bound_cidrs", "%s", err)
		}
		if outside := r.tokenAllowed.Exceeding(addresses); len(outside) > 0 {
			return fieldError("token_bound_cidrs", "%s exceeds role %q, which allows %s", outside, r.name, r.TokenBoundCIDRs)
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
