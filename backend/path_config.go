package backend

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	minKeyRotationPeriod = time.Hour
	maxKeyRotationPeriod = 10 * 365 * 24 * time.Hour
	maxEnvironmentLen    = 128
	maxIssuerLen         = 512

	// maxPastPrefixes bounds the stored config and the pattern that secret scanners look for.
	maxPastPrefixes = 20
)

func (b *backend) pathsConfig() []*framework.Path {
	defaults := defaultConfig()
	fields := map[string]*framework.FieldSchema{
		"environment": {
			Type:         framework.TypeString,
			Description:  "Name that this mount's tokens go by, such as \"production\"; given by introspection. Default: the mount's path.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Environment"},
		},
		"token_prefix": {
			Type:         framework.TypeString,
			Description:  "What every opaque token begins with: 2 to 16 of a-z, 0-9 and _, a letter first. After a change older tokens keep working. Default: apt.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Token prefix", Value: defaults.TokenPrefix},
		},
		"key_rotation_period": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long a key seals new tokens before the next one does, at least 1h. Default: 720h.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Key rotation period", Value: int(defaults.KeyRotationPeriod.Seconds())},
		},
		"privileged_scopes": {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Scopes that a role may hold only with allow_privileged. A pattern such as admin:* stands for all scopes below it, except that * stands for the scope * alone. Default: *, admin, admin:*.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Privileged scopes"},
		},
		"issuer": {
			Type:         framework.TypeString,
			Description:  "URL under which API servers reach this mount: the \"iss\" of JWTs. It ends with the mount's path, such as https://vault.example.com:8200/v1/apitoken, after its namespace where there is one. Needed before a role with token_format=jwt.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Issuer"},
		},
		"signing_algorithm": {
			Type:          framework.TypeString,
			Description:   "Algorithm that new JWTs are signed with: ES256, EdDSA or RS256. A change takes effect once the new key has been published for jwks_max_age. Default: ES256.",
			AllowedValues: []any{token.Algorithms[0], token.Algorithms[1], token.Algorithms[2]},
			DisplayAttrs:  &framework.DisplayAttributes{Name: "Signing algorithm", Value: defaults.SigningAlgorithm},
		},
		"jwks_max_age": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long API servers may cache the published keys, and so how long a key is published before it signs; 1s to 24h. Default: 5m.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "JWKS maximum age", Value: int(defaults.JWKSMaxAge.Seconds())},
		},
		"status_list_ttl": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long API servers may cache a status list, and so how late they learn of a revocation; 1s to 24h. Default: 1m.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Status list TTL", Value: int(defaults.StatusListTTL.Seconds())},
		},
	}
	update := change(b.configUpdate, "Change the settings of the mount; what is not given stays as it is.")
	update.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "configure"}
	return []*framework.Path{{
		Pattern:      "config",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields:       fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:     b.configRead,
				Summary:      "Read the settings of the mount.",
				DisplayAttrs: &framework.DisplayAttributes{OperationSuffix: "configuration"},
				Responses: ok(map[string]*framework.FieldSchema{
					"environment":         {Type: framework.TypeString, Required: true, Description: "Name that this mount's tokens go by."},
					"token_prefix":        {Type: framework.TypeString, Required: true, Description: "What a new token begins with."},
					"token_pattern":       {Type: framework.TypeString, Required: true, Description: "Regular expression (RE2) that finds this mount's tokens in a text, for secret scanners."},
					"key_rotation_period": {Type: framework.TypeDurationSecond, Required: true, Description: "Seconds for which a key seals new tokens."},
					"privileged_scopes":   {Type: framework.TypeStringSlice, Required: true, Description: "Scopes that a role may hold only with allow_privileged."},
					"issuer":              {Type: framework.TypeString, Required: true, Description: "The \"iss\" of JWTs; empty where none is set."},
					"signing_algorithm":   {Type: framework.TypeString, Required: true, Description: "Algorithm that JWTs are signed with."},
					"jwks_max_age":        {Type: framework.TypeDurationSecond, Required: true, Description: "Seconds for which the published keys may be cached."},
					"status_list_ttl":     {Type: framework.TypeDurationSecond, Required: true, Description: "Seconds for which a status list may be cached."},
				}),
			},
			logical.UpdateOperation: update,
		},
		HelpSynopsis:    "Settings of the mount.",
		HelpDescription: "What the mount's tokens look like, how often the key that seals them is rotated, and which scopes count as privileged. All settings have defaults. token_pattern, which is only read, is the rule by which a secret scanner finds leaked tokens.",
	}}
}

func (b *backend) configRead(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	c, err := st.config.get()
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"environment":         c.environment(req.MountPoint),
		"token_prefix":        c.TokenPrefix,
		"token_pattern":       token.Pattern(c.livePrefixes(b.now())...),
		"key_rotation_period": int64(c.KeyRotationPeriod.Seconds()),
		"privileged_scopes":   []string(c.PrivilegedScopes),
		"issuer":              c.Issuer,
		"signing_algorithm":   c.SigningAlgorithm,
		"jwks_max_age":        int64(c.JWKSMaxAge.Seconds()),
		"status_list_ttl":     int64(c.StatusListTTL.Seconds()),
	}}, nil
}

