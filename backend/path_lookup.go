package backend

import (
	"context"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

func (b *backend) pathsLookup() []*framework.Path {
	answer := schema.Optional(mount.LookupAnswer, "state") // the answer for an unknown token has only the state
	return []*framework.Path{path("lookup", "look-up", "token", mount.TokenFields,
		only(logical.UpdateOperation, b.answer(b.pathLookupUpdate, "Return the record and state of a token.", ok(answer))),
		"Return the record and state of a token, by the token or its token_id.",
		"Returns the holder, role, times and state of a token. lookup does not check a use of the token: introspect does.")}
}

func (b *backend) pathLookupUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	target, err := given[mount.TargetRequest](d).TokenTarget("give exactly one of token and token_id")
	if err != nil {
		return nil, err
	}
	record, reason, err := b.Lookup(ctx, req.Storage, st, target.Text, target.Grant)
	if err != nil {
		return nil, err
	}
	if record == nil {
		return &logical.Response{Data: map[string]any{"state": string(reason), "detail": access.Explain(reason, nil, nil)}}, nil
	}
	resp := members(mount.LookupAnswer, record)
	maps.Copy(resp.Data, record.Limits) // an empty list is not the same as an absent list
	return resp, nil
}
