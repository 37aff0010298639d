package backend

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathsKeys() []*framework.Path {
	response := listResponseFields("key number, oldest first")
	response["key_info"] = &framework.FieldSchema{Type: framework.TypeMap, Description: "Of each key: algorithm, state (current, retired or spent), created_at, and once retired retired_at and needed_until."}
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
						"key": {Type: framework.TypeString, Required: true, Description: "Number of the new key."},
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
	if err := st.keys.Rotate(ctx, req.Storage); err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{"key": keyName(st.keys.ring.Load().Current().Number)}}, nil
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
	return logical.ListResponseWithInfo(names, info), nil
}
