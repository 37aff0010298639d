package upstream

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/template"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
)

const (
	// DefaultNameTemplate is the template of the names of tokens if a connection has none.
	DefaultNameTemplate = `vault-{{ .MountPath }}-{{ .RoleName }}-{{ random 12 }}`

	maxTokenNameLen = 200 // bytes
)

// Entry is a connection as stored, seal-wrapped.
type Entry struct {
	ID       string         `json:"id"` // new when a connection is deleted and created again
	Provider string         `json:"provider"`
	Settings map[string]any `json:"settings,omitempty"`

	Root

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

	ReconcilePeriod time.Duration `json:"reconcile_period,omitempty"` // time between two reconciliations; 0: only on demand
	MountPoint      string        `json:"mount_point,omitempty"`      // of the engine when the connection was last written

	review.Review
}

// Connection is a connection ready for use. A connection does not change: an update publishes a new one.
type Connection struct {
	Entry
	name   string
	client *connector.Client
	names  template.StringTemplate
}

// newConnection compiles an entry. config holds what all connections of a mount share. Its errors name the field.
func newConnection(name string, entry Entry, config connector.ClientConfig) (*Connection, error) {
	c := &Connection{Entry: entry, name: name}
	config.URL, config.ProxyURL = entry.URL, entry.ProxyURL
	config.CACert, config.ClientCert, config.ClientKey = entry.CACert, entry.ClientCert, entry.ClientKey
	config.Timeout, config.RateLimit, config.MaxConcurrent = entry.Timeout, entry.RateLimit, entry.MaxConcurrent
	var err error
	if c.client, err = connector.NewClient(config); err != nil {
		return nil, err
	}
	if c.names, err = template.NewTemplate(template.Template(cmp.Or(entry.NameTemplate, DefaultNameTemplate))); err != nil {
		return nil, fmt.Errorf("name_template: %w", err)
	}
	first, err := c.newTokenName("mount", "role", 0)
	if err != nil {
		return nil, fmt.Errorf("name_template: %w", err)
	}
	if second, _ := c.newTokenName("mount", "role", 0); first == second {
		return nil, fmt.Errorf("name_template: gives %q twice, it needs {{ random 12 }} to tell tokens apart", refusal.Clip(first))
	}
	return c, nil
}

// newTokenName returns a name for a token at the service, a different name each time. A name that is longer than the
// service allows is cut before its end, since the end is what tells names apart. longest is 0 if the service has no limit.
func (c *Connection) newTokenName(mountPoint, role string, longest int) (string, error) {
	name, err := c.names.Generate(struct{ MountPath, RoleName, ConnectionName string }{
		strings.ReplaceAll(strings.Trim(mountPoint, "/"), "/", "-"), role, c.name,
	})
	if err != nil {
		return "", err
	}
	if name == "" || len(name) > maxTokenNameLen {
		return "", fmt.Errorf("a name of %d bytes, 1 to %d are allowed", len(name), maxTokenNameLen)
	}
	if longest > 0 && len(name) > longest {
		const end = 13 // "-" and the random part
		name = strings.TrimRight(name[:longest-end], "-") + name[len(name)-end:]
	}
	return name, nil
}

// CallTimeout returns how long a call of the service may take, retries included.
func (c *Connection) CallTimeout() time.Duration { return c.client.Timeout() }

// Name implements store.Named.
func (c *Connection) Name() string { return c.name }

// Identity implements store.Named.
func (c *Connection) Identity() string { return c.ID }

// Stored implements store.Named.
func (c *Connection) Stored() any { return &c.Entry }

// Ready is a connection together with its provider as both are now.
type Ready struct {
	*Connection
	Service *connector.Service // with the credential of the connection; nil if the connection is Broken
	Broken  error              // why the service cannot be called; nil if it can
}

func newConnectionID() (string, error) {
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return "", err
	}
	return hex.EncodeToString(id), nil
}
