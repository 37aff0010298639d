package native

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/geoip"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	maxEnvironmentLen    = 128
	maxIssuerLen         = 512
	maxPastPrefixes      = 20 // bounds the stored config and the pattern that secret scanners use
	minKeyRotationPeriod = time.Hour
	maxKeyRotationPeriod = 10 * 365 * 24 * time.Hour
	minMaxAge            = time.Second
	maxMaxAge            = 24 * time.Hour
)

// ConfigChange is what a request to write the config gives. A nil field stays as it is.
type ConfigChange struct {
	Environment       *string        `json:"environment"`
	TokenPrefix       *string        `json:"token_prefix"`
	KeyRotationPeriod *time.Duration `json:"key_rotation_period"`
	PrivilegedScopes  *[]string      `json:"privileged_scopes"`
	Issuer            *string        `json:"issuer"`
	SigningAlgorithm  *string        `json:"signing_algorithm"`
	JWKSMaxAge        *time.Duration `json:"jwks_max_age"`
	StatusListTTL     *time.Duration `json:"status_list_ttl"`
	GeoIPDatabase     *string        `json:"geoip_database"`
	EnforceReview     *bool          `json:"enforce_review"`
	PublicRevocation  *bool          `json:"public_revocation"`
}

// Change applies a request to the config, and refuses what is not allowed. longest is how long a token that was made up
// to now may live.
func (c *Config) Change(change *ConfigChange, mountPoint string, longest time.Duration, now time.Time) (err error) {
	if change.Environment != nil {
		c.Environment = *change.Environment
		if len(c.Environment) > maxEnvironmentLen || !isPrintable(c.Environment) {
			return refusal.Field("environment", "must be at most %d printable ASCII characters", maxEnvironmentLen)
		}
	}
	if change.TokenPrefix != nil && *change.TokenPrefix != c.TokenPrefix {
		if err := c.changePrefix(*change.TokenPrefix, longest, now); err != nil {
			return err
		}
	}
	if change.KeyRotationPeriod != nil {
		c.KeyRotationPeriod = *change.KeyRotationPeriod
		if c.KeyRotationPeriod < minKeyRotationPeriod || c.KeyRotationPeriod > maxKeyRotationPeriod {
			return refusal.Field("key_rotation_period", "must be between %s and %s", refusal.Short(minKeyRotationPeriod), refusal.Short(maxKeyRotationPeriod))
		}
	}
	if change.PrivilegedScopes != nil {
		if c.PrivilegedScopes, err = access.ParseScopes(*change.PrivilegedScopes); err != nil {
			return refusal.Field("privileged_scopes", "%s", err)
		}
	}
	store.Set(&c.EnforceReview, change.EnforceReview)
	store.Set(&c.PublicRevocation, change.PublicRevocation)
	if change.GeoIPDatabase != nil {
		if err := c.changeGeoIPDatabase(*change.GeoIPDatabase); err != nil {
			return err
		}
	}
	if change.Issuer != nil {
		if c.Issuer, err = parseIssuer(*change.Issuer, mountPoint); err != nil {
			return refusal.Field("issuer", "%s", err)
		}
	}
	if change.SigningAlgorithm != nil {
		if c.SigningAlgorithm = *change.SigningAlgorithm; !slices.Contains(token.Algorithms, c.SigningAlgorithm) {
			return refusal.Field("signing_algorithm", "%q is not one of: %s", refusal.Clip(c.SigningAlgorithm), strings.Join(token.Algorithms, ", "))
		}
	}
	for _, age := range []struct {
		field string
		given *time.Duration
		into  *time.Duration
	}{{"jwks_max_age", change.JWKSMaxAge, &c.JWKSMaxAge}, {"status_list_ttl", change.StatusListTTL, &c.StatusListTTL}} {
		if age.given == nil {
			continue
		}
		if *age.into = *age.given; *age.into < minMaxAge || *age.into > maxMaxAge {
			return refusal.Field(age.field, "must be between %s and %s", refusal.Short(minMaxAge), refusal.Short(maxMaxAge))
		}
	}
	return nil
}

// changeGeoIPDatabase sets the file in which regions are looked up; the empty path stands for no file.
func (c *Config) changeGeoIPDatabase(path string) error {
	c.GeoIPDatabase = path
	if path == "" {
		return nil
	}
	if err := geoip.Check(path); err != nil {
		return refusal.Field("geoip_database", "%s; the file must be on each node of Vault", err)
	}
	return nil
}

