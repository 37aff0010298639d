package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

var defaults = native.DefaultConfig()

// configFields are the settings of the mount.
var configFields = fields{
	"environment": titled("Environment", str("Name of the environment in introspection answers and JWTs, such as "+
		"\"production\". Default: the mount's path.")),
	"token_prefix": preset(titled("Token prefix", str("Prefix of opaque tokens: 2 to 16 of a-z, 0-9 and _, a letter "+
		"first. Tokens with a former prefix keep working. Default: apt.")), defaults.TokenPrefix),
	"key_rotation_period": preset(titled("Key rotation period", secs("How long a key seals or signs new tokens, at least 1h. "+
		"Default: 720h.")), int(defaults.KeyRotationPeriod.Seconds())),
	"privileged_scopes": titled("Privileged scopes", commas("Scopes that a role may hold only with allow_privileged. A pattern "+
		"such as admin:* stands for all scopes with that prefix; * stands for the scope * only. Default: *, admin, admin:*.")),
	"issuer": titled("Issuer", str("URL under which API servers reach this mount: the \"iss\" of JWTs. The URL ends "+
		"with the mount's path, after the namespace if any, such as https://vault.example.com:8200/v1/apitoken. Required before a "+
		"role with token_format=jwt. Default: none.")),
	"signing_algorithm": preset(oneOf(titled("Signing algorithm", str("Signing algorithm of new JWTs: ES256, EdDSA or RS256. A "+
		"change takes effect once the new key has been published for jwks_max_age. Default: ES256.")),
		token.Algorithms[0], token.Algorithms[1], token.Algorithms[2]), defaults.SigningAlgorithm),
	"jwks_max_age": preset(titled("JWKS maximum age", secs("How long API servers may cache the published keys, 1s to 24h. "+
		"The engine publishes a key for this long before the key signs. Default: 5m.")), int(defaults.JWKSMaxAge.Seconds())),
	"status_list_ttl": preset(titled("Status list TTL", secs("How long API servers may cache a status list, 1s to 24h: the "+
		"longest delay until API servers see a revocation. Default: 1m.")), int(defaults.StatusListTTL.Seconds())),
	"geoip_database": titled("GeoIP database", str("Path of a MaxMind DB file of countries or cities on each Vault node. "+
		"Introspection looks up the region of client_ip in the file if the request states no region. The engine reads the file "+
		"again when the file changes. Default: none.")),
	"enforce_review": titled("Enforce review", flag("Issue no tokens from roles, connections and static roles whose review_by "+
		"has passed, until an attestation. Default: false.")),
	"public_revocation": preset(titled("Public revocation", flag("Take reports of leaked tokens at \"leaked\" without a Vault "+
		"token: a live token is revoked with its grant. Default: true.")), defaults.PublicRevocation),
}

// configAnswer are the settings of the mount as read.
var configAnswer = readFields(fields{
	"token_pattern": must(str("Regular expression (RE2) that matches this mount's opaque tokens, for secret scanners.")),
}, configFields)

func (b *backend) pathsConfig() []*framework.Path {
	read := b.answer(b.pathConfigRead, "Read the settings of the mount.", ok(configAnswer))
	read.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "configuration"}
	update := b.change(b.pathConfigUpdate, "Change the settings of the mount. Omitted fields keep their values.")
	update.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "configure"}
	return []*framework.Path{path("config", "", "", configFields,
		map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   read,
			logical.UpdateOperation: update,
		},
		"Settings of the mount.",
		"The settings determine the format of tokens, the rotation of keys, and the privileged scopes. Every setting has a default. "+
			"token_pattern is read only: a secret scanner finds leaked tokens by this pattern.")}
}

func (b *backend) pathConfigRead(ctx context.Context, st *state, req *request, _ *input) (*response, error) {
	c, err := st.Config.Get()
	if err != nil {
		return nil, err
	}
	return members(configAnswer, c, map[string]any{
		"environment":   c.EnvironmentOf(req.MountPoint),
		"token_pattern": token.Pattern(c.LivePrefixes(b.Now())...),
	}), nil
}

func (b *backend) pathConfigUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	return warned(st.ChangeConfig(ctx, req.Storage, given[native.ConfigChange](d), req.MountPoint))
}
