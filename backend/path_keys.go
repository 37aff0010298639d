package backend

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathsKeys() []*framework.Path {
	response := listResponseFields("key number, or \"kid\" of a signing key, oldest first")
	response["key_info"] = &framework.FieldSchema{Type: framework.TypeMap, Description: "Of each key: algorithm, use (enc: seals opaque tokens, sig: signs JWTs), state (successor, current, retired or spent), created_at, and once retired retired_at and needed_until."}
	return []*framework.Path{
		{
			Pattern:      "keys/rotate",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "key"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{
					Callback:                    b.keysRotate,
					Summary:                     "Seal new tokens with a new key.",
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
					Responses: ok(map[string]*framework.FieldSchema{
						"key":         {Type: framework.TypeString, Required: true, Description: "Number of the new key that seals opaque tokens."},
						"signing_key": {Type: framework.TypeString, Description: "The \"kid\" of the new key that signs JWTs; absent where no role issues JWTs."},
					}),
				},
			},
			HelpSynopsis:    "Seal new tokens with a new key.",
			HelpDescription: "The key before it still opens the tokens that it has sealed, until the last of them must have ended; then its secret is deleted.",
		},
		{
			Pattern:      "keys/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "keys"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback:  b.keysList,
					Summary:   "List the key ring, without the secrets.",
					Responses: ok(response),
				},
			},
			HelpSynopsis:    "List the key ring, without the secrets.",
			HelpDescription: "The current key seals new tokens; retired keys open those that they have sealed; of spent keys only the number is remembered.",
		},
	}
}

func (b *backend) keysRotate(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := st.signers.Rotate(ctx, req.Storage, st.config.get()); err != nil {
		return nil, err
	}
	if err := st.keys.Rotate(ctx, req.Storage); err != nil {
		return nil, err
	}
	data := map[string]any{"key": keyName(st.keys.ring.Load().Current().Number)}
	if current := st.signers.ring.Load().Current(); current != nil {
		data["signing_key"] = current.ID
	}
	return &logical.Response{Data: data}, nil
}

func (b *backend) keysList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	ring := st.keys.ring.Load()
	names := make([]string, len(ring.Keys))
	info := make(map[string]any, len(ring.Keys))
	for i := range ring.Keys {
		key := &ring.Keys[i]
		names[i] = keyName(key.Number)
		about := map[string]any{
			"algorithm":  algorithmGCM,
			"use":        "enc",
			"state":      "current",
			"created_at": key.CreatedAt.UTC().Format(time.RFC3339),
		}
		if !key.RetiredAt.IsZero() {
			about["state"] = "retired"
			about["retired_at"] = key.RetiredAt.UTC().Format(time.RFC3339)
			about["needed_until"] = key.NeededUntil().UTC().Format(time.RFC3339)
		}
		if key.Secret == nil {
			about["state"] = "spent"
		}
		info[names[i]] = about
	}
	for _, key := range st.signers.ring.Load().Keys {
		names = append(names, key.ID)
		about := map[string]any{
			"algorithm":  key.Algorithm,
			"use":        "sig",
			"state":      "current",
			"created_at": key.PublishedAt.UTC().Format(time.RFC3339),
		}
		switch {
		case key.SignsFrom.IsZero():
			about["state"] = "successor"
		case !key.RetiredAt.IsZero():
			about["state"] = "retired"
			about["retired_at"] = key.RetiredAt.UTC().Format(time.RFC3339)
			about["needed_until"] = key.NeededUntil().UTC().Format(time.RFC3339)
		}
		if key.Private == nil {
			about["state"] = "spent"
		}
		info[key.ID] = about
	}
	return logical.ListResponseWithInfo(names, info), nil
}
