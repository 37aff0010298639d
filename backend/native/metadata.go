package native

import "github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"

// Grant types of RFC 6749 section 6 and RFC 8693 section 2.1.
const (
	GrantTypeRefresh  = "refresh_token"
	GrantTypeExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
)

// Metadata returns the issuer's metadata of RFC 8414 section 2 and OpenID Connect Discovery 1.0 section 3.
func (c *Config) Metadata() map[string]any {
	return map[string]any{
		"issuer":                                        c.Issuer,
		"jwks_uri":                                      c.Issuer + "/oauth/jwks",
		"token_endpoint":                                c.Issuer + "/oauth/token",
		"introspection_endpoint":                        c.Issuer + "/oauth/introspect",
		"revocation_endpoint":                           c.Issuer + "/oauth/revoke",
		"status_list_aggregation_endpoint":              c.Issuer + "/oauth/status",
		"grant_types_supported":                         []string{GrantTypeRefresh, GrantTypeExchange},
		"response_types_supported":                      []string{},
		"token_endpoint_auth_methods_supported":         []string{"none"},
		"introspection_endpoint_auth_methods_supported": []string{"Bearer"},
		"revocation_endpoint_auth_methods_supported":    []string{"Bearer"},
		"introspection_signing_alg_values_supported":    token.Algorithms,
		"tls_client_certificate_bound_access_tokens":    true,

		// OpenID Connect Discovery requires these members of every issuer. The engine issues no ID tokens.
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": token.Algorithms,
	}
}
