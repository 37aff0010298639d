package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) pathsKeys() []*framework.Path {
	list := listResponseFields("key number, or \"kid\" of a signing key, oldest first")
	list["key_info"] = &framework.FieldSchema{Type: framework.TypeMap, Description: "Of each key: algorithm, use (enc: seals opaque tokens, sig: signs JWTs), state (successor, current, retired, expired, destroyed or broken), created_at, and once retired retired_at and needed_until."}
	inUse := map[string]*framework.FieldSchema{
		"key":         {Type: framework.TypeString, Description: "Number of the key that seals opaque tokens from now on; absent where no token was issued."},
		"signing_key": {Type: framework.TypeString, Description: "The \"kid\" of the key that signs JWTs from now on; absent where no role issues JWTs."},
	}
	return []*framework.Path{
		{
			Pattern:      "keys/rotate",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "key"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{
					Callback:                    b.pathKeysRotateUpdate,
					Summary:                     "Seal new tokens with a new key.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					Responses:                   ok(inUse),
				},
			},
			HelpSynopsis: "Seal new tokens with a new key.",
			HelpDescription: "The former key still opens its tokens, until the last of them must have expired; then its secret is deleted. " +
				"JWTs are signed with the key that was published as the successor. While API servers may not know the successor yet, the signing key stays, and a warning says when to rotate again.",
		},
		{
			Pattern:      `keys/(?P<key>[\w-]+)`,
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "destroy", OperationSuffix: "key"},
			Fields: map[string]*framework.FieldSchema{
				"key": {Type: framework.TypeString, Required: true, Description: "Number of the key, or \"kid\" of a signing key."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.DeleteOperation: &framework.PathOperation{
					Callback:                    b.pathKeysDelete,
					Summary:                     "Destroy a key that was compromised, and with it all tokens made with it.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					Responses:                   ok(inUse),
				},
			},
			HelpSynopsis: "Destroy a key that was compromised.",
			HelpDescription: "All tokens made with the key are revoked at once, and this cannot be undone. Their leases stay until they end, and tokens of the same grants that another key made stay good. Another key takes the place of a current key. " +
				"A signing key leaves the published keys: API servers that cache the published keys accept its JWTs, and may not know the next key, for up to jwks_max_age.",
		},
		{
			Pattern:      "keys/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "keys"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:  b.pathKeysList,
					Summary:   "List the key ring, without the secrets.",
					Responses: ok(list),
				},
			},
			HelpSynopsis:    "List the key ring, without the secrets.",
			HelpDescription: "The current key seals new tokens; retired keys open those that they have sealed; of expired and destroyed keys only the public part is remembered.",
		},
	}
}

func (b *backend) pathKeysRotateUpdate(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := st.Sealing.Rotate(ctx, req.Storage); err != nil {
		return nil, err
	}
	resp := st.keysInUse()
	c, err := st.Config.Get()
	if err != nil {
		resp.AddWarning("the signing key was not rotated: " + err.Error())
		return resp, nil
	}
	tooYoungUntil, err := st.Signing.Rotate(ctx, req.Storage, c.SigningPolicy())
	if err != nil {
		return nil, err
	}
	resp = st.keysInUse()
	if !tooYoungUntil.IsZero() {
		resp.AddWarning(fmt.Sprintf("the signing key was not rotated: its successor was published too recently for every API server to know it. Rotate again after %s", rfc3339(tooYoungUntil)))
	}
	return resp, nil
}

func (b *backend) pathKeysDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	defer b.statics.Wake() // a static role may keep a token of the key
	name := d.Get("key").(string)
	var unknownUntil time.Time
	switch {
	case st.Sealing.Keys().Find(name) != nil:
		err = st.Sealing.Destroy(ctx, req.Storage, name)
	case st.Signing.Keys().Find(name) != nil:
		unknownUntil, err = st.Signing.Destroy(ctx, req.Storage, name, st.Config.OrDefaults().SigningPolicy())
	default:
		return nil, refusal.Field("key", "there is no key %q, see keys/. Nothing was destroyed", refusal.Clip(name))
	}
	if err != nil {
		return nil, err
	}
	b.statics.Wake() // a static role may keep a token made with it
	b.Logger().Warn("key destroyed; its tokens revoked", "key", name)
	resp := st.keysInUse()
	if !unknownUntil.IsZero() {
		resp.AddWarning(fmt.Sprintf("API servers that cache the published keys may not know the key that signs from now on until %s, and refuse new JWTs until then", rfc3339(unknownUntil)))
	}
	return resp, nil
}

// keysInUse is the answer that names the current keys.
func (st *state) keysInUse() *logical.Response {
	data := make(map[string]any)
	if current := st.Sealing.Keys().Current(); current != nil {
		data["key"] = current.Name
	}
	if current := st.Signing.Keys().Current(); current != nil {
		data["signing_key"] = current.Name
	}
	return &logical.Response{Data: data}
}

func (b *backend) pathKeysList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
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

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
