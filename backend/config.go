package backend

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

const configKey = "config"

// config is a mount's settings, as stored.
type config struct {
	Environment       string        `json:"environment"` // empty: the mount's path
	TokenPrefix       string        `json:"token_prefix"`
	KeyRotationPeriod time.Duration `json:"key_rotation_period"`
	PrivilegedScopes  access.Scopes `json:"privileged_scopes"`

	Issuer           string        `json:"issuer,omitempty"` // empty: no JWTs
	SigningAlgorithm string        `json:"signing_algorithm"`
	JWKSMaxAge       time.Duration `json:"jwks_max_age"`
	StatusListTTL    time.Duration `json:"status_list_ttl"`

	// PastPrefixes maps a prefix that new tokens no longer have to when the last token with it ends.
	PastPrefixes map[string]time.Time `json:"past_prefixes,omitempty"`
}

// defaultConfig makes the settings of a mount that nobody has configured.
func defaultConfig() *config {
	return &config{
		TokenPrefix:       "apt",
		KeyRotationPeriod: 30 * 24 * time.Hour,
		PrivilegedScopes:  access.Scopes{"*", "admin", "admin:*"},
		SigningAlgorithm:  token.Algorithms[0],
		JWKSMaxAge:        5 * time.Minute,
		StatusListTTL:     time.Minute,
	}
}

// environment is the name of the mount for those who see its tokens.
func (c *config) environment(mountPoint string) string {
	if c.Environment != "" {
		return c.Environment
	}
	return strings.TrimSuffix(mountPoint, "/")
}

// mayIssue refuses a role that the settings of the mount let issue nothing.
func (c *config) mayIssue(r *role.Role) error {
	if r.TokenFormat == role.FormatJWT && c.Issuer == "" {
		return refusal.New("role %q issues JWTs, and the config has no issuer", r.Name())
	}
	return r.Privileged(c.PrivilegedScopes)
}

// livePrefixes lists the prefixes that a live token may have, the current one first.
func (c *config) livePrefixes(now time.Time) []string {
	prefixes := []string{c.TokenPrefix}
	for prefix, until := range c.PastPrefixes {
		if now.Before(until) {
			prefixes = append(prefixes, prefix)
		}
	}
	slices.Sort(prefixes[1:])
	return prefixes
}

// configStore is the config in memory and in storage. A stored config does not change; an update
// replaces it.
type configStore struct {
	writing sync.Mutex
	current atomic.Pointer[storedConfig]
}

// storedConfig is what storage holds of the config. Where that cannot be read, broken says why, and config is the
// default: tokens are opened, judged and revoked without it.
type storedConfig struct {
	*config
	broken error
}

// get returns the settings, or an error that names the entry where it cannot be read.
func (cs *configStore) get() (*config, error) { return cs.current.Load().get() }

func (c *storedConfig) get() (*config, error) {
	if c.broken != nil {
		e := refusal.New("the stored entry %s cannot be read: %w; write %[1]s again, or delete broken/%[1]s", configKey, c.broken)
		e.HTTP = http.StatusInternalServerError
		return nil, e
	}
	return c.config, nil
}

// orDefaults returns the settings; the defaults, without an issuer, where the entry cannot be read.
func (cs *configStore) orDefaults() *config { return cs.current.Load().config }

// broken returns why the entry cannot be read; nil where it can.
func (cs *configStore) broken() error { return cs.current.Load().broken }

func loadConfig(ctx context.Context, s logical.Storage) (*configStore, error) {
	c, err := readConfig(ctx, s)
	if err != nil {
		return nil, err
	}
	cs := new(configStore)
	cs.current.Store(c)
	return cs, nil
}

// readConfig reads the settings from storage; the defaults where nothing is stored.
func readConfig(ctx context.Context, s logical.Storage) (*storedConfig, error) {
	entry, err := s.Get(ctx, configKey)
	if err != nil {
		return nil, err
	}
	c := defaultConfig()
	if entry == nil {
		return &storedConfig{config: c}, nil
	}
	if err := entry.DecodeJSON(c); err != nil {
		return &storedConfig{defaultConfig(), err}, nil
	}
	return &storedConfig{config: c}, nil
}

// drop deletes an entry that cannot be read, and reports whether it did. The caller holds writing.
func (cs *configStore) drop(ctx context.Context, s logical.Storage) (bool, error) {
	stored, err := readConfig(ctx, s)
	if err != nil {
		return false, err
	}
	if stored.broken != nil {
		if err := s.Delete(ctx, configKey); err != nil {
			return false, err
		}
	}
	cs.current.Store(&storedConfig{config: stored.config})
	return stored.broken != nil, nil
}

// defaultsApply is the warning where the settings are the defaults because nobody can read those that were stored.
const defaultsApply = "the stored config could not be read: the settings that it held are lost, and each that was not given now has its default, privileged_scopes and issuer too"

func (cs *configStore) store(ctx context.Context, s logical.Storage, c *config) error {
	entry, err := logical.StorageEntryJSON(configKey, c)
	if err != nil {
		return err
	}
	if err := s.Put(ctx, entry); err != nil {
		return err
	}
	cs.current.Store(&storedConfig{config: c})
	return nil
}