// ChangeConfig changes the config as storage holds it. ChangeConfig warns if the stored config could not be read, and of the
// roles that issue no more tokens.
func (t *Tokens) ChangeConfig(
	ctx context.Context, s logical.Storage, change *ConfigChange, mountPoint string,
) (warnings []string, _ error) {
	t.Config.Writing.Lock()
	defer t.Config.Writing.Unlock()
	stored, err := ReadConfig(ctx, s) // which another process may have written
	if err != nil {
		return nil, err
	}
	c := *stored.Config
	if err := c.Change(change, mountPoint, t.Sealing.LongestLifetime(), t.Now()); err != nil {
		return nil, err
	}
	if c.Issuer == "" && (stored.Issuer != "" || stored.Broken != nil) {
		if err := t.refuseWithoutIssuer(ctx, s, stored.Broken != nil); err != nil {
			return nil, err
		}
	}
	if err := t.Config.Put(ctx, s, &c); err != nil {
		return nil, err
	}
	t.Feed.Restart() // answers of introspect may have other members now
	if stored.Broken != nil {
		warnings = append(warnings, DefaultsApply)
	}
	for _, r := range t.Roles.All() {
		if err := r.Privileged(c.PrivilegedScopes); err != nil {
			warnings = append(warnings, err.Error()+"; it issues no more tokens until it is changed, tokens already issued are not "+
				"affected")
		}
	}
	return warnings, nil
}

// refuseWithoutIssuer refuses a config without an issuer if a role issues JWTs.
func (t *Tokens) refuseWithoutIssuer(ctx context.Context, s logical.Storage, wasBroken bool) error {
	if err := t.Roles.ReloadAll(ctx, s); err != nil {
		return err
	}
	for _, r := range t.Roles.All() {
		switch {
		case r.TokenFormat != role.FormatJWT:
		case wasBroken:
			return refusal.Field("issuer", "is needed, since role %q issues JWTs and the stored config cannot be read", r.Name())
		default:
			return refusal.Field("issuer", "cannot be emptied while role %q issues JWTs", r.Name())
		}
	}
	return nil
}

// changePrefix replaces the prefix of new tokens. Live tokens keep the former prefix.
func (c *Config) changePrefix(prefix string, longest time.Duration, now time.Time) error {
	if err := token.CheckPrefix(prefix); err != nil {
		return refusal.Field("token_prefix", "%q %s", refusal.Clip(prefix), err)
	}
	past := map[string]time.Time{c.TokenPrefix: now.Add(longest)}
	for old, until := range c.PastPrefixes {
		if now.Before(until) && old != prefix && old != c.TokenPrefix {
			past[old] = until
		}
	}
	if len(past) > maxPastPrefixes {
		return refusal.Field("token_prefix", "live tokens may still have %d former prefixes, at most %d are allowed: take one of them again, or wait until the tokens of one have ended", len(past), maxPastPrefixes)
	}
	c.TokenPrefix, c.PastPrefixes = prefix, past
	return nil
}

// parseIssuer returns the URL of an issuer (RFC 8414 section 2) without a slash at the end. The URL must lead to the mount,
// possibly through a namespace, since API servers look for keys and endpoints below the URL. Plain http is for loopback only.
func parseIssuer(s, mountPoint string) (string, error) {
	if s == "" {
		return "", nil
	}
	s = strings.TrimSuffix(s, "/")
	mount := strings.Trim(mountPoint, "/")
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || strings.ContainsAny(s, "?#") || len(s) > maxIssuerLen || !isPrintable(s) ||
		(u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname()))) {
		return "", fmt.Errorf("%q must be an https URL without query and fragment, such as https://vault.example.com:8200/v1/%s; http is allowed on loopback only", refusal.Clip(s), mount)
	}
	before, ends := strings.CutSuffix(u.Path, "/"+mount)
	if !ends || u.RawPath != "" || u.Path != path.Clean(u.Path) || !slices.Contains(strings.Split(before, "/"), "v1") {
		return "", fmt.Errorf("%q must end with the path of this mount: https://<host>/v1/%s, with a namespace https://<host>/v1/<namespace>/%s", refusal.Clip(s), mount, mount)
	}
	return s, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.IsLoopback())
}

// isPrintable reports whether s is printable ASCII.
func isPrintable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) < 0
}
