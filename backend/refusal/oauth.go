package refusal

import (
	"cmp"
	"strings"
)

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

// OAuthBody returns the body of the error answer of RFC 6749 section 5.2, with the characters that the section allows.
func (e *Error) OAuthBody() map[string]string {
	body := map[string]string{"error": cmp.Or(e.Code, InvalidRequest)}
	if description := e.Error(); description != "" {
		body["error_description"] = strings.Map(func(r rune) rune {
			switch {
			case r == '"':
				return '\''
			case r < 0x20 || r > 0x7e || r == '\\':
				return -1
			}
			return r
		}, description)
	}
	return body
}
