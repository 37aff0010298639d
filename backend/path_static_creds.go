package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathsStaticCreds() []*framework.Path {
	name := named("Name of the static role.")
	return []*framework.Path{
		{
			Pattern:      "static-creds/" + framework.GenericNameRegex("name"),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "read", OperationSuffix: "static-credentials"},
			Fields:       name,
			Operations: only(logical.ReadOperation, b.answer(b.pathStaticCredsRead, "Read the token of a static role.", ok(withRotations(map[string]*framework.FieldSchema{
				"token":    {Type: framework.TypeString, Required: true, Description: "Token of the static role."},
				"token_id": {Type: framework.TypeString, Required: true, Description: "Public name of the token, safe to log."},
				"ttl":      {Type: framework.TypeInt, Required: true, Description: "Seconds until the token is rotated or expires."},
				"name":     {Type: framework.TypeString, Description: "Name of the token at the upstream service."},
				"upstream": {Type: framework.TypeMap, Description: "Further members of the service's answer."},
			})))),
			HelpSynopsis:    "Read the token of a static role.",
			HelpDescription: "Returns the same token until the next rotation, without a lease. Read again after ttl. After the token was revoked or expired, the answer is an error until the next rotation. The role's request_bound_cidrs apply as for creds.",
		},
		{
			Pattern:         "rotate-role/" + framework.GenericNameRegex("name"),
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "static-role"},
			Fields:          name,
			Operations:      only(logical.UpdateOperation, b.change(b.pathRotateRoleUpdate, "Rotate the token of a static role now.")),
			HelpSynopsis:    "Rotate the token of a static role now.",
			HelpDescription: "The previous token works for the overlap. The next rotation counts from this rotation.",
		},
	}
}

func (b *backend) pathStaticCredsRead(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	status, err := b.Statics.ReadToken(ctx, req.Storage, d.Get("name").(string), remoteAddr(req))
	if status == nil || err != nil {
		return nil, err
	}
	data := rotations(status)
	data["token"] = status.Current.Text
	data["token_id"] = status.Current.ID.String()
	data["ttl"] = int64(status.TTL.Seconds())
	if status.Current.Name != "" {
		data["name"] = status.Current.Name
	}
	if len(status.Current.Data) > 0 {
		data["upstream"] = status.Current.Data
	}
	return &logical.Response{Data: data}, nil
}

func (b *backend) pathRotateRoleUpdate(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, b.Statics.Rotate(ctx, req.Storage, d.Get("name").(string))
}
