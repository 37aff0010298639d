package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
)

// ConnectionsPrefix is where connections are in storage.
const ConnectionsPrefix = "connection/"

// Connections are the connections and the providers of a mount, in memory and in storage. Writing is the lock of both.
type Connections struct {
	*store.Store[string, *Connection]
	Providers Providers

	client connector.ClientConfig // what all connections share
	loaded atomic.Bool
}

func newConnections(client connector.ClientConfig) *Connections {
	cs := &Connections{client: client}
	cs.Store = store.New(ConnectionsPrefix, true, func(name string, stored *logical.StorageEntry) (*Connection, error) {
		var entry Entry
		if err := stored.DecodeJSON(&entry); err != nil {
			return nil, err
		}
		return cs.compile(name, entry)
	})
	return cs
}

func (cs *Connections) compile(name string, entry Entry) (*Connection, error) {
	return newConnection(name, entry, cs.client)
}

// Load reads all providers and connections from storage, also again when memory may be behind.
func (cs *Connections) Load(ctx context.Context, s logical.Storage) error {
	cs.Writing.Lock()
	defer cs.Writing.Unlock()
	if err := cs.Providers.load(ctx, s); err != nil {
		return err
	}
	if err := cs.ReloadAll(ctx, s); err != nil {
		return err
	}
	cs.loaded.Store(true)
	return nil
}

// ReloadProvider reads a provider from storage again after another node wrote its key.
func (cs *Connections) ReloadProvider(ctx context.Context, s logical.Storage, key string) error {
	cs.Writing.Lock()
	defer cs.Writing.Unlock()
	_, err := cs.Providers.latest(ctx, s, strings.TrimPrefix(key, ProvidersPrefix))
	return err
}

// Put stores a connection and then publishes the connection. The caller holds Writing.
func (cs *Connections) Put(ctx context.Context, s logical.Storage, c *Connection) error {
	old := cs.Get(c.name)
	if err := cs.Store.Put(ctx, s, c); err != nil {
		return err
	}
	if old != nil && old.client != c.client {
		old.client.Close()
	}
	return nil
}

// drop removes a connection. The caller holds Writing.
func (cs *Connections) drop(ctx context.Context, s logical.Storage, c *Connection) error {
	if err := cs.Delete(ctx, s, c.name); err != nil {
		return err
	}
	c.client.Close()
	return nil
}

// Close closes the idle network connections to all services.
func (cs *Connections) Close() {
	for _, c := range cs.All() {
		c.client.Close()
	}
}

// Service returns the service of the connection of a name, ready for calls.
func (cs *Connections) Service(name string) (*connector.Service, error) {
	return cs.service(name, cs.Get(name))
}

// service returns the service of a connection; c is nil if the connection of the name was deleted.
func (cs *Connections) service(name string, c *Connection) (*connector.Service, error) {
	if err := cs.Broken(name); err != nil {
		return nil, fmt.Errorf("connection %q: %w", name, err)
	}
	if c == nil {
		return nil, errDeleted(name)
	}
	if err := cs.Providers.Broken(c.Provider); err != nil {
		return nil, fmt.Errorf("connection %q: its provider cannot be used: %w", name, err)
	}
	p := cs.Providers.Get(c.Provider)
	if p == nil {
		return nil, fmt.Errorf("connection %q: its provider %q is gone", name, c.Provider)
	}
	return &connector.Service{Connection: c.name, Provider: p, Client: c.client, Credential: c.Credential, Settings: c.Settings}, nil
}

// find returns the connection of a name, and refuses a request for a connection whose service cannot be called.
func (cs *Connections) find(name string) (*Ready, error) {
	c := cs.Get(name)
	if err := cs.Broken(name); err != nil {
		return nil, refusal.Wrap(err)
	}
	if c == nil {
		return nil, refusal.Field("name", "there is no connection %q", refusal.Clip(name))
	}
	ready := cs.ready(c)
	if ready.Broken != nil {
		return nil, refusal.Wrap(ready.Broken)
	}
	return ready, nil
}

// Public returns the entry of a connection without secrets and without the work of rotations, with the defaults that apply.
func (cs *Connections) Public(c *Connection) *Entry {
	public := c.Entry
	public.Root, public.ClientKey = Root{Credential: cs.publicCredential(c), RotatedAt: c.RotatedAt}, ""
	public.NameTemplate = cmp.Or(c.NameTemplate, DefaultNameTemplate)
	public.Timeout = c.client.Timeout()
	public.MaxConcurrent = cmp.Or(c.MaxConcurrent, connector.DefaultConcurrent)
	return &public
}

// publicCredential returns the members of the credential of a connection that are no secrets.
func (cs *Connections) publicCredential(c *Connection) map[string]any {
	public := make(map[string]any)
	if p := cs.Providers.Get(c.Provider); p != nil {
		for name, field := range p.Credential {
			if value, given := c.Credential[name]; given && !field.Secret {
				public[name] = value
			}
		}
	}
	return public
}

func errDeleted(name string) error { return fmt.Errorf("connection %q was deleted", name) }

// ready joins a connection with its provider.
func (cs *Connections) ready(c *Connection) *Ready {
	service, err := cs.service(c.name, c)
	return &Ready{Connection: c, Service: service, Broken: err}
}

// readyByID returns the connection of an ID. Its error names the connection if there is none.
func (cs *Connections) readyByID(id, name string) (*Ready, error) {
	c := cs.ByID(id)
	if c == nil {
		return nil, errDeleted(name)
	}
	return cs.ready(c), nil
}

// deleted reports whether surely no connection has an ID.
func (cs *Connections) deleted(id string) bool {
	return cs.loaded.Load() && cs.ByID(id) == nil && cs.BrokenID(id) == nil
}

// changeRoot stores a change of the credential of a connection, based on what storage holds. It returns the error of
// change.
func (k *Keeper) changeRoot(ctx context.Context, id string, change func(*Root) error) (*Ready, error) {
	cs := k.Connections
	cs.Writing.Lock()
	defer cs.Writing.Unlock()
	known := cs.ByID(id)
	if known == nil {
		return nil, errNoConnection
	}
	c, err := cs.Latest(ctx, k.storage, known.name)
	if err != nil {
		return nil, err
	}
	if c == nil || c.ID != id {
		return nil, errNoConnection
	}
	changed := *c
	if err := change(&changed.Root); err != nil {
		return nil, err
	}
	if err := cs.Put(ctx, k.storage, &changed); err != nil {
		// Storage may have taken the change nevertheless.
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), RevokeWait)
		defer cancel()
		_, readErr := cs.Latest(asking, k.storage, known.name)
		return nil, errors.Join(err, readErr)
	}
	return cs.ready(&changed), nil
}
