package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

func (b *backend) pathsProviders() []*framework.Path {
	return b.pathsEntries("providers", func(st *state) entries { return &st.Connections.Providers }, upstream.ProviderFields,
		crud(
			b.answer(b.pathProvidersRead, "Read the documentation and the definition of a provider.", ok(upstream.ProviderAnswer)),
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
	return members(upstream.ProviderAnswer, p.Describe(req.MountPoint), builtin), nil
}

func (b *backend) pathProvidersWrite(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	return nil, b.Upstreams.WriteProvider(ctx, req.Storage, d.Get("name").(string), given[upstream.ProviderChange](d))
}

func (b *backend) pathProvidersDelete(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	return nil, b.Upstreams.DeleteProvider(ctx, req.Storage, d.Get("name").(string))
}
