package role

import (
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// Fields are the fields of Change.
var Fields = schema.Joined(review.Fields, schema.Fields{
	"name": schema.Str("Name of the role.").Must(),
	"token_format": schema.Str("Format of the tokens. \"opaque\": API servers check the token by introspection. \"jwt\": "+
		"an RFC 9068 access token; API servers verify the token with the published keys. Default: opaque.").
		Titled("Token format").OneOf(FormatOpaque, FormatJWT).Preset(FormatOpaque),
	"scopes": schema.Commas("Scopes of a token, unless the request names other scopes within allowed_scopes. A last " +
		"segment * matches any: invoices:*.").Titled("Scopes"),
	"allowed_scopes": schema.Commas("All scopes that a request may name. Default: scopes.").Titled("Allowed scopes"),
	"audience": schema.Commas("APIs that the token is for. An introspection with an audience accepts only tokens for that " +
		"audience. Required with token_format=jwt. Default: any.").Titled("Audience"),
	"ttl": schema.Secs("TTL of a token without renewal. Default: the mount's default lease TTL.").Titled("TTL"),
	"max_ttl": schema.Secs("Longest lifetime of a token, renewals included; at most the mount's maximum lease TTL. " +
		"Default: the mount's maximum lease TTL.").Titled("Maximum TTL"),
	"max_tokens": schema.Num("Maximum number of live tokens of the role. A grant counts once, however often a token is " +
		"refreshed or exchanged. Requires leases, except with connection. Default: 0, no limit.").
		Titled("Maximum live tokens"),
	"token_bound_cidrs": schema.Commas("Addresses and CIDR ranges that the token may be used from. Default: anywhere.").
		Titled("Token bound CIDRs"),
	"request_bound_cidrs": schema.Commas("Addresses and CIDR ranges that creds may be read from. Default: anywhere.").
		Titled("Request bound CIDRs"),
	"bound_hosts": schema.Commas("API hosts that the token is for, such as api.example.com or *.example.com. Default: any.").
		Titled("Bound hosts"),
	"bound_regions": schema.Commas("Countries that the token may be used from: codes of ISO 3166-1 alpha-2 in upper case, " +
		"such as DE or US. EU and EEA stand for their members. Default: any.").Titled("Bound regions"),
	"require_bound_checks": schema.Flag("States that all API servers check token_bound_cidrs, bound_regions and " +
		"bound_hosts of a JWT, which ordinary JWT libraries ignore. A role of JWTs takes these three fields only with " +
		"require_bound_checks. Default: false.").Titled("Require bound checks"),
	"rate_limit": schema.Str("How often a token may be used: 100/1m, or 10/1s burst 50, with the window in s, m or h. " +
		"Verifiers enforce the rate per token and process; the engine does not. Default: no limit.").Titled("Rate limit"),
	"metadata": schema.Pairs("Key=value pairs that introspection returns. A value may be an identity template, such as " +
		"{{identity.entity.name}}; the engine fills in the template when issuing the token. Default: none.").
		Titled("Metadata"),
	"description": schema.Str("Purpose of the role.").Titled("Description"),
	"detection": schema.Pairs("Rule=mode pairs for findings about tokens of the role, such as shared=revoke. The modes are on, " +
		"suspend and revoke; a role with a connection cannot take suspend. A rule that is off in config/detection stays off. " +
		"Default: as config/detection says.").Titled("Detection"),
	"allow_privileged": schema.Flag("Allow the role to hold scopes that match the mount's privileged_scopes. Default: " +
		"false.").Titled("Allow privileged scopes"),
	"generate_lease": schema.Flag("Issue tokens under a lease. A JWT without a lease lives for at most 15m. The engine " +
		"stores nothing of such a JWT, and status lists do not show its revocation. Default: true.").
		Titled("Generate lease").Preset(true),
	"refresh": schema.Flag("Issue short-lived tokens with access_ttl, and a refresh token for the next token at " +
		"oauth/token, until the lease ends. Default: false.").Titled("Refresh"),
	"access_ttl": schema.Secs("TTL of each short-lived token. Required with refresh.").Titled("Access TTL"),
	"exchange": schema.Flag("Allow the holder of a token to exchange the token at oauth/token for a token with fewer " +
		"permissions. Default: false.").Titled("Exchange"),
	"connection": schema.Str("Connection whose service issues the tokens. The connection of a role cannot be changed. " +
		"Default: none, native tokens.").Titled("Connection"),
	"params": schema.Object("Parameters of the tokens at the upstream service; the connection's provider defines the " +
		"fields.").Titled("Params"),
	"reuse": schema.Secs("With connection: how long after its creation a token is issued to further requesters, each under " +
		"a separate lease. The token is revoked with the last lease. Default: 0, no reuse.").Titled("Reuse"),
	"proof": schema.Str("Bind each token to a key that the request names: \"dpop\" by dpop_jkt (RFC 9449), \"mtls\" by "+
		"x5t_s256 (RFC 8705). API servers check the proof. Default: none.").
		Titled("Proof").OneOf("", ProofDPoP, ProofMTLS),
})

// Answer are the members of Entry.
var Answer = schema.Read(schema.Fields{
	"version":  schema.Num("Version of the role's permissions: incremented by each change of the permissions.").Must(),
	"attested": review.Attested,
}, Fields, "name")

// RequestFields are the fields of Request, and the TTL.
var RequestFields = schema.Fields{
	"role":   schema.Str("Name of the role.").Must(),
	"scopes": schema.Commas("Scopes of the token, within the role's allowed_scopes. Default: the role's scopes."),
	"ttl":    schema.Secs("TTL of the token, at most the role's max_ttl. Default: the role's ttl."),
	"token_bound_cidrs": schema.Commas("Addresses that the token may be used from, within the role's " +
		"token_bound_cidrs. Default: the role's."),
	"bound_regions": schema.Commas("Countries that the token may be used from, within the role's bound_regions: codes " +
		"of ISO 3166-1 alpha-2, EU or EEA. Default: the role's."),
	"audience": schema.Commas("APIs that the token is for, within the role's audience. Default: the role's."),
	"dpop_jkt": schema.Str("Thumbprint of the key to bind the token to (RFC 9449 section 6.1). Required for a role " +
		"with proof=dpop."),
	"x5t_s256": schema.Str("Thumbprint of the certificate to bind the token to (RFC 8705 section 3.1). Required for a " +
		"role with proof=mtls."),
}

// IssuedAnswer are the members of an issued token. The rooms native and upstream make the answers.
var IssuedAnswer = schema.Fields{
	"token":         schema.Str("Token. Send it as \"Authorization: Bearer\".").Must(),
	"token_id":      schema.Str("Public name of the token, safe to log.").Must(),
	"token_type":    schema.Str("Bearer (RFC 6750) or DPoP (RFC 9449); absent for tokens of a connection."),
	"refresh_token": schema.Str("Refresh token, for one use at oauth/token; only for a role with refresh."),
	"grant_id": schema.Str("ID of the grant, the prefix of the token_id of each of its tokens; only for a role " +
		"with refresh."),
	"scopes":            schema.Strs("Granted scopes; absent for tokens of a connection."),
	"expires_at":        schema.Date("Expiry of the token unless the lease is renewed.").Must(),
	"audience":          schema.Strs("APIs that the token is for; absent if any."),
	"token_bound_cidrs": schema.Strs("Addresses that the token may be used from; absent if any."),
	"bound_regions":     schema.Strs("Countries that the token may be used from (ISO 3166-1 alpha-2); absent if any."),
	"bound_hosts":       schema.Strs("API hosts that the token is for; absent if any."),
	"connection":        schema.Str("Connection that issued the token; absent for native tokens."),
	"name":              schema.Str("Name of the token at the upstream service."),
	"upstream":          schema.Object("Further members of the service's answer, such as the user of the token."),
}
