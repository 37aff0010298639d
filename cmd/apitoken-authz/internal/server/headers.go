package server

import (
	"net/http"
	"slices"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
)

// identityHeaders carry the identity to the API. The authorizer sets all of them on every request that may pass, so that a
// gateway overwrites what the client sent.
var identityHeaders = [...]string{"X-Token-Id", "X-Token-Subject", "X-Token-Role", "X-Token-Scope"}

// plainIdentity are identityHeaders in the form of canonical.
var plainIdentity = [...]string{"x-token-id", "x-token-subject", "x-token-role", "x-token-scope"}

// noValue stands for a value that is not known: a header must not be empty, since gateways leave out empty headers.
const noValue = "-"

// identity returns the values of identityHeaders. The zero Decision is that of a public rule.
func identity(d *verify.Decision) [len(identityHeaders)]string {
	return [...]string{safe(d.TokenID), safe(d.Subject), safe(d.Role), safe(d.Scopes.Parameter())}
}

const safeChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/*@+= "

// isSafe has the bytes of safeChars.
var isSafe = bytesOf(safeChars)

// plain reports whether a value needs no percent-encoding.
func plain(value string) bool {
	for i := range len(value) {
		if !isSafe[value[i]] {
			return false
		}
	}
	return value[0] != ' ' && value[len(value)-1] != ' '
}

// safe percent-encodes what is not safe in a header.
func safe(value string) string {
	switch {
	case value == "":
		return noValue
	case value == noValue:
		return "%2D"
	case plain(value):
		return value
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i, c := range []byte(value) {
		edge := c == ' ' && (i == 0 || i == len(value)-1)
		if isSafe[c] && !edge {
			b.WriteByte(c)
			continue
		}
		b.WriteString("%" + string(digits[c>>4]) + string(digits[c&15]))
	}
	return b.String()
}

// overrideParameter makes Symfony, Laravel and others act on another method, if it is in the query of a POST request.
const overrideParameter = "_method"

// overrides make some frameworks act on another method or path than the one of the request line.
var overrides = [...]string{"x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"}

// canonical returns a name in lower case with a hyphen for every other character: what some servers make of a name.
func canonical(name string) string {
	plain := make([]byte, len(name))
	for i := range len(name) {
		plain[i] = canonicalByte(name[i])
	}
	return string(plain)
}

func canonicalByte(c byte) byte {
	switch {
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		return c
	case 'A' <= c && c <= 'Z':
		return c | 0x20
	}
	return '-'
}

// reads reports whether some servers read a name as the plain name.
func reads(name, plain string) bool {
	if len(name) != len(plain) {
		return false
	}
	for i := range len(name) {
		if canonicalByte(name[i]) != plain[i] {
			return false
		}
	}
	return true
}

// sent is what a client sent of the headers that it must not set.
type sent struct {
	identity []string // names of identity headers, in their usual spelling
	aliases  []string // other spellings of identity headers
}

// inspect finds headers that try to change the meaning of the request.
func inspect(h http.Header) (sent, *problem) {
	var found sent
	for name, values := range h {
		switch name {
		case "Connection":
			if p := inspectConnection(values); p != nil {
				return found, p
			}
			continue
		case "":
			continue
		}
		// All names below begin with an x.
		if name[0]|0x20 != 'x' {
			continue
		}
		if k := indexOf(overrides[:], name); k >= 0 {
			return found, bad(reasonOverride, "the header "+overrides[k]+" asks for another method or path")
		}
		switch k := indexOf(plainIdentity[:], name); {
		case k < 0:
		case strings.EqualFold(name, plainIdentity[k]):
			found.identity = append(found.identity, name)
		default:
			found.aliases = append(found.aliases, name)
		}
	}
	return found, nil
}

// indexOf returns the index of the plain name that some servers read a name as; -1 if there is none.
func indexOf(plain []string, name string) int {
	return slices.IndexFunc(plain, func(p string) bool { return reads(name, p) })
}

// inspectConnection refuses a Connection header (RFC 9110 section 7.6.1) that makes a proxy drop what the authorizer relies on.
func inspectConnection(values []string) *problem {
	for _, value := range values {
		for option := range strings.SplitSeq(value, ",") {
			plain := canonical(strings.TrimSpace(option))
			if slices.Contains(plainIdentity[:], plain) || slices.Contains([]string{"authorization", "dpop", "host"}, plain) ||
				strings.HasPrefix(plain, "x-forwarded-") || strings.HasPrefix(plain, "x-original-") {
				return bad(reasonBadRequest, "the Connection header lists "+plain)
			}
		}
	}
	return nil
}
