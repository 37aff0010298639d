package refusal

// The OAuth error codes of RFC 6749 section 5.2, RFC 8707 section 2 and RFC 7009 section 2.2.1.
const (
	InvalidRequest       = "invalid_request"
	InvalidGrant         = "invalid_grant"
	InvalidScope         = "invalid_scope"
	InvalidTarget        = "invalid_target"
	UnsupportedGrantType = "unsupported_grant_type"
	UnsupportedTokenType = "unsupported_token_type"
)

// OAuth returns a refusal with an OAuth error code. The text must not say why a token is invalid. The text names only
// mistakes of the caller.
func OAuth(code, format string, args ...any) *Error {
	e := New(format, args...)
	e.Code = code
	return e
}
