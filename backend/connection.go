package backend

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/template"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

const (
	connectionPrefix = "connection/"
	providerPrefix   = "provider/"

	defaultNameTemplate = `vault-{{ .MountPath }}-{{ .RoleName }}-{{ random 12 }}`
	maxUpstreamNameLen  = 200
)

// connectionEntry is a connection as stored, seal-wrapped.
type connectionEntry struct {
	ID       string         `json:"id"` // new when a connection is deleted and created again
	Provider string         `json:"provider"`
	Settings map[string]any `json:"settings,omitempty"`

	upstream.Root

	URL            string        `json:"url"`
	CACert         string        `json:"ca_cert,omitempty"`
	ClientCert     string        `json:"client_cert,omitempty"`
	ClientKey      string        `json:"client_key,omitempty"`
	ProxyURL       string        `json:"proxy_url,omitempty"`
	Timeout        time.Duration `json:"timeout,omitempty"`
	RateLimit      float64       `json:"rate_limit,omitempty"`
	MaxConcurrent  int           `json:"max_concurrent,omitempty"`
	NameTemplate   string        `json:"name_template,omitempty"`
	Description    string        `json:"description,omitempty"`
	RevokeOnDelete bool          `json:"revoke_on_delete,omitempty"`
}

// connection is a connection ready for use. It does not change; an update makes a new one.
type connection struct {
	connectionEntry
	name   string
	client *connector.Client
	names  template.StringTemplate
}

// newConnection compiles an entry; its errors name the field.
func newConnection(name string, entry connectionEntry, userAgent string, dial connector.DialFunc) (*connection, error) {
	c := &connection{connectionEntry: entry, name: name}
	var err error
	if c.client, err = connector.NewClient(connector.ClientConfig{
		URL: entry.URL, CACert: entry.CACert, ClientCert: entry.ClientCert, ClientKey: entry.ClientKey, ProxyURL: entry.ProxyURL,
		Timeout: entry.Timeout, RateLimit: entry.RateLimit, MaxConcurrent: entry.MaxConcurrent, UserAgent: userAgent, Dial: dial,
	}); err != nil {
		return nil, err
	}
	if c.names, err = template.NewTemplate(template.Template(cmp.Or(entry.NameTemplate, defaultNameTemplate))); err != nil {
		return nil, fmt.Errorf("name_template: %w", err)
	}
	first, err := c.newName("mount", "role", 0)
	if err != nil {
		return nil, fmt.Errorf("name_template: %w", err)
	}
	if second, _ := c.newName("mount", "role", 0); first == second {
		return nil, fmt.Errorf("name_template: gives %q twice, it needs {{ random 12 }} to tell tokens apart", refusal.Clip(first))
	}
	return c, nil
}

// newName makes the name of a token at the upstream, different each time. Where it is longer than the
// upstream takes, its end stays, which is what tells it from others.
func (c *connection) newName(mountPoint, role string, longest int) (string, error) {
	name, err := c.names.Generate(struct{ MountPath, RoleName, ConnectionName string }{
		strings.ReplaceAll(strings.Trim(mountPoint, "/"), "/", "-"), role, c.name,
	})
	if err != nil {
		return "", err
	}
	if name == "" || len(name) > maxUpstreamNameLen {
		return "", fmt.Errorf("a name of %d bytes, 1 to %d are allowed", len(name), maxUpstreamNameLen)
	}
	if longest > 0 && len(name) > longest {
		const end = 13 // "-" and what is random
		name = strings.TrimRight(name[:longest-end], "-") + name[len(name)-end:]
	}
	return name, nil
}

func (c *connection) Name() string     { return c.name }
func (c *connection) Identity() string { return c.ID }
func (c *connection) Stored() any      { return &c.connectionEntry }

// connectionStore is the connections and the providers, in memory and in storage.
type connectionStore struct {
	*store.Store[string, *connection]
	userAgent string
	dial      connector.DialFunc

	providersMu sync.RWMutex
	providers   map[string]*connector.Provider
	damaged     map[string]error // providers in storage that do not compile
	builtin     map[string]*connector.Provider
}

// builtinProviders are compiled once for all mounts of a process.
var builtinProviders = sync.OnceValues(connector.Builtin)

func loadConnections(ctx context.Context, s logical.Storage, userAgent string, dial connector.DialFunc) (*connectionStore, error) {
	cs := &connectionStore{userAgent: userAgent, dial: dial, damaged: make(map[string]error)}
	var err error
	if cs.builtin, err = builtinProviders(); err != nil {
		return nil, err
	}
	cs.providers = maps.Clone(cs.builtin)
	if err := store.Each(ctx, s, providerPrefix, func(name string, entry *logical.StorageEntry) error {
		cs.takeProvider(name, entry)
		return nil
	}); err != nil {
		return nil, err
	}
	cs.Store, err = store.Load(ctx, s, connectionPrefix, true, func(name string, stored *logical.StorageEntry) (*connection, error) {
		var entry connectionEntry
		if err := stored.DecodeJSON(&entry); err != nil {
			return nil, err
		}
		return newConnection(name, entry, userAgent, dial)
	})
	return cs, err
}

