package native

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// ConfigKey is where the config is in storage.
const ConfigKey = "config"

// Config is the settings of a mount, as stored.
type Config struct {
	Environment       string        `json:"environment"` // empty: the mount's path
	TokenPrefix       string        `json:"token_prefix"`
	KeyRotationPeriod time.Duration `json:"key_rotation_period"`
	PrivilegedScopes  access.Scopes `json:"privileged_scopes"`

	Issuer           string        `json:"issuer,omitempty"` // empty: no JWTs
	SigningAlgorithm string        `json:"signing_algorithm"`
	JWKSMaxAge       time.Duration `json:"jwks_max_age"`
	StatusListTTL    time.Duration `json:"status_list_ttl"`

	GeoIPDatabase string `json:"geoip_database,omitempty"` // path of a MaxMind DB file on each node; empty: none

	EnforceReview bool `json:"enforce_review,omitempty"` // an overdue review stops issuing

	PublicRevocation bool `json:"public_revocation"` // leaked takes reports without a Vault token

	// PastPrefixes maps a former token prefix to the time when the last token with that prefix expires.
	PastPrefixes map[string]time.Time `json:"past_prefixes,omitempty"`
}

// DefaultConfig returns the settings of a mount that nobody has configured.
func DefaultConfig() *Config {
	return &Config{
		TokenPrefix:       "apt",
		KeyRotationPeriod: 30 * 24 * time.Hour,
		PrivilegedScopes:  access.Scopes{"*", "admin", "admin:*"},
		SigningAlgorithm:  token.Algorithms[0],
		JWKSMaxAge:        5 * time.Minute,
		StatusListTTL:     time.Minute,
		PublicRevocation:  true,
	}
}

// EnvironmentOf returns the name of the mount for those who see its tokens.
func (c *Config) EnvironmentOf(mountPoint string) string {
	if c.Environment != "" {
		return c.Environment
	}
	return strings.TrimSuffix(mountPoint, "/")
}

// MayIssue refuses a role that the settings of the mount let issue nothing.
func (c *Config) MayIssue(r *role.Role) error {
	if r.TokenFormat == role.FormatJWT && c.Issuer == "" {
		return refusal.New("role %q issues JWTs, and the config has no issuer", r.Name())
	}
	return r.Privileged(c.PrivilegedScopes)
}

// LivePrefixes returns the prefixes that a live token may have, the current prefix first.
func (c *Config) LivePrefixes(now time.Time) []string {
	prefixes := []string{c.TokenPrefix}
	for prefix, until := range c.PastPrefixes {
		if now.Before(until) {
			prefixes = append(prefixes, prefix)
		}
	}
	slices.Sort(prefixes[1:])
	return prefixes
}

// SigningPolicy returns what the settings say of the signing keys.
func (c *Config) SigningPolicy() SigningPolicy {
	return SigningPolicy{Algorithm: c.SigningAlgorithm, Period: c.KeyRotationPeriod, MaxAge: c.JWKSMaxAge}
}

// ConfigStore keeps the config in memory and in storage. A published config does not change: an update replaces it.
type ConfigStore struct {
	Writing sync.Mutex // held from reading the config for a change until the change is stored
	storing sync.Mutex // held while storage is read or written and memory follows
	current atomic.Pointer[StoredConfig]
}

// StoredConfig is what storage holds of the config.
type StoredConfig struct {
	*Config       // the defaults if the entry cannot be read: tokens are opened, judged and revoked without it
	Broken  error // why the entry cannot be read; nil if the entry can be read
}

// Get returns the settings, or a refusal that names the entry if the entry cannot be read.
func (cs *ConfigStore) Get() (*Config, error) { return cs.current.Load().Get() }

// Get returns the settings, or a refusal that names the entry if the entry cannot be read.
func (c *StoredConfig) Get() (*Config, error) {
	if c.Broken != nil {
		e := refusal.New("the stored entry %s cannot be read: %w; write %[1]s again, or delete broken/%[1]s", ConfigKey, c.Broken)
		e.HTTP = http.StatusInternalServerError
		return nil, e
	}
	return c.Config, nil
}

// OrDefaults returns the settings; the defaults, without an issuer, if the entry cannot be read.
func (cs *ConfigStore) OrDefaults() *Config { return cs.current.Load().Config }

// Broken returns why the entry cannot be read; nil if the entry can be read.
func (cs *ConfigStore) Broken() error { return cs.current.Load().Broken }

// LoadConfig reads the config from storage.
func LoadConfig(ctx context.Context, s logical.Storage) (*ConfigStore, error) {
	cs := new(ConfigStore)
	return cs, cs.Reload(ctx, s)
}

// Reload reads the config from storage again after another process wrote the config.
func (cs *ConfigStore) Reload(ctx context.Context, s logical.Storage) error {
	cs.storing.Lock()
	defer cs.storing.Unlock()
	c, err := ReadConfig(ctx, s)
	if err != nil {
		return err
	}
	cs.current.Store(c)
	return nil
}

// ReadConfig reads the settings from storage. It returns the defaults if nothing is stored.
func ReadConfig(ctx context.Context, s logical.Storage) (*StoredConfig, error) {
	entry, err := s.Get(ctx, ConfigKey)
	if err != nil {
		return nil, err
	}
	c := DefaultConfig()
	if entry == nil {
		return &StoredConfig{Config: c}, nil
	}
	if err := entry.DecodeJSON(c); err != nil {
		return &StoredConfig{DefaultConfig(), err}, nil
	}
	return &StoredConfig{Config: c}, nil
}

// DropBroken deletes an entry that cannot be read, and reports whether there was one.
func (cs *ConfigStore) DropBroken(ctx context.Context, s logical.Storage) (bool, error) {
	cs.Writing.Lock()
	defer cs.Writing.Unlock()
	cs.storing.Lock()
	defer cs.storing.Unlock()
	stored, err := ReadConfig(ctx, s)
	if err != nil {
		return false, err
	}
	if stored.Broken != nil {
		if err := s.Delete(ctx, ConfigKey); err != nil {
			return false, err
		}
	}
	cs.current.Store(&StoredConfig{Config: stored.Config})
	return stored.Broken != nil, nil
}

// DefaultsApply is the warning if the settings are the defaults because the stored settings cannot be read.
const DefaultsApply = "the stored config could not be read: the settings that it held are lost, and each that was not given now has its default, privileged_scopes and issuer too"

// Put stores the config and then publishes it. The caller holds Writing.
func (cs *ConfigStore) Put(ctx context.Context, s logical.Storage, c *Config) error {
	entry, err := logical.StorageEntryJSON(ConfigKey, c)
	if err != nil {
		return err
	}
	cs.storing.Lock()
	defer cs.storing.Unlock()
	if err := s.Put(ctx, entry); err != nil {
		return err
	}
	cs.current.Store(&StoredConfig{Config: c})
	return nil
}
