package native

import (
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// TokenFields are the fields of TokenForm.
var TokenFields = schema.Fields{
	"grant_type":           schema.Str("refresh_token or urn:ietf:params:oauth:grant-type:token-exchange.").Must(),
	"refresh_token":        schema.Str("Refresh token, for one use.").Secret(),
	"subject_token":        schema.Str("Token to exchange, of a role with exchange=true.").Secret(),
	"subject_token_type":   schema.Str("urn:ietf:params:oauth:token-type:access_token, or ...:jwt for a JWT."),
	"requested_token_type": schema.Str("Same values as subject_token_type. Default: the token format of the role."),
	"actor_token":          schema.Str("Not supported.").Secret(),
	"scope": schema.Str("Scopes of the new token, separated by spaces, within the scopes of the old token. Default: " +
		"the same."),
	"audience": schema.Str("API that the new token is for, within the audience of the old token. Default: the same."),
	"resource": schema.Str("Same as audience (RFC 8707)."),
	"ttl": schema.Str("TTL of the new token, at most the remaining lifetime of the old token; an extension of this " +
		"engine."),
	"bound_regions": schema.Str("Regions that the new token may be used from, separated by spaces, within the regions " +
		"of the old token; an extension of this engine. Default: the same."),
	"token_bound_cidrs": schema.Str("Addresses that the new token may be used from, separated by spaces, within the " +
		"addresses of the old token; an extension of this engine. Default: the same."),
}

// IntrospectFields are the fields of a standard introspection (RFC 7662).
var IntrospectFields = schema.Fields{
	"token":           schema.Str("Token that the API received.").Secret().Must(),
	"token_type_hint": schema.Str("Ignored."),
	"scope": schema.Str("Scopes that the API call requires, separated by spaces; an extension of this " +
		"engine. Default: none."),
	"audience": schema.Str("Audience of the API; an extension of this engine. Default: not checked."),
	"client_ip": schema.Str("Address of the API's client; an extension of this engine. Required for a token with " +
		"token_bound_cidrs: otherwise the token is not active."),
	"region": schema.Str("Country of the API's client, an ISO 3166-1 alpha-2 code in upper case; an extension of " +
		"this engine. Required for a token with bound_regions: otherwise the token is not active. Default: the " +
		"country of client_ip in geoip_database of config."),
	"host": schema.Str("Host header of the API call; an extension of this engine. Required for a token with " +
		"bound_hosts: otherwise the token is not active."),
}

// RevokeFields are the fields of a standard revocation (RFC 7009).
var RevokeFields = schema.Fields{
	"token":           schema.Str("Token or refresh token.").Secret().Must(),
	"token_type_hint": schema.Str("Ignored."),
}
