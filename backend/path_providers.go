package backend

import (
	"context"
	"errors"
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
			ExistenceCheck: b.exists(func(st *state, name string) bool {
				return st.connections.provider(name) != nil || st.connections.brokenProvider(name) != nil
			}),
			Operations: kept(
				&framework.PathOperation{
					Callback: b.providerRead,
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
				change(b.providerWrite, "Define a provider of your own."),
				change(b.providerDelete, "Delete a provider of your own."),
			),
			HelpSynopsis:    "How the API of an upstream service is asked for tokens.",
			HelpDescription: "Reading a provider returns its documentation. A further service takes a definition in YAML, which is checked when it is written.",
		},
		b.listPath("providers", func(st *state) []string { return st.connections.providerNames() }),
	}
}

func (b *backend) providerRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	p := st.connections.provider(name)
	if err := st.connections.brokenProvider(name); err != nil {
		return nil, refusal.New("%w", err)
	}
	if p == nil {
		return nil, nil
	}
	return &logical.Response{Data: map[string]any{
		"title":         p.Title,
		"description":   strings.TrimSpace(p.Description),
		"documentation": listed(p.Documentation),
		"builtin":       st.connections.builtin[name] == p,
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

func (b *backend) providerWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	if st.connections.builtin[name] != nil {
		return nil, refusal.Field("name", "%q comes with the engine and cannot be changed; write yours under another name", name)
	}
	text, given := d.GetOk("definition")
	if !given {
		return nil, refusal.Field("definition", "is needed, in YAML: definition=@file.yaml")
	}
	p, err := connector.Compile([]byte(text.(string)))
	if err != nil {
		return nil, refusal.Field("definition", "%s", err)
	}
	if p.Name != name {
		return nil, refusal.Field("definition", "its name is %q, and the path says %q", p.Name, name)
	}
	// What uses it must still fit, and stay as it is until the definition is written.
	st.connections.Writing.Lock()
	defer st.connections.Writing.Unlock()
	st.roles.Writing.Lock()
	defer st.roles.Writing.Unlock()
	if err := errors.Join(st.connections.ReloadAll(ctx, req.Storage), st.roles.ReloadAll(ctx, req.Storage)); err != nil {
		return nil, err
	}
	if err := st.fits(p); err != nil {
		return nil, refusal.Field("definition", "%s", err)
	}
	return nil, st.connections.storeProvider(ctx, req.Storage, name, p)
}

// fits says what would not work any more with another definition of a provider.
func (st *state) fits(p *connector.Provider) error {
	for _, c := range st.connections.All() {
		if c.Provider != p.Name {
			continue
		}
		if _, err := connector.Values(p.Credential, c.Credential); err != nil {
			return fmt.Errorf("connection %q has another credential: %w", c.name, err)
		}
		if _, err := connector.Values(p.Settings, c.Settings); err != nil {
			return fmt.Errorf("connection %q has other settings: %w", c.name, err)
		}
		for _, r := range st.rolesOf(c) {
			if _, err := connector.Values(p.Params, r.Params); err != nil {
				return fmt.Errorf("role %q has other params: %w", r.Name(), err)
			}
		}
	}
	return nil
}

func (b *backend) providerDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	st.connections.Writing.Lock()
	defer st.connections.Writing.Unlock()
	if p := st.connections.builtin[name]; p != nil && st.connections.provider(name) == p {
		return nil, refusal.Field("name", "%q comes with the engine and cannot be deleted", name)
	}
	if err := st.connections.ReloadAll(ctx, req.Storage); err != nil {
		return nil, err
	}
	for _, c := range st.connections.All() {
		if c.Provider == name {
			return nil, refusal.Field("name", "connection %q uses provider %q", c.name, name)
		}
	}
	return nil, st.connections.storeProvider(ctx, req.Storage, name, nil)
}