func (b *backend) configUpdate(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	st.config.writing.Lock()
	defer st.config.writing.Unlock()
	// An update is based on what storage holds now, which another process may have written.
	stored, err := readConfig(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	c := *stored.config
	now := b.now()

	if v, given := d.GetOk("environment"); given {
		c.Environment = v.(string)
		if len(c.Environment) > maxEnvironmentLen || !isPrintable(c.Environment) {
			return nil, refusal.Field("environment", "must be at most %d printable ASCII characters", maxEnvironmentLen)
		}
	}
	if v, given := d.GetOk("token_prefix"); given && v.(string) != c.TokenPrefix {
		prefix := v.(string)
		if err := token.CheckPrefix(prefix); err != nil {
			return nil, refusal.Field("token_prefix", "%q %s", refusal.Clip(prefix), err)
		}
		past := map[string]time.Time{c.TokenPrefix: now.Add(st.keys.LongestLifetime())}
		for old, until := range c.PastPrefixes {
			if now.Before(until) && old != prefix && old != c.TokenPrefix {
				past[old] = until
			}
		}
		if len(past) > maxPastPrefixes {
			return nil, refusal.Field("token_prefix", "live tokens may still have %d former prefixes, at most %d are allowed: take one of them again, or wait until the tokens of one have ended", len(past), maxPastPrefixes)
		}
		c.TokenPrefix, c.PastPrefixes = prefix, past
	}
	if v, given := d.GetOk("key_rotation_period"); given {
		c.KeyRotationPeriod = time.Duration(v.(int)) * time.Second
		if c.KeyRotationPeriod < minKeyRotationPeriod || c.KeyRotationPeriod > maxKeyRotationPeriod {
			return nil, refusal.Field("key_rotation_period", "must be between %s and %s", refusal.Short(minKeyRotationPeriod), refusal.Short(maxKeyRotationPeriod))
		}
	}
	if v, given := d.GetOk("privileged_scopes"); given {
		if c.PrivilegedScopes, err = access.ParseScopes(v.([]string)); err != nil {
			return nil, refusal.Field("privileged_scopes", "%s", err)
		}
	}
	if v, given := d.GetOk("issuer"); given {
		if c.Issuer, err = checkIssuer(v.(string), req.MountPoint); err != nil {
			return nil, refusal.Field("issuer", "%s", err)
		}
	}
	if c.Issuer == "" && (stored.Issuer != "" || stored.broken != nil) {
		if err := st.roles.ReloadAll(ctx, req.Storage); err != nil {
			return nil, err
		}
		for _, r := range st.roles.All() {
			if r.TokenFormat == role.FormatJWT && stored.broken != nil {
				return nil, refusal.Field("issuer", "is needed, since role %q issues JWTs and the stored config cannot be read", r.Name())
			}
			if r.TokenFormat == role.FormatJWT {
				return nil, refusal.Field("issuer", "cannot be emptied while role %q issues JWTs", r.Name())
			}
		}
	}
	if v, given := d.GetOk("signing_algorithm"); given {
		if c.SigningAlgorithm = v.(string); !slices.Contains(token.Algorithms, c.SigningAlgorithm) {
			return nil, refusal.Field("signing_algorithm", "%q is not one of: %s", refusal.Clip(c.SigningAlgorithm), strings.Join(token.Algorithms, ", "))
		}
	}
	for field, into := range map[string]*time.Duration{"jwks_max_age": &c.JWKSMaxAge, "status_list_ttl": &c.StatusListTTL} {
		if v, given := d.GetOk(field); given {
			if *into = time.Duration(v.(int)) * time.Second; *into < time.Second || *into > 24*time.Hour {
				return nil, refusal.Field(field, "must be between 1s and 24h")
			}
		}
	}
	if err := st.config.store(ctx, req.Storage, &c); err != nil {
		return nil, err
	}

	resp := new(logical.Response)
	if stored.broken != nil {
		resp.AddWarning(defaultsApply)
	}
	for _, r := range st.roles.All() {
		if err := r.Privileged(c.PrivilegedScopes); err != nil {
			resp.AddWarning(err.Error() + "; it issues no more tokens until it is changed, tokens already issued are not affected")
		}
	}
	if len(resp.Warnings) == 0 {
		return nil, nil
	}
	return resp, nil
}

// checkIssuer accepts the URL of an issuer (RFC 8414 section 2), without a slash at the end. The URL leads to the
// mount, possibly through a namespace, since keys and endpoints are looked for below it. Plain http is for loopback only.
func checkIssuer(s, mountPoint string) (string, error) {
	if s == "" {
		return "", nil
	}
	s = strings.TrimSuffix(s, "/")
	mount := strings.Trim(mountPoint, "/")
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || strings.ContainsAny(s, "?#") || len(s) > maxIssuerLen || !isPrintable(s) ||
		(u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname()))) {
		return "", fmt.Errorf("%q must be an https URL without query and fragment, such as https://vault.example.com:8200/v1/%s", refusal.Clip(s), mount)
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

// isPrintable tells whether s is printable ASCII.
func isPrintable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) < 0
}
