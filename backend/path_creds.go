package backend

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// credsAnswer are the members of an issued token.
var credsAnswer = fields{
	"token":             must(str("Token. Send it as \"Authorization: Bearer\".")),
	"token_id":          must(str("Public name of the token, safe to log.")),
	"token_type":        str("Bearer (RFC 6750) or DPoP (RFC 9449); absent for tokens of a connection."),
	"refresh_token":     str("Refresh token, for one use at oauth/token; only for a role with refresh."),
	"grant_id":          str("ID of the grant, the prefix of the token_id of each of its tokens; only for a role with refresh."),
	"scopes":            strs("Granted scopes; absent for tokens of a connection."),
	"expires_at":        must(date("Expiry of the token unless the lease is renewed.")),
	"audience":          strs("APIs that the token is for; absent if any."),
	"token_bound_cidrs": strs("Addresses that the token may be used from; absent if any."),
	"bound_regions":     strs("Countries that the token may be used from (ISO 3166-1 alpha-2); absent if any."),
	"bound_hosts":       strs("API hosts that the token is for; absent if any."),
	"connection":        str("Connection that issued the token; absent for native tokens."),
	"name":              str("Name of the token at the upstream service."),
	"upstream":          object("Further members of the service's answer, such as the user of the token."),
}

func (b *backend) pathsCreds() []*framework.Path {
	issue := forward(b.answer(b.pathCredsUpdate, "Issue a token.", ok(credsAnswer)))
	read := *issue
	read.Callback = b.on(b.pathCredsRead)
	read.Summary = "Issue a token with the permissions of the role."
	read.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "credentials"}
	update := *issue
	update.Summary = "Issue a token, optionally with fewer permissions than the role."
	update.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "credentials-with-parameters"}
	return []*framework.Path{path("creds/"+framework.GenericNameRegex("role"), "generate", "", fields{
		"role":   must(str("Name of the role.")),
		"scopes": commas("Scopes of the token, within the role's allowed_scopes. Default: the role's scopes."),
		"ttl":    secs("TTL of the token, at most the role's max_ttl. Default: the role's ttl."),
		"token_bound_cidrs": commas("Addresses that the token may be used from, within the role's token_bound_cidrs. Default: the " +
			"role's."),
		"bound_regions": commas("Countries that the token may be used from, within the role's bound_regions: codes of ISO 3166-1 " +
			"alpha-2, EU or EEA. Default: the role's."),
		"audience": commas("APIs that the token is for, within the role's audience. Default: the role's."),
		"dpop_jkt": str("Thumbprint of the key to bind the token to (RFC 9449 section 6.1). Required for a role with " +
			"proof=dpop."),
		"x5t_s256": str("Thumbprint of the certificate to bind the token to (RFC 8705 section 3.1). Required for a role " +
			"with proof=mtls."),
	},
		map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   &read,
			logical.UpdateOperation: &update,
		},
		"Issue a token.",
		"Issues a token of the role under a lease. A read takes no fields: the token has the permissions of the role. A write may "+
			"request fewer permissions, never more. A policy with read only allows no other permissions than those of the role. "+
			"Renewing the lease extends the token. Revoking the lease revokes the token.")}
}

// pathCredsRead issues a token with the permissions of the role. A read takes no fields, so that a policy can allow read
// without allowing everything within allowed_scopes: Vault does not apply allowed_parameters to the query of a GET.
func (b *backend) pathCredsRead(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	for _, field := range slices.Sorted(maps.Keys(d.Raw)) {
		if field != "role" {
			return nil, refusal.Field(field, "reading takes no fields: a request that narrows is an update, vault write %s%s %s=...",
				req.MountPoint, refusal.Clip(req.Path), field)
		}
	}
	return b.pathCredsUpdate(ctx, st, req, d)
}

func (b *backend) pathCredsUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	r, err := role.Requested(st.Roles, d.Get("role").(string), remoteAddr(req))
	if err != nil {
		return nil, err
	}
	if err := st.CheckSuspended(req.EntityID); err != nil {
		return nil, err
	}
	if err := b.ReviewedRole(st, r, req.MountPoint); err != nil {
		return nil, err
	}
	issue := b.credsNative
	if r.Connection != "" {
		issue = b.credsUpstream
	}
	var resp *response
	if err = b.Fence.ProveWritable(ctx, req.Storage); err == nil {
		resp, err = issue(ctx, req, d, st, r)
	}
	b.NoteIssue(st, r, err)
	return resp, err
}

// credsNative issues a native token.
func (b *backend) credsNative(ctx context.Context, req *request, d *input, st *state, r *role.Role) (*response, error) {
	ttl, lifetime, warnings, err := b.lifetimes(r, d)
	if err != nil {
		return nil, err
	}
	issued, err := st.Issue(ctx, req.Storage, &native.IssueRequest{
		Role: r, TTL: ttl, Lifetime: lifetime, MountPoint: req.MountPoint, Subject: req.EntityID, DisplayName: req.DisplayName,
		Asked: given[role.Request](d), Reserve: func() (*role.Place, error) { return b.Reserve(st, r) },
	})
	if err != nil {
		return nil, err
	}
	data, claims := issued.Answer(), issued.Claims
	if r.NoLease {
		return &logical.Response{Data: data, Warnings: warnings}, nil
	}
	b.FlushSoon()
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

// lifetimes returns the TTL of a requested token, and the token's longest lifetime, renewals included.
func (b *backend) lifetimes(r *role.Role, d *input) (ttl, lifetime time.Duration, warnings []string, _ error) {
	asked := time.Duration(d.Get("ttl").(int)) * time.Second
	defaultTTL, maxTTL, err := r.Lives(asked)
	if err != nil {
		return 0, 0, nil, err
	}
	view := &mountTTLs{SystemView: b.System()}
	if ttl, warnings, err = framework.CalculateTTL(view, asked, defaultTTL, 0, maxTTL, 0, time.Time{}); err != nil {
		return 0, 0, nil, err
	}
	lifetime = view.MaxLeaseTTL()
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
