package upstream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
)

// ProvidersPrefix is where the providers of an operator's own are in storage.
const ProvidersPrefix = "provider/"

// Providers are the built-in providers and those of an operator's own. An operator's own provider takes precedence over
// a provider of the same name that a later version of the plugin brings.
type Providers struct {
	mu      sync.RWMutex
	named   map[string]*connector.Provider // name -> provider
	damaged map[string]error               // name of a stored provider that does not compile -> the reason
	builtin map[string]*connector.Provider // name -> provider
}

// builtinProviders compiles the built-in providers once for all mounts of a process.
var builtinProviders = sync.OnceValues(connector.Builtin)

// load reads all providers from storage.
func (ps *Providers) load(ctx context.Context, s logical.Storage) error {
	builtin, err := builtinProviders()
	if err != nil {
		return err
	}
	ps.mu.Lock()
	if ps.named == nil {
		ps.builtin, ps.named, ps.damaged = builtin, maps.Clone(builtin), make(map[string]error)
	}
	ps.mu.Unlock()
	stored, err := s.List(ctx, ProvidersPrefix)
	if err != nil {
		return err
	}
	own := slices.DeleteFunc(ps.Names(), ps.IsBuiltin)
	for _, name := range append(stored, own...) {
		if _, err := ps.latest(ctx, s, name); err != nil {
			return err
		}
	}
	return nil
}

// Get returns the provider of a name; nil if there is none or the provider does not compile.
func (ps *Providers) Get(name string) *connector.Provider {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	return ps.named[name]
}

// Has reports whether there is a provider of a name, even one that does not compile.
func (ps *Providers) Has(name string) bool { return ps.Get(name) != nil || ps.Broken(name) != nil }

// IsBuiltin reports whether the provider of a name is built in.
func (ps *Providers) IsBuiltin(name string) bool {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	return ps.builtin[name] != nil && ps.named[name] == ps.builtin[name]
}

// Broken returns why the stored provider of a name does not compile; nil if the provider compiles or there is none.
func (ps *Providers) Broken(name string) error {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	if err := ps.damaged[name]; err != nil {
		return fmt.Errorf("the stored entry %s%s does not compile: %w", ProvidersPrefix, name, err)
	}
	return nil
}

// Damaged returns the storage keys of the providers that do not compile, each with the reason.
func (ps *Providers) Damaged() map[string]error {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	keys := make(map[string]error, len(ps.damaged))
	for name, err := range ps.damaged {
		keys[ProvidersPrefix+name] = err
	}
	return keys
}

// Names returns all names in alphabetical order, also those of providers that do not compile.
func (ps *Providers) Names() []string {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	return store.SortedNames(ps.named, ps.damaged)
}

// latest reads a provider from storage again, since another process may have written the provider. It returns nil if
// there is none or the provider does not compile. The caller holds Writing.
func (ps *Providers) latest(ctx context.Context, s logical.Storage, name string) (*connector.Provider, error) {
	entry, err := s.Get(ctx, ProvidersPrefix+name)
	if err != nil {
		return nil, err
	}
	if p := ps.Get(name); entry == nil || p == nil || p.Text != string(entry.Value) {
		ps.publishStored(name, entry)
	}
	return ps.Get(name), nil
}

// publishStored publishes what storage holds of a provider; nil stands for nothing.
func (ps *Providers) publishStored(name string, entry *logical.StorageEntry) {
	var p *connector.Provider
	var err error
	if entry != nil {
		p, err = connector.Compile(entry.Value)
	}
	ps.publish(name, p, err)
}

// publish replaces a provider of an operator's own in memory, by one that compiles or by the reason why it does not.
// Both are nil if there is none.
func (ps *Providers) publish(name string, p *connector.Provider, damage error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.damaged, name)
	delete(ps.named, name)
	switch {
	case damage != nil:
		ps.damaged[name] = damage
	case p != nil:
		ps.named[name] = p
	case ps.builtin[name] != nil:
		ps.named[name] = ps.builtin[name]
	}
}

// put stores a provider of an operator's own and then publishes the provider. The caller holds Writing.
func (ps *Providers) put(ctx context.Context, s logical.Storage, name string, p *connector.Provider) error {
	if err := s.Put(ctx, &logical.StorageEntry{Key: ProvidersPrefix + name, Value: []byte(p.Text)}); err != nil {
		return err
	}
	ps.publish(name, p, nil)
	return nil
}

// delete deletes a provider of an operator's own. The caller holds Writing.
func (ps *Providers) delete(ctx context.Context, s logical.Storage, name string) error {
	if err := s.Delete(ctx, ProvidersPrefix+name); err != nil {
		return err
	}
	ps.publish(name, nil, nil)
	return nil
}
