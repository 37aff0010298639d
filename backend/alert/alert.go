// Package alert sends notices about findings of misuse to webhooks.
//
// A delivery follows the Standard Webhooks specification 1.0.0: the headers webhook-id, webhook-timestamp and
// webhook-signature, retries, and the meaning of status codes. The body is a CloudEvent (version 1.0, structured mode in
// JSON), or a text for Slack.
//
// Storage holds each notice until every alert that wants the notice has delivered it, or has waited too long (queue.go). A
// notice is delivered at least once, with the same ID each time. No lock is held during a call to a receiver.
package alert

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/worker"
)

const (
	// Prefix is where everything of this package is stored.
	Prefix = "alert/"

	// EntriesPrefix is where the alerts are stored, seal-wrapped.
	EntriesPrefix = Prefix + "entry/"

	// queuePrefix is where the notices are stored that wait for a delivery: one entry for each, of at most about 6 kB.
	queuePrefix = Prefix + "queue/"

	// MaxAlerts is the maximum number of alerts of a mount.
	MaxAlerts = 32
)

// Config has the dependencies of Alerts. All fields but Dial are required.
type Config struct {
	Storage   logical.Storage // of the mount, for background work
	Now       func() time.Time
	Log       func() hclog.Logger
	Active    func() bool                    // reports whether this process may write storage
	Origin    func(mountPoint string) Origin // where the events of the mount come from
	UserAgent string
	Dial      connector.DialFunc // opens connections to receivers; nil: the network
}

// Origin says where events come from.
type Origin struct {
	Source      string // URI of the mount
	Environment string // name of the mount for those who see its tokens
}

// Alerts has the alerts of a mount, and the notices that wait for a delivery. Run delivers the notices.
//
// Alerts is safe for concurrent use.
type Alerts struct {
	*worker.Worker
	Config
	Entries *store.Store[string, *Alert]
	queue   queue
}

// New returns Alerts without alerts. Load reads the alerts and the queue from storage. The caller starts the worker with Run.
func New(c Config) *Alerts {
	if c.Dial == nil {
		c.Dial = dialer.DialContext
	}
	as := &Alerts{Worker: worker.New(), Config: c}
	as.Entries = store.New(EntriesPrefix, true, func(name string, stored *logical.StorageEntry) (*Alert, error) {
		var e Entry
		if err := stored.DecodeJSON(&e); err != nil {
			return nil, err
		}
		return as.newAlert(name, e)
	})
	as.queue = queue{byID: make(map[string]*waiting), lines: make(map[string]*line)}
	return as
}

// Load reads the alerts and the queue from storage. Another call brings memory up to date.
func (as *Alerts) Load(ctx context.Context, s logical.Storage, _ time.Time) error {
	if err := as.Entries.ReloadAll(ctx, s); err != nil {
		return err
	}
	if err := as.loadQueue(ctx, s); err != nil {
		return err
	}
	as.queue.loaded.Store(true)
	as.Wake()
	return nil
}

// Reload reads an entry that another process has written.
func (as *Alerts) Reload(ctx context.Context, s logical.Storage, key string, _ time.Time) error {
	if strings.HasPrefix(key, EntriesPrefix) {
		return as.Entries.Reload(ctx, s, key)
	}
	as.queue.writing.Lock()
	defer as.queue.writing.Unlock()
	return as.read(ctx, s, strings.TrimPrefix(key, queuePrefix))
}

// Damaged returns the storage keys of the unreadable entries, each with the reason.
func (as *Alerts) Damaged() map[string]error {
	keys := as.queue.Damaged()
	if keys == nil {
		keys = make(map[string]error)
	}
	for key, err := range as.Entries.Damaged() {
		keys[key] = err
	}
	return keys
}

// DropDamaged deletes an unreadable entry.
func (as *Alerts) DropDamaged(ctx context.Context, s logical.Storage, key string) error {
	if name, is := strings.CutPrefix(key, EntriesPrefix); is {
		as.Entries.Writing.Lock()
		defer as.Entries.Writing.Unlock()
		if as.Entries.Broken(name) == nil {
			return nil
		}
		return as.Entries.Delete(ctx, s, name)
	}
	return as.queue.DropDamaged(ctx, s, key)
}
