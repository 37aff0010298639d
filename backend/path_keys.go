package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
)

func (b *backend) pathsKeys() []*framework.Path {
	return []*framework.Path{
		path("keys/rotate", "rotate", "key", nil,
			only(logical.UpdateOperation,
				forward(b.answer(b.pathKeysRotateUpdate, "Rotate the keys that seal and sign new tokens.", ok(native.KeysAnswer)))),
			"Rotate the keys that seal and sign new tokens.",
			"The former key still opens its tokens until the last of these tokens must have expired. Then the engine deletes the key's "+
				"secret. "+
				"JWTs are signed with the key that was published as the successor. While API servers may not know the successor yet, the "+
				"signing key stays, and a warning says when to rotate again."),
		path(`keys/(?P<key>[\w-]+)`, "destroy", "key", native.KeyFields,
			only(logical.DeleteOperation, forward(b.answer(b.pathKeysDelete, "Destroy a compromised key, and revoke all tokens made "+
				"with the key.", ok(native.KeysAnswer)))),
			"Destroy a compromised key.",
			"Revokes all tokens made with the key at once, for good. The leases of these tokens remain until they expire. Tokens of "+
				"the same grants made with another key stay valid. Another key replaces a destroyed current key. "+
				"A signing key leaves the published keys: API servers that cache the published keys accept its JWTs, and may not know the "+
				"next key, for up to jwks_max_age."),
		path("keys/?$", "", "keys", nil,
			only(logical.ListOperation, b.answer(b.pathKeysList, "List the keys without their secrets.", ok(native.KeysListAnswer))),
			"List the keys without their secrets.",
			"The current key seals new tokens. A retired key opens the tokens that it sealed. The engine stores only the public part "+
				"of expired and destroyed keys."),
	}
}

func (b *backend) pathKeysRotateUpdate(ctx context.Context, st *state, req *request, _ *input) (*response, error) {
	warnings, err := st.RotateKeys(ctx, req.Storage)
	return keysInUse(st, warnings, err)
}

func (b *backend) pathKeysDelete(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	defer b.Statics.Wake() // a static role may keep a token of the key
	warnings, err := st.DestroyKey(ctx, req.Storage, d.Get("key").(string))
	return keysInUse(st, warnings, err)
}

// keysInUse returns the answer that names the current keys.
func keysInUse(st *state, warnings []string, err error) (*response, error) {
	if err != nil {
		return nil, err
	}
	resp := members(native.KeysAnswer, st.KeysInUse())
	resp.Warnings = warnings
	return resp, nil
}

func (b *backend) pathKeysList(ctx context.Context, st *state, req *request, _ *input) (*response, error) {
	return logical.ListResponseWithInfo(st.DescribeKeys()), nil
}
