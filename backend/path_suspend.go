package backend

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

func (b *backend) pathsSuspend() []*framework.Path {
	return []*framework.Path{
		path("suspend", "suspend", "token", mount.SuspendFields,
			only(logical.UpdateOperation, b.change(b.pathSuspendUpdate, "Suspend a token and its grant, or all tokens of an entity.")),
			"Suspend a token, by the token, its token_id or its entity.",
			"A suspended token is refused until \"resume\". A suspended token expires at its time, can be revoked, and cannot be "+
				"renewed, refreshed or exchanged. Any token_id of a grant suspends the whole grant. A suspended entity gets no token from creds and static-creds. "+
				"Tokens of other services cannot be suspended."),
		path("resume", "resume", "token", mount.SuspendFields,
			only(logical.UpdateOperation, b.change(b.pathResumeUpdate, "Undo the suspension of a token and its grant, or of an entity.")),
			"Undo a suspension, by the token, its token_id or its entity.",
			"resume undoes a suspension of the same kind: a token that was suspended by itself stays suspended after its entity is "+
				"resumed. resume never undoes a revocation, and does not extend a token."),
		path("suspended/?$", "", "suspensions", mount.SuspendedFields,
			only(logical.ListOperation, b.answer(b.pathSuspendedList, "List the suspended tokens and entities.", ok(mount.SuspendedListAnswer))),
			"List the suspended tokens and entities.",
			"Returns a page of what resume can undo, in the order of the keys: the token_id of a suspended token, or the ID of a suspended "+
				"Vault entity. Revoked tokens are left out. For the next page, set after to the last key."),
	}
}

func (b *backend) pathSuspendedList(_ context.Context, st *state, _ *request, d *input) (*response, error) {
	list, more, err := b.Suspended(st, given[schema.PageRequest](d))
	if err != nil {
		return nil, err
	}
	keys, info := make([]string, len(list)), make(map[string]any, len(list))
	for i, one := range list {
		keys[i], info[one.Key] = one.Key, members(mount.SuspendedAnswer, one).Data
	}
	resp := listed("suspensions", keys, info, more)
	if n := len(st.Suspensions.Damaged()); n > 0 {
		resp.AddWarning(fmt.Sprintf("%d stored entries of suspensions cannot be read, and may have more: see broken/", n))
	}
	return resp, nil
}

func (b *backend) pathSuspendUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	target, err := given[mount.TargetRequest](d).Target()
	if err != nil {
		return nil, err
	}
	warnings, err := b.Suspend(ctx, req.Storage, st, target, d.Get("note").(string))
	if err == nil {
		b.Counters.Suspended(metrics.ByRequest)
	}
	return warned(warnings, err)
}

func (b *backend) pathResumeUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	target, err := given[mount.TargetRequest](d).Target()
	if err != nil {
		return nil, err
	}
	return warned(b.Resume(ctx, req.Storage, st, target, d.Get("note").(string)))
}
