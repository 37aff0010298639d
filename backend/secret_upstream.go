package backend

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// secretTypeUpstream is the lease type of upstream tokens. The type must stay registered for ever.
const secretTypeUpstream = "upstream_token"

func (b *backend) secretUpstream() *framework.Secret {
	return &framework.Secret{
		Type: secretTypeUpstream,
		Fields: fields{
			"token": str("API token of the upstream service"),
		},
		Renew:  b.on(b.upstreamRenew),
		Revoke: b.on(b.upstreamRevoke),
	}
}

// credsUpstream issues a token of the role's connection.
func (b *backend) credsUpstream(ctx context.Context, req *request, d *input, st *state, r *role.Role) (*response, error) {
	for field := range d.Raw {
		if field != "role" && field != "ttl" {
			return nil, refusal.Field(field, "is for native tokens; role %q issues tokens of connection %q, which the role's params "+
				"narrow", r.Name(), r.Connection)
		}
	}
	ttl, lifetime, warnings, err := b.lifetimes(r, d)
	if err != nil {
		return nil, err
	}
	now := b.Now().UTC()
	made, err := b.Upstreams.Issue(ctx, &upstream.IssueRequest{
		Role: r, MountPoint: req.MountPoint, Subject: req.EntityID, DisplayName: req.DisplayName, Now: now, End: now.Add(ttl),
		Inventory: st.Inventory, Reserve: func() (*role.Place, error) { return b.Reserve(st, r) },
	})
	b.FlushSoon() // a token may be in the inventory that this requester did not get
	if err != nil {
		return nil, err
	}
	warnings = append(warnings, made.Warnings...)
	data := made.Answer()
	if r.NoLease {
		return &logical.Response{Data: data, Warnings: warnings}, nil
	}
	l := &upstream.Lease{LeaseTerms: role.LeaseTerms{TTL: made.TTL, Lifetime: lifetime}, ID: made.ID, Hold: made.Hold}
	resp := b.Secret(secretTypeUpstream).Response(data, l.InternalData())
	resp.Secret.TTL, resp.Secret.MaxTTL, resp.Secret.Renewable = made.TTL, lifetime, made.Renewable
	resp.Warnings = warnings
	return resp, nil
}

// upstreamRenew renews a lease, and extends its token.
func (b *backend) upstreamRenew(ctx context.Context, _ *state, req *request, _ *input) (*response, error) {
	l, err := upstream.ParseLease(leaseData(req))
	if err != nil {
		return nil, err
	}
	var maxTTL time.Duration
	ttl, err := b.Upstreams.Renew(ctx, &upstream.Renewal{
		ID: l.ID, Hold: l.Hold, Now: b.Now().UTC(),
		TTL: func(r *role.Role) (ttl time.Duration, err error) {
			ttl, maxTTL, err = b.renewal(req.Secret, l.LeaseTerms, r)
			return ttl, err
		},
	})
	if err != nil {
		return nil, err
	}
	b.Counters.Renewed(metrics.Service)
	return renewed(req.Secret, ttl, maxTTL), nil
}

// upstreamRevoke revokes the token.
func (b *backend) upstreamRevoke(ctx context.Context, st *state, req *request, _ *input) (*response, error) {
	l, err := upstream.ParseLease(leaseData(req))
	if err != nil {
		return nil, err
	}
	return nil, b.RevokeUpstreamLease(ctx, st, l)
}

// userAgent returns the User-Agent of requests to upstream services.
func userAgent() string {
	return "vault-plugin-secrets-apitoken/" + strings.TrimPrefix(Version, "v") +
		" (+https://github.com/vault-apitoken/vault-plugin-secrets-apitoken)"
}
