package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
)

func (b *backend) pathsIntrospect() []*framework.Path {
	return []*framework.Path{path("introspect", "introspect", "token", native.UseFields,
		only(logical.UpdateOperation,
			handle(b.pathIntrospectUpdate, "Check whether a token is valid for a use.", ok(native.UseAnswer))),
		"Check whether a token is valid for a use.",
		"The answer has the members of RFC 7662, and the reason for active=false: malformed, wrong_environment, unknown, expired, "+
			"revoked, role_deleted, suspended, subject_disabled, wrong_audience, insufficient_scope, address_not_allowed, "+
			"region_not_allowed, host_not_allowed.")}
}

// pathIntrospectUpdate loads the state itself: the position in the feed must be that before the state is read, since the
// answer must not claim to know a later change.
func (b *backend) pathIntrospectUpdate(ctx context.Context, req *request, d *input) (*response, error) {
	active := b.WriteSafeReplicationState()
	asked := given[native.UseRequest](d)
	if asked.MinCursor != nil && !active {
		return nil, logical.ErrReadOnly // Vault forwards the request to the active node
	}
	at := b.World.Feed.Position()
	st, err := b.Load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	text := d.Get("token").(string)
	if err := native.CheckText(text); err != nil {
		return nil, err
	}
	use, err := asked.Parse()
	if err != nil {
		return nil, err
	}
	v, err := st.Verify(ctx, req.Storage, text, use)
	if err != nil {
		return nil, err
	}
	if !asked.IsLookUp() {
		b.Counters.Decided(metrics.Introspection, v.Reason, 1)
		if active {
			b.NoteUse(v, use, text)
		}
	}
	data := v.Answer(st.Config, req.MountPoint)
	if active {
		at.AddTo(data)
	}
	return &logical.Response{Data: data}, nil
}
