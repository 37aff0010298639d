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
					Description:  "The definition in YAML; docs/providers.md says how to write one.",
					DisplayAttrs: &framework.DisplayAttributes{Name: "Definition", EditType: "textarea"},
				},
			},
			ExistenceCheck: b.exists(func(st *state, name string) bool { return st.connections.Providers.Has(name) }),
			Operations: crud(
				&framework.PathOperation{
					Callback: b.pathProvidersRead,
					Summary:  "Read what a provider needs, and how it is defined.",
					Responses: ok(map[string]*framework.FieldSchema{
						"title":         {Type: framework.TypeString, Required: true, Description: "The service."},
						"description":   {Type: framework.TypeString, Required: true, Description: "What its tokens are, and their limits."},
						"documentation": {Type: framework.TypeStringSlice, Required: true, Description: "The API's own documentation."},
						"builtin":       {Type: framework.TypeBool, Required: true, Description: "Whether it comes with the engine, and cannot be changed."},
						"expiry":        {Type: framework.TypeString, Required: true, Description: "What the service knows of a token's end: none, seconds, days."},
						"operations":    {Type: framework.TypeStringSlice, Required: true, Description: "What it can do."},
						"credential":    {Type: framework.TypeMap, Required: true, Description: "What a connection's credential consists of."},
						"settings":      {Type: framework.TypeMap, Required: true, Description: "What a connection's settings can be."},
						"params":        {Type: framework.TypeMap, Required: true, Description: "What a role's params can be."},
						"example":       {Type: framework.TypeString, Required: true, Description: "Commands that set it up."},
						"definition":    {Type: framework.TypeString, Required: true, Description: "The definition in YAML."},
					}),
				},
				change(b.pathProvidersWrite, "Define a provider of your own."),
				change(b.pathProvidersDelete, "Delete a provider of your own."),
			),
			HelpSynopsis:    "How the API of an upstream service is asked for tokens.",
			HelpDescription: "Reading a provider returns its documentation. A further service takes a definition in YAML, which is checked when it is written.",
		},
		b.listPath("providers", func(st *state) []string { return st.connections.Providers.Names() }),
	}
}

func (b *backend) pathProvidersRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	p := st.connections.Providers.Get(name)
	if err := st.connections.Providers.Broken(name); err != nil {
		return nil, refusal.New("%w", err)
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

// describeFields tells of each field in a line what it is.
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

// exampleOf writes the commands that set a connection and a role up.
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

func (b *backend) pathProvidersWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if _, err := b.load(ctx, req.Storage); err != nil {
		return nil, err
	}
	return nil, b.upstreams.WriteProvider(ctx, req.Storage, d.Get("name").(string), given[string](d, "definition"))
}

func (b *backend) pathProvidersDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if _, err := b.load(ctx, req.Storage); err != nil {
		return nil, err
	}
	return nil, b.upstreams.DeleteProvider(ctx, req.Storage, d.Get("name").(string))
}
