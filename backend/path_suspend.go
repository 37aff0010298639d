package backend

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// suspendedAnswer are the members of a suspension in a list.
var suspendedAnswer = fields{
	"kind":         must(str("token or entity.")),
	"suspended_at": must(str("Time of the last suspend.")),
	"note":         str("Note of the last suspend."),
	"role":         str("Role of the token, if the inventory has the token."),
	"entity_id":    str("Vault entity of the token, or the suspended entity."),
	"display_name": str("Display name of the Vault token that requested the token."),
}

func (b *backend) pathsSuspend() []*framework.Path {
	listFields := pageFields("key")
	listFields["limit"].Description = fmt.Sprintf("Maximum number of entries to return, at most %d. Default: %[1]d.", mount.MaxPage)
	listResponse := listAnswer("key")
	listResponse["key_info"] = object("For each key: kind (token or entity), suspended_at, note, role, entity_id, display_name.")
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
		path("suspended/?$", "", "suspensions", listFields,
			only(logical.ListOperation, b.answer(b.pathSuspendedList, "List the suspended tokens and entities.", ok(listResponse))),
			"List the suspended tokens and entities.",
			"Returns a page of what resume can undo, in the order of the keys: the token_id of a suspended token, or the ID of a suspended "+
				"Vault entity. Revoked tokens are left out. For the next page, set after to the last key."),
	}
}

func (b *backend) pathSuspendedList(_ context.Context, st *state, _ *request, d *input) (*response, error) {
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	if _, given := d.GetOk("limit"); !given {
		limit = mount.MaxPage
	}
	if limit > mount.MaxPage {
		return nil, refusal.Field("limit", "%d is too large, at most %d is allowed", limit, mount.MaxPage)
	}
	list, more := b.Suspended(st, after, limit)
	keys, info := make([]string, len(list)), make(map[string]any, len(list))
	for i, one := range list {
		keys[i], info[one.Key] = one.Key, members(suspendedAnswer, one).Data
	}
	resp := logical.ListResponseWithInfo(keys, info)
	if more {
		resp.AddWarning(fmt.Sprintf("there are more suspensions: list again with after=%s", keys[len(keys)-1]))
	}
	if n := len(st.Suspensions.Damaged()); n > 0 {
		resp.AddWarning(fmt.Sprintf("%d stored entries of suspensions cannot be read, and may have more: see broken/", n))
	}
	return resp, nil
}

func (b *backend) pathSuspendUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	target, err := targetOf(d)
	if err != nil {
		return nil, err
	}
	return warned(b.Suspend(ctx, req.Storage, st, target, d.Get("note").(string)))
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