// Put writes a connection, and shows it once it is written. The caller holds writing.
func (cs *connectionStore) Put(ctx context.Context, s logical.Storage, c *connection) error {
	old := cs.Get(c.name)
	if err := cs.Store.Put(ctx, s, c); err != nil {
		return err
	}
	if old != nil && old.client != c.client {
		old.client.Close()
	}
	return nil
}

// drop removes a connection. The caller holds writing.
func (cs *connectionStore) drop(ctx context.Context, s logical.Storage, c *connection) error {
	if err := cs.Store.Delete(ctx, s, c.name); err != nil {
		return err
	}
	c.client.Close()
	return nil
}

// provider finds a provider by name; nil where there is none.
func (cs *connectionStore) provider(name string) *connector.Provider {
	cs.providersMu.RLock()
	defer cs.providersMu.RUnlock()
	return cs.providers[name]
}

// upstream makes a connection ready for calls; c is nil where that of this name has been deleted.
func (cs *connectionStore) upstream(name string, c *connection) (*connector.Upstream, error) {
	if err := cs.Broken(name); err != nil {
		return nil, fmt.Errorf("connection %q: %w", name, err)
	}
	if c == nil {
		return nil, fmt.Errorf("connection %q was deleted", name)
	}
	p := cs.provider(c.Provider)
	if err := cs.brokenProvider(c.Provider); err != nil {
		return nil, fmt.Errorf("connection %q: its provider cannot be used: %w", name, err)
	}
	if p == nil {
		return nil, fmt.Errorf("connection %q: its provider %q is gone", name, c.Provider)
	}
	return &connector.Upstream{Connection: c.name, Provider: p, Client: c.client, Credential: c.Credential, Settings: c.Settings}, nil
}

// brokenProvider says why what storage holds of a provider cannot be used; nil where it can, or there is nothing.
func (cs *connectionStore) brokenProvider(name string) error {
	cs.providersMu.RLock()
	defer cs.providersMu.RUnlock()
	if err := cs.damaged[name]; err != nil {
		return fmt.Errorf("the stored entry %s%s does not compile: %w", providerPrefix, name, err)
	}
	return nil
}

// brokenProviders are the storage keys of the providers that do not compile, each with the reason.
func (cs *connectionStore) brokenProviders() map[string]error {
	cs.providersMu.RLock()
	defer cs.providersMu.RUnlock()
	keys := make(map[string]error, len(cs.damaged))
	for name, err := range cs.damaged {
		keys[providerPrefix+name] = err
	}
	return keys
}

// providerNames lists them, also those that do not compile.
func (cs *connectionStore) providerNames() []string {
	cs.providersMu.RLock()
	defer cs.providersMu.RUnlock()
	return store.SortedNames(cs.providers, cs.damaged)
}

// takeProvider shows what storage holds of a provider; nil: nothing.
func (cs *connectionStore) takeProvider(name string, entry *logical.StorageEntry) {
	var p *connector.Provider
	var err error
	if entry != nil {
		p, err = connector.Compile(entry.Value)
	}
	cs.providersMu.Lock()
	defer cs.providersMu.Unlock()
	cs.showProvider(name, p)
	if err != nil {
		delete(cs.providers, name)
		cs.damaged[name] = err
	}
}

// showProvider has a custom provider used; nil: there is none. A custom one goes before one of the same name that
// a later version of the plugin brings. The caller holds providersMu.
func (cs *connectionStore) showProvider(name string, p *connector.Provider) {
	delete(cs.damaged, name)
	delete(cs.providers, name)
	if p == nil {
		p = cs.builtin[name]
	}
	if p != nil {
		cs.providers[name] = p
	}
}

// latestProvider reads a provider from storage again: another process may have written it. It returns nil where
// there is none, or it does not compile. The caller holds writing.
func (cs *connectionStore) latestProvider(ctx context.Context, s logical.Storage, name string) (*connector.Provider, error) {
	entry, err := s.Get(ctx, providerPrefix+name)
	if err != nil {
		return nil, err
	}
	if p := cs.provider(name); entry == nil || p == nil || p.Text != string(entry.Value) {
		cs.takeProvider(name, entry)
	}
	return cs.provider(name), nil
}

// reloadProvider reads a provider from storage again, when another node has written it.
func (cs *connectionStore) reloadProvider(ctx context.Context, s logical.Storage, key string) error {
	cs.Writing.Lock()
	defer cs.Writing.Unlock()
	_, err := cs.latestProvider(ctx, s, strings.TrimPrefix(key, providerPrefix))
	return err
}

// storeProvider writes a custom provider; nil deletes it. The caller holds writing.
func (cs *connectionStore) storeProvider(ctx context.Context, s logical.Storage, name string, p *connector.Provider) error {
	var err error
	if p == nil {
		err = s.Delete(ctx, providerPrefix+name)
	} else {
		err = s.Put(ctx, &logical.StorageEntry{Key: providerPrefix + name, Value: []byte(p.Text)})
	}
	if err != nil {
		return err
	}
	cs.providersMu.Lock()
	defer cs.providersMu.Unlock()
	cs.showProvider(name, p)
	return nil
}

// close drops the pools of all connections.
func (cs *connectionStore) close() {
	for _, c := range cs.All() {
		c.client.Close()
	}
}

func newConnectionID() (string, error) {
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return "", err
	}
	return hex.EncodeToString(id), nil
}
