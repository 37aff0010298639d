package backend

import (
	"context"
	"fmt"
	"slices"
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
			ExistenceCheck: b.exists(func(st *state, name string) bool { return st.connections.Providers.Has(name) }),
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
		b.listPath("providers", func(st *state) []string { return st.connections.Providers.Names() }),
	}
}

func (b *backend) pathProvidersRead(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	p := st.connections.Providers.Get(name)
	if err := st.connections.Providers.Broken(name); err != nil {
		return nil, refusal.Wrap(err)
	}
	if p == nil {
		return nil, nil
	}
	return &logical.Response{Data: map[string]any{
		"title":         p.Title,
		"description":   strings.TrimSpace(p.Description),
		"documentation": listed(p.Documentation),
		"builtin":       st.connections.Providers.IsBuiltin(name),
		"expiry":        string(p.Expiry),
		"operations":    p.OperationNames(),
		"credential":    describeFields(p.Credential),
		"settings":      describeFields(p.Settings),
		"params":        describeFields(p.Params),
		"example":       exampleOf(p, req.MountPoint),
		"definition":    p.Text,
	}}, nil
}

// describeFields returns a description of each field in one line.
func describeFields(fields map[string]connector.Field) map[string]any {
	described := make(map[string]any, len(fields))
	for name, f := range fields {
		about := []string{f.Type}
		if f.Required {
			about = append(about, "required")
		}
		if f.Secret {
			about = append(about, "secret")
		}
		text := fmt.Sprintf("%s (%s)", strings.TrimSpace(f.Description), strings.Join(about, ", "))
		if len(f.Allowed) > 0 {
			text += " One of: " + strings.Join(f.Allowed, ", ") + "."
		}
		described[name] = text
	}
	return described
}

// exampleOf returns the commands that set up a connection and a role.
func exampleOf(p *connector.Provider, mountPoint string) string {
	needed := func(fields map[string]connector.Field, flag string) string {
		var parts []string
		for name, f := range fields {
			if f.Required {
				parts = append(parts, fmt.Sprintf(" %s=%s=...", flag, name))
			}
		}
		slices.Sort(parts)
		return strings.Join(parts, "")
	}
	return fmt.Sprintf("vault write %[1]sconnections/my-%[2]s provider=%[2]s url=https://...%[3]s%[4]s\n"+
		"vault write -force %[1]sconnections/my-%[2]s/check\n"+
		"vault write %[1]sroles/my-role connection=my-%[2]s%[5]s ttl=1h\n"+
		"vault read %[1]screds/my-role",
		mountPoint, p.Name, needed(p.Credential, "credential"), needed(p.Settings, "settings"), needed(p.Params, "params"))
}

func (b *backend) pathProvidersWrite(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, b.upstreams.WriteProvider(ctx, req.Storage, d.Get("name").(string), given[string](d, "definition"))
}

func (b *backend) pathProvidersDelete(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, b.upstreams.DeleteProvider(ctx, req.Storage, d.Get("name").(string))
}
