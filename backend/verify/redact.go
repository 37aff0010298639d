package verify

import "github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"

// Redact replaces the tokens in a text, opaque ones and JWTs, by "[token]": for logs of what clients send.
func Redact(text string) string { return token.Redact(text) }
