package backend

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// The paths below oauth/ follow OAuth instead of Vault's conventions: form-encoded requests, bodies and status codes of the
// standards. OAuth clients need no knowledge of Vault.

const (
	oauthPrefix = "oauth/"

	mediaJSON = "application/json"
)

// rawResponse returns an answer whose body Vault passes on unchanged. Vault answers 500 if the body is nil.
func rawResponse(status int, mediaType, cacheControl string, body []byte) *logical.Response {
	if body == nil {
		body = []byte{}
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:         status,
		logical.HTTPContentType:        mediaType,
		logical.HTTPCacheControlHeader: cacheControl,
		logical.HTTPRawBody:            body,
	}}
}

// document returns a 200 answer with a JSON body that Vault passes on unchanged.
func document(mediaType, cacheControl string, body any) (*response, error) {
	encoded, err := json.Marshal(body)
	return rawResponse(http.StatusOK, mediaType, cacheControl, encoded), err
}

// private is the Cache-Control of an answer that holds or describes a token (RFC 6749 section 5.1), and of an error.
const private = "no-store"

// refused returns an error answer with a JSON body.
func refused(status int, body map[string]string) *response {
	encoded, _ := json.Marshal(body) // a map of strings has a JSON form
	return rawResponse(status, mediaJSON, private, encoded)
}

// maxAge returns the Cache-Control of an answer that may be cached for d.
func maxAge(d time.Duration) string { return fmt.Sprintf("public, max-age=%d", int(d.Seconds())) }

// parameters returns a function that returns the value of a parameter; empty if the client did not send the parameter.
func parameters(d *input) func(name string) string {
	return func(name string) string { return d.Get(name).(string) }
}

// oauthForm rejects a parameter that is not text, before the framework answers with a Vault error. RFC 6749 section 3.2
// forbids repeated parameters; Vault joins the values of a repeated parameter by commas.
func oauthForm(req *request) error {
	for name, value := range req.Data {
		if _, text := value.(string); !text {
			return refusal.OAuth(refusal.InvalidRequest, "%s must be text", refusal.Clip(name))
		}
	}
	return nil
}

// raw returns the schema of the 200 answer that rawResponse makes.
func raw(mediaType, description string) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: description, MediaType: mediaType}}}
}
