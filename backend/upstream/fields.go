package upstream

import (
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// ConnectionFields are the fields of Change, and of Deletion.
var ConnectionFields = schema.Joined(review.Fields, schema.Fields{
	"name": schema.Str("Name of the connection.").Must(),
	"provider": schema.Str("Provider of the service; see providers. The provider of a connection cannot be changed.").
		Titled("Provider"),
	"url": schema.Str("URL of the service, such as https://gitea.example.com. A change requires the secrets of the " +
		"credential again.").Titled("URL"),
	"credential": schema.Object("Credential of the engine at the service; the provider defines the fields. Omitted fields " +
		"keep their values. A read never returns secrets.").Titled("Credential").Secret(),
	"settings": schema.Object("Further settings; the provider defines the fields.").Titled("Settings"),
	"name_template": schema.Str("Template of token names at the service. Default: " +
		DefaultNameTemplate + ".").Titled("Name template"),
	"timeout":        schema.Secs("Time limit of a call, retries included. Default: 30s.").Titled("Timeout"),
	"rate_limit":     schema.Float("Maximum number of requests a second. Default: no limit.").Titled("Rate limit"),
	"max_concurrent": schema.Num("Maximum number of concurrent requests. Default: 16.").Titled("Maximum concurrent requests"),
	"ca_cert": schema.Str("CA certificates of the service, in PEM. A change requires the secrets of the credential again. " +
		"Default: the system's.").Titled("CA certificate").Edited("file"),
	"client_cert": schema.Str("Client certificate of the engine, in PEM. Default: none.").
		Titled("Client certificate").Edited("file"),
	"client_key": schema.Str("Private key of client_cert, in PEM. A read never returns the key.").
		Titled("Client key").Edited("file").Secret(),
	"proxy_url": schema.Str("HTTP proxy to the service. A change requires the secrets of the credential again. Default: " +
		"the proxy of the server's environment.").Titled("Proxy URL"),
	"reconcile_period": schema.Secs("Time between two comparisons of the tokens at the service with the tokens of the engine, at " +
		"least 1h; see reconcile. Default: 0, only on demand.").Titled("Reconcile period"),
	"description": schema.Str("Purpose of the connection.").Titled("Description"),
	"revoke_on_delete": schema.Flag("Revoke the credential at the service when the connection is deleted, if the provider " +
		"can. If the revocation fails, the connection is deleted with a warning. Default: false.").Titled("Revoke on delete"),
	"force": schema.Flag("Delete the connection even if roles or tokens use the connection. The answer lists the tokens " +
		"left at the service. Default: false.").Query(),
})

// ConnectionAnswer are the members of a connection, of Connections.Public.
var ConnectionAnswer = schema.Read(schema.Fields{
	"rotated_at": schema.Str("Time of the last rotation by rotate-root; empty if never rotated.").Must(),
	"tokens":     schema.Num("Number of live tokens at the service.").Must(),
	"queue": schema.Object("Tokens still to be revoked: count, oldest (when the oldest token entered the queue), " +
		"last_error, next_try if the service could not be reached, unrevocable (tokens that the service cannot revoke) and " +
		"unrevocable_until. root: unfinished work of a credential rotation.").Must(),
	"attested": review.Attested,
}, ConnectionFields, "name", "client_key", "force")

// CheckAnswer are the members of the answer of Check.
var CheckAnswer = schema.Fields{
	"provider":   schema.Str("The provider.").Must(),
	"credential": schema.Object("Account and permissions of the credential, as the service reports.").Must(),
}

// ProviderFields are the fields of ProviderChange.
var ProviderFields = schema.Fields{
	"name": schema.Str("Name of the provider.").Must(),
	"definition": schema.Str("Definition of the provider in YAML; see docs/providers.md.").
		Titled("Definition").Edited("textarea"),
}

// ProviderAnswer are the members that Describe of package connector returns, and whether the provider is built in.
var ProviderAnswer = schema.Fields{
	"title":         schema.Str("Name of the service.").Must(),
	"description":   schema.Str("Kind of the service's tokens, and their limits.").Must(),
	"documentation": schema.Strs("Links to the API's documentation.").Must(),
	"builtin":       schema.Flag("Whether the provider is part of the engine. A built-in provider cannot be changed.").Must(),
	"expiry":        schema.Str("Precision of a token's expiry at the service: none, seconds, days.").Must(),
	"operations":    schema.Strs("Operations that the provider supports.").Must(),
	"credential":    schema.Object("Fields of a connection's credential.").Must(),
	"settings":      schema.Object("Fields of a connection's settings.").Must(),
	"params":        schema.Object("Fields of a role's params.").Must(),
	"example":       schema.Str("Commands that set up a connection and a role.").Must(),
	"definition":    schema.Str("Definition of the provider in YAML.").Must(),
}
