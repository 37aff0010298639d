package server

import (
	"net/http"
	"net/url"
	"strings"
)

// credentials are the token of a request and its proofs.
type credentials struct {
	token  string
	scheme string // Bearer or DPoP, in any case
	proofs []string
}

// readCredentials reads the Authorization header (RFC 6750 section 2.1, RFC 9449 section 7.1). A token in the query is
// refused: a query ends in logs, and two tokens make it unclear which is meant.
func readCredentials(r *Request) (credentials, *problem) {
	if inQuery(r.target.Query, "access_token") {
		return credentials{}, bad(reasonBadRequest, "the query has an access_token: send tokens in the Authorization header")
	}
	values := r.Header["Authorization"]
	switch {
	case len(values) == 0:
		return credentials{}, noToken("there is no Authorization header")
	case len(values) > 1:
		return credentials{}, bad(reasonBadRequest, "there is more than one Authorization header")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "DPoP") {
		return credentials{}, noToken("the scheme of the Authorization header is neither Bearer nor DPoP")
	}
	if token = strings.Trim(token, " "); !isToken(token) {
		return credentials{}, bad(reasonBadRequest, "the Authorization header is not one token")
	}
	c := credentials{token: token, scheme: scheme}
	for _, proof := range r.Header["Dpop"] {
		// A gateway may have joined several headers. A proof has no comma.
		c.proofs = append(c.proofs, strings.Split(proof, ",")...)
	}
	return c, nil
}

func noToken(detail string) *problem {
	return &problem{status: http.StatusUnauthorized, reason: reasonMissing, detail: detail}
}

// isToken reports whether s is a b64token of RFC 6750 section 2.1.
func isToken(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		if !inToken[s[i]] {
			return false
		}
	}
	return true
}

// inToken has the bytes of a b64token.
var inToken = bytesOf("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=")

// bytesOf returns a table of the bytes of a text.
func bytesOf(text string) (table [256]bool) {
	for _, c := range []byte(text) {
		table[c] = true
	}
	return table
}

// inQuery reports whether a query has a parameter, in any encoding. Some servers separate parameters by semicolons too.
func inQuery(query, parameter string) bool {
	if !strings.Contains(query, parameter) && strings.IndexByte(query, '%') < 0 && strings.IndexByte(query, '+') < 0 {
		return false // nothing is encoded
	}
	for query != "" {
		pair := query
		if end := strings.IndexAny(query, "&;"); end >= 0 {
			pair, query = query[:end], query[end+1:]
		} else {
			query = ""
		}
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); err == nil && plain == parameter {
			return true
		}
	}
	return false
}
