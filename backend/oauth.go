package backend

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// The paths below oauth/ speak OAuth and not Vault: form-encoded requests, bodies and status codes as the
// standards have them, so that clients that know nothing of Vault can use them.

const (
	oauthPrefix = "oauth/"

	mediaJSON = "application/json"
)

// rawResponse is an answer that Vault passes on as it is.
func rawResponse(status int, mediaType, cacheControl string, body []byte) *logical.Response {
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:         status,
		logical.HTTPContentType:        mediaType,
		logical.HTTPCacheControlHeader: cacheControl,
		logical.HTTPRawBody:            body,
	}}
}

// noStore keeps an answer with a token, or about one, out of caches (RFC 6749 section 5.1).
func noStore(status int, answer any) (*logical.Response, error) {
	body, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	return rawResponse(status, mediaJSON, "no-store", body), nil
}

// maxAge is the Cache-Control of an answer that may be cached for so long.
func maxAge(d time.Duration) string { return fmt.Sprintf("public, max-age=%d", int(d.Seconds())) }

// oauthRefusal renders a refusal as an error answer of RFC 6749 section 5.2.
func oauthRefusal(e *refusal.Error) (*logical.Response, error) {
	answer := map[string]string{"error": cmp.Or(e.Code, refusal.InvalidRequest)}
	if description := e.Error(); description != "" {
		// The characters that section 5.2 allows.
		answer["error_description"] = strings.Map(func(r rune) rune {
			switch {
			case r == '"':
				return '\''
			case r < 0x20 || r > 0x7e || r == '\\':
				return -1
			}
			return r
		}, description)
	}
	return noStore(http.StatusBadRequest, answer)
}

// oauthForm refuses a parameter that is no text, before the framework can answer in Vault's way. One that a
// form gives twice, which RFC 6749 section 3.2 forbids, comes here with its values joined by commas.
func oauthForm(req *logical.Request) error {
	for name, value := range req.Data {
		if _, text := value.(string); !text {
			return refusal.OAuth(refusal.InvalidRequest, "%s must be text", refusal.Clip(name))
		}
	}
	return nil
}

// rawResponses describe answers that are no JSON of Vault's.
func rawResponses(status int, mediaType, description string) map[int][]framework.Response {
	return map[int][]framework.Response{status: {{Description: description, MediaType: mediaType}}}
}
