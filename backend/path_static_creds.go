package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// staticCredsAnswer are the members of the token of a static role.
var staticCredsAnswer = joined(rotationFields, fields{
	"token":    must(str("Token of the static role.")),
	"token_id": must(str("Public name of the token, safe to log.")),
	"ttl":      must(num("Seconds until the token is rotated or expires.")),
	"name":     str("Name of the token at the upstream service."),
	"upstream": object("Further members of the service's answer."),
})

func (b *backend) pathsStaticCreds() []*framework.Path {
	name := named("Name of the static role.")
	return []*framework.Path{
		path("static-creds/"+framework.GenericNameRegex("name"), "read", "static-credentials", name,
			only(logical.ReadOperation, b.answer(b.pathStaticCredsRead, "Read the token of a static role.", ok(staticCredsAnswer))),
			"Read the token of a static role.",
			"Returns the same token until the next rotation, without a lease. Read again after ttl. After the token was revoked or "+
				"expired, the answer is an error until the next rotation. The role's request_bound_cidrs apply as for creds."),
		path("rotate-role/"+framework.GenericNameRegex("name"), "rotate", "static-role", name,
			only(logical.UpdateOperation, b.change(b.pathRotateRoleUpdate, "Rotate the token of a static role now.")),
			"Rotate the token of a static role now.",
			"The previous token works for the overlap. The next rotation counts from this rotation."),
	}
}

func (b *backend) pathStaticCredsRead(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	if err := st.CheckSuspended(req.EntityID); err != nil {
		return nil, err
	}
	status, err := b.Statics.ReadToken(ctx, req.Storage, d.Get("name").(string), remoteAddr(req))
	if status == nil || err != nil {
		return nil, err
	}
	if err := b.ReviewedStatic(st, d.Get("name").(string), req.MountPoint); err != nil {
		return nil, err
	}
	b.NoteRead(d.Get("name").(string))
	resp := members(staticCredsAnswer, status)
	if e := st.Statics.Get(d.Get("name").(string)); e != nil && !e.Current.Upstream && st.IsSuspended(e.Current.ID, e.EntityID) {
		resp.AddWarning("the token is suspended: API servers refuse the token until an operator resumes the token or its entity")
	}
	return resp, nil
}

func (b *backend) pathRotateRoleUpdate(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	return nil, b.Statics.Rotate(ctx, req.Storage, d.Get("name").(string))
}
