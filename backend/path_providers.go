package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// providerFields are the fields of a provider.
var providerFields = fields{
	"name":       must(str("Name of the provider.")),
	"definition": edited("textarea", titled("Definition", str("Definition of the provider in YAML; see docs/providers.md."))),
}

// providerAnswer are the members of a provider.
var providerAnswer = fields{
	"title":         must(str("Name of the service.")),
	"description":   must(str("Kind of the service's tokens, and their limits.")),
	"documentation": must(strs("Links to the API's documentation.")),
	"builtin":       must(flag("Whether the provider is part of the engine. A built-in provider cannot be changed.")),
	"expiry":        must(str("Precision of a token's expiry at the service: none, seconds, days.")),
	"operations":    must(strs("Operations that the provider supports.")),
	"credential":    must(object("Fields of a connection's credential.")),
	"settings":      must(object("Fields of a connection's settings.")),
	"params":        must(object("Fields of a role's params.")),
	"example":       must(str("Commands that set up a connection and a role.")),
	"definition":    must(str("Definition of the provider in YAML.")),
}

func (b *backend) pathsProviders() []*framework.Path {
	return b.pathsEntries("providers", func(st *state) entries { return &st.Connections.Providers }, providerFields,
		crud(
			b.answer(b.pathProvidersRead, "Read the documentation and the definition of a provider.", ok(providerAnswer)),
			b.change(b.pathProvidersWrite, "Define a custom provider."),
			b.change(b.pathProvidersDelete, "Delete a custom provider."),
		),
		"A definition of how to create and revoke tokens at an upstream service.",
		"A read returns the provider's documentation. A write defines a provider for a further service in YAML, and rejects an "+
			"invalid definition.")
}

func (b *backend) pathProvidersRead(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	name := d.Get("name").(string)
	p := st.Connections.Providers.Get(name)
	if err := st.Connections.Providers.Broken(name); err != nil {
		return nil, refusal.Wrap(err)
	}
	if p == nil {
		return nil, nil
	}
	builtin := map[string]any{"builtin": st.Connections.Providers.IsBuiltin(name)}
	return members(providerAnswer, p.Describe(req.MountPoint), builtin), nil
}

func (b *backend) pathProvidersWrite(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	var definition *string
	if text, given := d.GetOk("definition"); given {
		definition = new(text.(string))
	}
	return nil, b.Upstreams.WriteProvider(ctx, req.Storage, d.Get("name").(string), definition)
}

func (b *backend) pathProvidersDelete(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	return nil, b.Upstreams.DeleteProvider(ctx, req.Storage, d.Get("name").(string))
}
