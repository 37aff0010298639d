package native

import (
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// defaults are the settings that ConfigFields shows.
var defaults = DefaultConfig()

// ConfigFields are the fields of ConfigChange.
var ConfigFields = schema.Fields{
	"environment": schema.Str("Name of the environment in introspection answers and JWTs, such as \"production\". Default: " +
		"the mount's path.").Titled("Environment"),
	"token_prefix": schema.Str("Prefix of opaque tokens: 2 to 16 of a-z, 0-9 and _, a letter first. Tokens with a former " +
		"prefix keep working. Default: apt.").Titled("Token prefix").Preset(defaults.TokenPrefix),
	"key_rotation_period": schema.Secs("How long a key seals or signs new tokens, at least 1h. Default: 720h.").
		Titled("Key rotation period").Preset(int(defaults.KeyRotationPeriod.Seconds())),
	"privileged_scopes": schema.Commas("Scopes that a role may hold only with allow_privileged. A pattern such as admin:* " +
		"stands for all scopes with that prefix; * stands for the scope * only. Default: *, admin, admin:*.").
		Titled("Privileged scopes"),
	"issuer": schema.Str("URL under which API servers reach this mount: the \"iss\" of JWTs. The URL ends with the mount's " +
		"path, after the namespace if any, such as https://vault.example.com:8200/v1/apitoken. Required before a role with " +
		"token_format=jwt. Default: none.").Titled("Issuer"),
	"signing_algorithm": schema.Str("Signing algorithm of new JWTs: ES256, EdDSA or RS256. A change takes effect once the " +
		"new key has been published for jwks_max_age. Default: ES256.").
		Titled("Signing algorithm").OneOf(schema.Any(token.Algorithms)...).Preset(defaults.SigningAlgorithm),
	"jwks_max_age": schema.Secs("How long API servers may cache the published keys, 1s to 24h. The engine publishes a key " +
		"for this long before the key signs. Default: 5m.").Titled("JWKS maximum age").Preset(int(defaults.JWKSMaxAge.Seconds())),
	"status_list_ttl": schema.Secs("How long API servers may cache a status list, 1s to 24h: the longest delay until API " +
		"servers see a revocation. Default: 1m.").Titled("Status list TTL").Preset(int(defaults.StatusListTTL.Seconds())),
	"geoip_database": schema.Str("Path of a MaxMind DB file of countries or cities on each Vault node. Introspection looks " +
		"up the region of client_ip in the file if the request states no region. The engine reads the file again when the " +
		"file changes. Default: none.").Titled("GeoIP database"),
	"enforce_review": schema.Flag("Issue no tokens from roles, connections and static roles whose review_by has passed, " +
		"until an attestation. Default: false.").Titled("Enforce review"),
	"public_revocation": schema.Flag("Take reports of leaked tokens at \"leaked\" without a Vault token: a live token is revoked with " +
		"its grant. Default: true.").Titled("Public revocation").Preset(defaults.PublicRevocation),
}

// ConfigAnswer are the members of Config, and the pattern of tokens.
var ConfigAnswer = schema.Read(schema.Fields{
	"token_pattern": schema.Str("Regular expression (RE2) that matches this mount's opaque tokens, for secret scanners.").
		Must(),
}, ConfigFields)

// UseFields are the fields of UseRequest, and the token.
var UseFields = schema.Fields{
	"token": schema.Str("Token that the API received.").Secret().Must(),
	"required_scopes": schema.Commas("Scopes that the API call requires. Default: none; the API checks \"scope\" " +
		"itself."),
	"audience": schema.Str("Audience of the API, as in the roles. Default: not checked."),
	"client_ip": schema.Str("Address of the API's client. Required for a token with token_bound_cidrs: otherwise the " +
		"token is not active."),
	"region": schema.Str("Country of the API's client, an ISO 3166-1 alpha-2 code in upper case. Required for a token " +
		"with bound_regions: otherwise the token is not active. Default: the country of client_ip in geoip_database of " +
		"config."),
	"min_cursor": schema.Num64("For verifiers that read feed: a node other than the active node forwards a request " +
		"with min_cursor to the active node. Default: any node answers."),
	"host": schema.Str("Host header of the API call. Required for a token with bound_hosts: otherwise the token is not " +
		"active."),
}

// UseAnswer are the members of Verdict.Answer.
var UseAnswer = schema.Fields{
	"active":      schema.Flag("Whether the token is valid for the use in the request.").Must(),
	"reason":      schema.Str("Reason for active=false; absent if the token is active."),
	"detail":      schema.Str("The reason in a sentence."),
	"scope":       schema.Str("Scopes of the token, separated by spaces."),
	"client_id":   schema.Str("Name of the role."),
	"token_type":  schema.Str("Bearer or DPoP."),
	"iss":         schema.Str("Issuer of the mount; absent if not set."),
	"cnf":         schema.Object("Key that the token is bound to (RFC 7800): the thumbprint jkt or x5t#S256."),
	"grant_id":    schema.Str("ID of the grant; only for refreshed and exchanged tokens."),
	"exp":         schema.Num64("Expiry of the token, in seconds since 1970."),
	"iat":         schema.Num64("Time of issue, in seconds since 1970."),
	"sub":         schema.Str("Vault entity that requested the token; absent if none."),
	"aud":         schema.Strs("APIs that the token is for; absent if any."),
	"jti":         schema.Str("Same as token_id."),
	"token_id":    schema.Str("Public name of the token, safe to log."),
	"role":        schema.Str("Role that the token was issued from."),
	"environment": schema.Str("Environment of the mount."),
	"metadata":    schema.Pairs("Metadata of the role."),
	"token_bound_cidrs": schema.Strs("Addresses that the token may be used from; absent if any, empty if nothing is left " +
		"of its limits."),
	"epoch": schema.Str("Epoch of feed; only from the active node."),
	"cursor": schema.Num64("End of feed before the answer was made: the answer knows all events up to the cursor. Only " +
		"from the active node."),
	"bound_regions": schema.Strs("Countries that the token may be used from (ISO 3166-1 alpha-2); absent if any."),
	"rate_limit": schema.Str("How often the token may be used, such as 100/1m or 10/1s burst 50; absent if there is no " +
		"limit. The verifier enforces the rate."),
	"bound_hosts": schema.Strs("API hosts that the token is for; absent if any."),
}

// KeyFields are the fields of a request about one key.
var KeyFields = schema.Fields{
	"key": schema.Str("Number of the key, or \"kid\" of a signing key.").Must(),
}

// KeysAnswer are the members of KeysInUse.
var KeysAnswer = schema.Fields{
	"key":         schema.Str("Number of the key that now seals opaque tokens; absent if the mount has issued no token."),
	"signing_key": schema.Str("The \"kid\" of the key that now signs JWTs; absent if no role issues JWTs."),
}

// KeysListAnswer are the members of DescribeKeys.
var KeysListAnswer = schema.Joined(schema.List("key number, or \"kid\" of a signing key, oldest first"), schema.Fields{
	"key_info": schema.Object("Key to its algorithm, use (enc: seals opaque tokens, sig: signs JWTs), state (successor, " +
		"current, retired, expired, destroyed or broken) and created_at; of a retired key also retired_at and needed_until."),
})
