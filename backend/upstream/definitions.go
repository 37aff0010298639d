package upstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// ProviderChange is a request to define a provider.
type ProviderChange struct {
	Definition *string `json:"definition"` // in YAML; required
}

// WriteProvider defines a provider of an operator's own.
func (k *Keeper) WriteProvider(ctx context.Context, s logical.Storage, name string, change *ProviderChange) error {
	cs := k.Connections
	if cs.Providers.builtin[name] != nil {
		return refusal.Field("name", "%q comes with the engine and cannot be changed; write yours under another name", name)
	}
	if change.Definition == nil {
		return refusal.Field("definition", "is needed, in YAML: definition=@file.yaml")
	}
	p, err := connector.Compile([]byte(*change.Definition))
	if err != nil {
		return refusal.Field("definition", "%s", err)
	}
	if p.Name != name {
		return refusal.Field("definition", "its name is %q, and the path says %q", p.Name, name)
	}
	// The connections and roles that use the provider must fit the definition, and must not change until it is written.
	roles := k.mount.Roles()
	cs.Writing.Lock()
	defer cs.Writing.Unlock()
	roles.Writing.Lock()
	defer roles.Writing.Unlock()
	if err := errors.Join(cs.ReloadAll(ctx, s), roles.ReloadAll(ctx, s)); err != nil {
		return err
	}
	if err := k.fits(p); err != nil {
		return refusal.Field("definition", "%s", err)
	}
	return cs.Providers.put(ctx, s, name, p)
}

// fits returns an error if a connection or a role would not work any more with another definition of a provider.
func (k *Keeper) fits(p *connector.Provider) error {
	for _, c := range k.Connections.All() {
		if c.Provider != p.Name {
			continue
		}
		if _, err := connector.Values(p.Credential, c.Credential); err != nil {
			return fmt.Errorf("connection %q has another credential: %w", c.name, err)
		}
		if _, err := connector.Values(p.Settings, c.Settings); err != nil {
			return fmt.Errorf("connection %q has other settings: %w", c.name, err)
		}
		for _, r := range k.rolesOf(c) {
			if _, err := connector.Values(p.Params, r.Params); err != nil {
				return fmt.Errorf("role %q has other params: %w", r.Name(), err)
			}
		}
	}
	return nil
}

// DeleteProvider deletes a provider of an operator's own that no connection uses.
func (k *Keeper) DeleteProvider(ctx context.Context, s logical.Storage, name string) error {
	cs := k.Connections
	cs.Writing.Lock()
	defer cs.Writing.Unlock()
	if cs.Providers.IsBuiltin(name) {
		return refusal.Field("name", "%q comes with the engine and cannot be deleted", name)
	}
	if err := cs.ReloadAll(ctx, s); err != nil {
		return err
	}
	for _, c := range cs.All() {
		if c.Provider == name {
			return refusal.Field("name", "connection %q uses provider %q", c.name, name)
		}
	}
	return cs.Providers.delete(ctx, s, name)
}

// DropBrokenProvider deletes a stored provider that does not compile. It does nothing if there is none.
func (k *Keeper) DropBrokenProvider(ctx context.Context, s logical.Storage, name string) error {
	cs := k.Connections
	cs.Writing.Lock()
	defer cs.Writing.Unlock()
	if _, err := cs.Providers.latest(ctx, s, name); err != nil || cs.Providers.Broken(name) == nil {
		return err
	}
	return cs.Providers.delete(ctx, s, name)
}
