package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) pathsConfig() []*framework.Path {
	defaults := native.DefaultConfig()
	fields := map[string]*framework.FieldSchema{
		"environment":         field(framework.TypeString, "Environment", "Name of the environment in introspection answers and JWTs, such as \"production\". Default: the mount's path."),
		"token_prefix":        preset(field(framework.TypeString, "Token prefix", "Prefix of opaque tokens: 2 to 16 of a-z, 0-9 and _, a letter first. Tokens with a former prefix keep working. Default: apt."), defaults.TokenPrefix),
		"key_rotation_period": preset(field(framework.TypeDurationSecond, "Key rotation period", "How long a key seals or signs new tokens, at least 1h. Default: 720h."), int(defaults.KeyRotationPeriod.Seconds())),
		"privileged_scopes":   field(framework.TypeCommaStringSlice, "Privileged scopes", "Scopes that a role may hold only with allow_privileged. A pattern such as admin:* stands for all scopes with that prefix; * stands for the scope * only. Default: *, admin, admin:*."),
		"issuer":              field(framework.TypeString, "Issuer", "URL under which API servers reach this mount: the \"iss\" of JWTs. The URL ends with the mount's path, after the namespace if any, such as https://vault.example.com:8200/v1/apitoken. Required before a role with token_format=jwt. Default: none."),
		"signing_algorithm":   preset(oneOf(field(framework.TypeString, "Signing algorithm", "Signing algorithm of new JWTs: ES256, EdDSA or RS256. A change takes effect once the new key has been published for jwks_max_age. Default: ES256."), token.Algorithms[0], token.Algorithms[1], token.Algorithms[2]), defaults.SigningAlgorithm),
		"jwks_max_age":        preset(field(framework.TypeDurationSecond, "JWKS maximum age", "How long API servers may cache the published keys, 1s to 24h. The engine publishes a key for this long before the key signs. Default: 5m."), int(defaults.JWKSMaxAge.Seconds())),
		"status_list_ttl":     preset(field(framework.TypeDurationSecond, "Status list TTL", "How long API servers may cache a status list, 1s to 24h: the longest delay until API servers see a revocation. Default: 1m."), int(defaults.StatusListTTL.Seconds())),
		"geoip_database":      field(framework.TypeString, "GeoIP database", "Path of a MaxMind DB file of countries or cities on each Vault node. Introspection looks up the region of client_ip in the file if the request states no region. The engine reads the file again when the file changes. Default: none."),
	}
	read := b.answer(b.pathConfigRead, "Read the settings of the mount.", ok(readFields(map[string]*framework.FieldSchema{
		"token_pattern": {Type: framework.TypeString, Required: true, Description: "Regular expression (RE2) that matches this mount's opaque tokens, for secret scanners."},
	}, fields)))
	read.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "configuration"}
	update := b.change(b.pathConfigUpdate, "Change the settings of the mount. Omitted fields keep their values.")
	update.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "configure"}
	return []*framework.Path{{
		Pattern:      "config",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields:       fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   read,
			logical.UpdateOperation: update,
		},
		HelpSynopsis:    "Settings of the mount.",
		HelpDescription: "The settings determine the format of tokens, the rotation of keys, and the privileged scopes. Every setting has a default. token_pattern is read only: a secret scanner finds leaked tokens by this pattern.",
	}}
}

func (b *backend) pathConfigRead(ctx context.Context, st *state, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := st.Config.Get()
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"environment":         c.EnvironmentOf(req.MountPoint),
		"token_prefix":        c.TokenPrefix,
		"token_pattern":       token.Pattern(c.LivePrefixes(b.now())...),
		"key_rotation_period": int64(c.KeyRotationPeriod.Seconds()),
		"privileged_scopes":   []string(c.PrivilegedScopes),
		"issuer":              c.Issuer,
		"signing_algorithm":   c.SigningAlgorithm,
		"jwks_max_age":        int64(c.JWKSMaxAge.Seconds()),
		"status_list_ttl":     int64(c.StatusListTTL.Seconds()),
		"geoip_database":      c.GeoIPDatabase,
	}}, nil
}

func (b *backend) pathConfigUpdate(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	c, wasBroken, err := st.ChangeConfig(ctx, req.Storage, &native.ConfigChange{
		Environment:       given[string](d, "environment"),
		TokenPrefix:       given[string](d, "token_prefix"),
		KeyRotationPeriod: givenSeconds(d, "key_rotation_period"),
		PrivilegedScopes:  given[[]string](d, "privileged_scopes"),
		Issuer:            given[string](d, "issuer"),
		SigningAlgorithm:  given[string](d, "signing_algorithm"),
		JWKSMaxAge:        givenSeconds(d, "jwks_max_age"),
		StatusListTTL:     givenSeconds(d, "status_list_ttl"),
		GeoIPDatabase:     given[string](d, "geoip_database"),
	}, req.MountPoint)
	if err != nil {
		return nil, err
	}
	st.Feed.Restart() // answers of introspect may have other members now
	var warnings []string
	if wasBroken {
		warnings = append(warnings, native.DefaultsApply)
	}
	for _, r := range st.Roles.All() {
		if err := r.Privileged(c.PrivilegedScopes); err != nil {
			warnings = append(warnings, err.Error()+"; it issues no more tokens until it is changed, tokens already issued are not affected")
		}
	}
	return warned(warnings, nil)
}
