package backend

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

func (b *backend) pathsProviders() []*framework.Path {
	return []*framework.Path{
		{
			Pattern:      "providers/" + framework.GenericNameRegex("name"),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "provider"},
			Fields: map[string]*framework.FieldSchema{
				"name": {Type: framework.TypeString, Required: true, Description: "Name of the provider."},
				"definition": {
					Type:         framework.TypeString,
					Description:  "Definition of the provider in YAML; see docs/providers.md.",
					DisplayAttrs: &framework.DisplayAttributes{Name: "Definition", EditType: "textarea"},
				},
			},
			ExistenceCheck: b.exists(func(st *state, name string) bool { return st.Connections.Providers.Has(name) }),
			Operations: crud(
				b.answer(b.pathProvidersRead, "Read the documentation and the definition of a provider.", ok(map[string]*framework.FieldSchema{
					"title":         {Type: framework.TypeString, Required: true, Description: "Name of the service."},
					"description":   {Type: framework.TypeString, Required: true, Description: "Kind of the service's tokens, and their limits."},
					"documentation": {Type: framework.TypeStringSlice, Required: true, Description: "Links to the API's documentation."},
					"builtin":       {Type: framework.TypeBool, Required: true, Description: "Whether the provider is part of the engine. A built-in provider cannot be changed."},
					"expiry":        {Type: framework.TypeString, Required: true, Description: "Precision of a token's expiry at the service: none, seconds, days."},
					"operations":    {Type: framework.TypeStringSlice, Required: true, Description: "Operations that the provider supports."},
					"credential":    {Type: framework.TypeMap, Required: true, Description: "Fields of a connection's credential."},
					"settings":      {Type: framework.TypeMap, Required: true, Description: "Fields of a connection's settings."},
					"params":        {Type: framework.TypeMap, Required: true, Description: "Fields of a role's params."},
					"example":       {Type: framework.TypeString, Required: true, Description: "Commands that set up a connection and a role."},
					"definition":    {Type: framework.TypeString, Required: true, Description: "Definition of the provider in YAML."},
				})),
				b.change(b.pathProvidersWrite, "Define a custom provider."),
				b.change(b.pathProvidersDelete, "Delete a custom provider."),
			),
			HelpSynopsis:    "A definition of how to create and revoke tokens at an upstream service.",
			HelpDescription: "A read returns the provider's documentation. A write defines a provider for a further service in YAML, and rejects an invalid definition.",
		},
		b.listPath("providers", func(st *state) []string { return st.Connections.Providers.Names() }),
	}
}

func (b *backend) pathProvidersRead(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	p := st.Connections.Providers.Get(name)
	if err := st.Connections.Providers.Broken(name); err != nil {
		return nil, refusal.Wrap(err)
	}
	if p == nil {
		return nil, nil
	}
	return &logical.Response{Data: map[string]any{
		"title":         p.Title,
		"description":   strings.TrimSpace(p.Description),
		"documentation": listed(p.Documentation),
		"builtin":       st.Connections.Providers.IsBuiltin(name),
		"expiry":        string(p.Expiry),
		"operations":    p.OperationNames(),
		"credential":    connector.DescribeFields(p.Credential),
		"settings":      connector.DescribeFields(p.Settings),
		"params":        connector.DescribeFields(p.Params),
		"example":       p.Example(req.MountPoint),
		"definition":    p.Text,
	}}, nil
}

func (b *backend) pathProvidersWrite(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, b.Upstreams.WriteProvider(ctx, req.Storage, d.Get("name").(string), given[string](d, "definition"))
}

func (b *backend) pathProvidersDelete(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, b.Upstreams.DeleteProvider(ctx, req.Storage, d.Get("name").(string))
}
