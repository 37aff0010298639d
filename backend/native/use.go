package native

import (
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// UseRequest is a use of a token as a request describes the use; nil for what the request does not name.
type UseRequest struct {
	RequiredScopes *[]string `json:"required_scopes"`
	Audience       *string   `json:"audience"`
	ClientIP       *string   `json:"client_ip"`
	Region         *string   `json:"region"`
	Host           *string   `json:"host"`
	MinCursor      *int64    `json:"min_cursor"` // of a verifier that reads the feed
}

// IsLookUp reports whether the request is no use of a token: a verifier that reads the feed asks what a token is, and reports
// the uses itself.
func (q *UseRequest) IsLookUp() bool {
	return q.MinCursor != nil && *q == UseRequest{MinCursor: q.MinCursor}
}

// Parse returns the use, or a refusal.
func (q *UseRequest) Parse() (use *access.Use, err error) {
	use = new(access.Use)
	if q.RequiredScopes != nil {
		if use.Scopes, err = access.ParseScopes(*q.RequiredScopes); err != nil {
			return nil, refusal.Field("required_scopes", "%s", err)
		}
	}
	if q.Audience != nil {
		use.Audience = *q.Audience
	}
	if q.ClientIP != nil {
		if use.ClientIP, err = access.ParseClientIP(*q.ClientIP); err != nil {
			return nil, refusal.Field("client_ip", "%s", err)
		}
	}
	if q.Region != nil {
		if use.Region, err = access.ParseRegion(*q.Region); err != nil {
			return nil, refusal.Field("region", "%s", err)
		}
	}
	if q.Host != nil {
		if use.Host, err = access.ParseHost(*q.Host); err != nil {
			return nil, refusal.Field("host", "%s", err)
		}
	}
	return use, nil
}

// CheckText refuses text that no token can be by its size or its bytes. Other malformed text makes a Verdict.
func CheckText(text string) error {
	switch {
	case text == "":
		return refusal.Field("token", "is missing")
	case len(text) > token.MaxLen:
		return refusal.Field("token", "is %d bytes long, the longest token has %d", len(text), token.MaxLen)
	case !isPrintable(text):
		return refusal.Field("token", "has bytes that are not printable ASCII")
	}
	return nil
}
