package verify

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/geoip"
)

const (
	maxSkew   = 5 * time.Minute // the largest ClockSkew
	maxProofs = 10_000_000      // the largest DPoP.MaxProofs: 400 MB
)

// wrong returns an error about a field of Config.
func wrong(field, format string, args ...any) error {
	return fmt.Errorf("%s: %w", field, fmt.Errorf(format, args...))
}

// defaults checks a configuration and fills in what is not set.
func (c *Config) defaults() error {
	switch {
	case c.Issuer == "" && c.Vault == nil:
		return errors.New("neither Issuer nor Vault is set")
	case c.Issuer != "" && !strings.HasPrefix(c.Issuer, "https://") && !strings.HasPrefix(c.Issuer, "http://"):
		return wrong("Issuer", "%q is not a URL such as https://vault.example.com:8200/v1/apitoken", c.Issuer)
	case c.Audience == "" && !c.AnyAudience:
		return wrong("Audience", "not set: it says which tokens are for this API. An API without an audience sets AnyAudience")
	case c.DPoP.NonceKey != nil && len(c.DPoP.NonceKey) < 32:
		return wrong("DPoP.NonceKey", "%d bytes, want at least 32 random bytes", len(c.DPoP.NonceKey))
	}
	if c.Vault != nil {
		if err := c.Vault.check(); err != nil {
			return err
		}
	}
	if err := c.numbers(); err != nil {
		return err
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.GeoIPDatabase != "" {
		if c.GeoIP != nil {
			return errors.New("both GeoIPDatabase and GeoIP are set")
		}
		if err := geoip.Check(c.GeoIPDatabase); err != nil {
			return wrong("GeoIPDatabase", "%w", err)
		}
		path, database := c.GeoIPDatabase, geoip.New(c.Now, c.Logger.Warn)
		c.GeoIP = func(addr netip.Addr) string { return database.Region(path, addr) }
	}
	return nil
}

// numbers checks durations and sizes.
func (c *Config) numbers() error {
	if c.Vault == nil || c.ReportInterval < 0 {
		c.ReportInterval = 0
		c.silent = true
	}
	if c.ClockSkew < 0 {
		c.ClockSkew = 0
	} else if c.ClockSkew == 0 {
		c.ClockSkew = 30 * time.Second
	}
	for _, f := range []struct {
		name  string
		value *time.Duration
		other time.Duration
		most  time.Duration
	}{
		{"ClockSkew", &c.ClockSkew, c.ClockSkew, maxSkew},
		{"DPoP.MaxAge", &c.DPoP.MaxAge, time.Minute, 10 * time.Minute},
		{"MaxAge", &c.MaxAge, time.Minute, time.Minute},
		{"PollInterval", &c.PollInterval, time.Second, 5 * time.Second},
		{"ReportInterval", &c.ReportInterval, 30 * time.Second, 5 * time.Minute},
		{"RequestTimeout", &c.RequestTimeout, 5 * time.Second, time.Minute},
	} {
		if *f.value == 0 {
			*f.value = f.other
		}
		if *f.value < 0 || *f.value > f.most {
			return wrong(f.name, "%s is not between 0 and %s", *f.value, f.most)
		}
	}
	for _, f := range []struct {
		name  string
		value *int
		other int
	}{
		{"MaxTokens", &c.MaxTokens, 100_000}, {"MaxUnknown", &c.MaxUnknown, 10_000},
		{"UnknownPerSecond", &c.UnknownPerSecond, 40}, {"DPoP.MaxProofs", &c.DPoP.MaxProofs, 1_000_000},
	} {
		if *f.value == 0 {
			*f.value = f.other
		}
		if *f.value < 0 {
			return wrong(f.name, "%d is negative", *f.value)
		}
	}
	if c.DPoP.MaxProofs > maxProofs {
		return wrong("DPoP.MaxProofs", "%d, at most %d are allowed", c.DPoP.MaxProofs, maxProofs)
	}
	return nil
}

// ParseProxies parses the addresses and ranges of proxies, as Config.TrustedProxies takes them. A range of all addresses is an
// error: every client could say who it is.
func ParseProxies(list []string) ([]netip.Prefix, error) {
	set, err := access.ParseAddresses(list)
	if err != nil {
		return nil, err
	}
	for _, r := range set.Ranges() {
		if r.Bits() == 0 {
			return nil, fmt.Errorf("%s are all addresses: name the addresses of the proxies", r)
		}
	}
	return set.Ranges(), nil
}
