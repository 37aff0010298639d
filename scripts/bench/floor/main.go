// Command floor is a Vault plugin that does nothing, to measure the cost of Vault itself. The answers of floor are constant,
// with the shape and size of the engine's answers.
package main

import (
	"context"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
)

// token has the form of a native token.
const token = "apt_08cDLvQv59C7wzQDyKs7qa95qsqHC5JmI8O8Q2rsprM1H6VQsLYuqSa4su98HpPfjr6Gjk1pP5e5y1qkHWQ"

func main() {
	meta := &api.PluginAPIClientMeta{}
	if err := meta.FlagSet().Parse(os.Args[1:]); err != nil {
		os.Exit(2)
	}
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{
		BackendFactoryFunc: factory,
		TLSProviderFunc:    api.VaultPluginTLSProvider(meta.GetTLSConfig()),
	}); err != nil {
		hclog.Default().Error("plugin stopped", "error", err)
		os.Exit(1)
	}
}

//nolint:funlen // a table of paths
func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	leased := &framework.Secret{
		Type: "floor",
		Renew: func(_ context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
			return &logical.Response{Secret: req.Secret}, nil
		},
		Revoke: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
			return nil, nil
		},
	}
	b := &framework.Backend{
		BackendType: logical.TypeLogical,
		Secrets:     []*framework.Secret{leased},
		PathsSpecial: &logical.Paths{
			Unauthenticated: []string{"stored"}, // like oauth/token
		},
		Paths: []*framework.Path{
			{
				Pattern: "leased/.*",
				Operations: map[logical.Operation]framework.OperationHandler{
					logical.ReadOperation: &framework.PathOperation{
						Callback: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
							return leased.Response(map[string]any{
								"token":      token,
								"token_id":   "2409c65c9d984dd3852b2869",
								"token_type": "Bearer",
								"scopes":     []string{"invoices:read", "invoices:list"},
								"expires_at": "2026-01-01T00:00:00Z",
							}, nil), nil
						},
					},
				},
			},
			{
				Pattern: "leased-stored/.*",
				Operations: map[logical.Operation]framework.OperationHandler{
					logical.ReadOperation: &framework.PathOperation{
						Callback: func(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
							for range 2 {
								entry := &logical.StorageEntry{Key: req.ID, Value: make([]byte, 512)}
								if err := req.Storage.Put(ctx, entry); err != nil {
									return nil, err
								}
							}
							return leased.Response(map[string]any{
								"token":      token,
								"token_id":   "2409c65c9d984dd3852b2869",
								"name":       "vault-floor-bench-aBcDeF123456",
								"connection": "bench",
								"expires_at": "2026-01-01T00:00:00Z",
							}, nil), nil
						},
					},
				},
			},
			{
				Pattern: "unleased",
				Fields: map[string]*framework.FieldSchema{
					"token":           {Type: framework.TypeString},
					"required_scopes": {Type: framework.TypeCommaStringSlice},
				},
				Operations: map[logical.Operation]framework.OperationHandler{
					logical.UpdateOperation: &framework.PathOperation{
						Callback: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
							return &logical.Response{Data: map[string]any{
								"active":      true,
								"client_id":   "bench",
								"environment": "apitoken",
								"exp":         int64(1795450943),
								"iat":         int64(1795447343),
								"jti":         "2409c65c9d984dd3852b2869",
								"role":        "bench",
								"scope":       "invoices:read invoices:list",
								"token_id":    "2409c65c9d984dd3852b2869",
								"token_type":  "Bearer",
							}}, nil
						},
					},
				},
			},
			{
				Pattern: "stored",
				Fields: map[string]*framework.FieldSchema{
					"token": {Type: framework.TypeString},
					"key":   {Type: framework.TypeString},
				},
				Operations: map[logical.Operation]framework.OperationHandler{
					logical.UpdateOperation: &framework.PathOperation{
						Callback: func(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
							entry := &logical.StorageEntry{Key: data.Get("key").(string), Value: make([]byte, 128)}
							if err := req.Storage.Put(ctx, entry); err != nil {
								return nil, err
							}
							return &logical.Response{Data: map[string]any{
								"access_token":  token,
								"expires_in":    300,
								"refresh_token": token,
								"scope":         "invoices:read invoices:list",
								"token_type":    "Bearer",
							}}, nil
						},
					},
				},
			},
		},
	}
	if err := b.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return b, nil
}
