package backend

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) pathsKeys() []*framework.Path {
	list := listResponseFields("key number, or \"kid\" of a signing key, oldest first")
	list["key_info"] = &framework.FieldSchema{Type: framework.TypeMap, Description: "Key to its algorithm, use (enc: seals opaque tokens, sig: signs JWTs), state (successor, current, retired, expired, destroyed or broken) and created_at; of a retired key also retired_at and needed_until."}
	inUse := map[string]*framework.FieldSchema{
		"key":         {Type: framework.TypeString, Description: "Number of the key that now seals opaque tokens; absent if the mount has issued no token."},
		"signing_key": {Type: framework.TypeString, Description: "The \"kid\" of the key that now signs JWTs; absent if no role issues JWTs."},
	}
	return []*framework.Path{
		{
			Pattern:      "keys/rotate",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "key"},
			Operations:   only(logical.UpdateOperation, forward(b.answer(b.pathKeysRotateUpdate, "Rotate the keys that seal and sign new tokens.", ok(inUse)))),
			HelpSynopsis: "Rotate the keys that seal and sign new tokens.",
			HelpDescription: "The former key still opens its tokens until the last of these tokens must have expired. Then the engine deletes the key's secret. " +
				"JWTs are signed with the key that was published as the successor. While API servers may not know the successor yet, the signing key stays, and a warning says when to rotate again.",
		},
		{
			Pattern:      `keys/(?P<key>[\w-]+)`,
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "destroy", OperationSuffix: "key"},
			Fields: map[string]*framework.FieldSchema{
				"key": {Type: framework.TypeString, Required: true, Description: "Number of the key, or \"kid\" of a signing key."},
			},
			Operations:   only(logical.DeleteOperation, forward(b.answer(b.pathKeysDelete, "Destroy a compromised key, and revoke all tokens made with the key.", ok(inUse)))),
			HelpSynopsis: "Destroy a compromised key.",
			HelpDescription: "Revokes all tokens made with the key at once, for good. The leases of these tokens remain until they expire. Tokens of the same grants made with another key stay valid. Another key replaces a destroyed current key. " +
				"A signing key leaves the published keys: API servers that cache the published keys accept its JWTs, and may not know the next key, for up to jwks_max_age.",
		},
		{
			Pattern:         "keys/?$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "keys"},
			Operations:      only(logical.ListOperation, b.answer(b.pathKeysList, "List the keys without their secrets.", ok(list))),
			HelpSynopsis:    "List the keys without their secrets.",
			HelpDescription: "The current key seals new tokens. A retired key opens the tokens that it sealed. The engine stores only the public part of expired and destroyed keys.",
		},
	}
}

func (b *backend) pathKeysRotateUpdate(ctx context.Context, st *state, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	if err := st.Sealing.Rotate(ctx, req.Storage); err != nil {
		return nil, err
	}
	resp := keysInUse(st)
	c, err := st.Config.Get()
	if err != nil {
		resp.AddWarning("the signing key was not rotated: " + err.Error())
		return resp, nil
	}
	tooYoungUntil, err := st.Signing.Rotate(ctx, req.Storage, c.SigningPolicy())
	if err != nil {
		return nil, err
	}
	resp = keysInUse(st)
	if !tooYoungUntil.IsZero() {
		resp.AddWarning(fmt.Sprintf("the signing key was not rotated: API servers may not know the successor yet, which was published too recently. Rotate again after %s", rfc3339(tooYoungUntil)))
	}
	return resp, nil
}

func (b *backend) pathKeysDelete(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	defer b.Statics.Wake() // a static role may keep a token of the key
	name := d.Get("key").(string)
	unknownUntil, known, err := st.DestroyKey(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, refusal.Field("key", "there is no key %q, see keys/. Nothing was destroyed", refusal.Clip(name))
	}
	b.Logger().Warn("key destroyed; its tokens revoked", "key", name)
	resp := keysInUse(st)
	if !unknownUntil.IsZero() {
		resp.AddWarning(fmt.Sprintf("API servers that cache the published keys may not know the key that signs from now on until %s, and refuse new JWTs until then", rfc3339(unknownUntil)))
	}
	return resp, nil
}

// keysInUse returns the answer that names the current keys.
func keysInUse(st *state) *logical.Response {
	data := make(map[string]any)
	if current := st.Sealing.Keys().Current(); current != nil {
		data["key"] = current.Name
	}
	if current := st.Signing.Keys().Current(); current != nil {
		data["signing_key"] = current.Name
	}
	return &logical.Response{Data: data}
}

func (b *backend) pathKeysList(ctx context.Context, st *state, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names := []string{}
	info := make(map[string]any)
	for _, part := range []struct {
		use  string
		keys token.Keys
	}{{"enc", st.Sealing.Keys()}, {"sig", st.Signing.Keys()}} {
		for i := range part.keys {
			names = append(names, part.keys[i].Name)
			info[part.keys[i].Name] = describeKey(&part.keys[i], part.use)
		}
	}
	return logical.ListResponseWithInfo(names, info), nil
}

func describeKey(key *token.Key, use string) map[string]any {
	about := map[string]any{"use": use, "state": key.State()}
	if key.Algorithm != "" {
		about["algorithm"] = key.Algorithm
	}
	if !key.CreatedAt.IsZero() {
		about["created_at"] = rfc3339(key.CreatedAt)
	}
	if !key.RetiredAt.IsZero() {
		about["retired_at"] = rfc3339(key.RetiredAt)
		about["needed_until"] = rfc3339(key.NeededUntil())
	}
	if key.Broken != nil {
		about["error"] = key.Broken.Error()
	}
	return about
}
