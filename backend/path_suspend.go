package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

func (b *backend) pathsSuspend() []*framework.Path {
	suspend := joined(tokenOrIDFields(), fields{
		"subject": str("ID of a Vault entity, in place of a token: all tokens of the entity are meant, also tokens that are issued " +
			"later."),
		"note": str("Why, in at most 256 bytes: detail of lookup and tokens shows the note. No token may be in it. Default: none."),
	})
	return []*framework.Path{
		path("suspend", "suspend", "token", suspend,
			only(logical.UpdateOperation, b.change(b.pathSuspendUpdate, "Suspend a token and its grant, or all tokens of an entity.")),
			"Suspend a token, by the token, its token_id or its entity.",
			"A suspended token is refused until \"resume\". A suspended token expires at its time, can be revoked, and cannot be "+
				"renewed, refreshed or exchanged. Any token_id of a grant suspends the whole grant. A suspended entity gets no token from creds and static-creds. "+
				"Tokens of other services cannot be suspended."),
		path("resume", "resume", "token", suspend,
			only(logical.UpdateOperation, b.change(b.pathResumeUpdate, "Undo the suspension of a token and its grant, or of an entity.")),
			"Undo a suspension, by the token, its token_id or its entity.",
			"resume undoes a suspension of the same kind: a token that was suspended by itself stays suspended after its entity is "+
				"resumed. resume never undoes a revocation, and does not extend a token."),
	}
}

func (b *backend) pathSuspendUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	target, err := targetOf(d)
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
	target, err := targetOf(d)
	if err != nil {
		return nil, err
	}
	return warned(b.Resume(ctx, req.Storage, st, target, d.Get("note").(string)))
}

// targetOf returns what a request suspends or resumes.
func targetOf(d *input) (t mount.Target, err error) {
	if subject, given := d.GetOk("subject"); given {
		for _, other := range []string{"token", "token_id"} {
			if _, also := d.GetOk(other); also {
				return t, refusal.New("give one of token, token_id and subject")
			}
		}
		t.Subject = subject.(string)
		return t, native.CheckSubject(t.Subject)
	}
	_, byToken := d.GetOk("token")
	_, byID := d.GetOk("token_id")
	if byToken == byID {
		return t, refusal.New("give one of token, token_id and subject")
	}
	t.Text, t.Grant, err = tokenOrID(d)
	return t, err
}
