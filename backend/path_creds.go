package backend

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

func (b *backend) pathsCreds() []*framework.Path {
	issue := forward(b.answer(b.pathCredsUpdate, "Issue a token.", ok(role.IssuedAnswer)))
	read := *issue
	read.Callback = b.on(b.pathCredsRead)
	read.Summary = "Issue a token with the permissions of the role."
	read.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "credentials"}
	update := *issue
	update.Summary = "Issue a token, optionally with fewer permissions than the role."
	update.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "credentials-with-parameters"}
	return []*framework.Path{path("creds/"+framework.GenericNameRegex("role"), "generate", "", role.RequestFields,
		operations{logical.ReadOperation: &read, logical.UpdateOperation: &update},
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
	issued, err := b.Issue(ctx, req.Storage, st, &mount.IssueRequest{
		Role: d.Get("role").(string), Asked: given[role.Request](d), Given: slices.Sorted(maps.Keys(d.Raw)),
		MountPoint: req.MountPoint, RemoteAddr: remoteAddr(req), EntityID: req.EntityID, DisplayName: req.DisplayName,
		Lifetimes: func(r *role.Role) (ttl, lifetime time.Duration, warnings []string, err error) {
			return b.lifetimes(r, seconds(d, "ttl"))
		},
	})
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Data: issued.Answer}
	if issued.Lease != nil {
		kind := secretTypeToken
		if issued.Upstream {
			kind = secretTypeUpstream
		}
		resp = b.Secret(kind).Response(issued.Answer, issued.Lease)
		resp.Secret.TTL, resp.Secret.MaxTTL, resp.Secret.Renewable = issued.TTL, issued.Lifetime, issued.Renewable
	}
	resp.Warnings = issued.Warnings
	return resp, nil
}
