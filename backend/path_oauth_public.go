package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Media types of RFC 7517 section 8.5.1 and draft-ietf-oauth-status-list section 14.7.
const (
	mediaJWKS       = "application/jwk-set+json"
	mediaStatusList = "application/" + token.TypeStatusList
)

// unauthenticated are the paths that need no Vault token: what verifiers read, and the token endpoint, where
// the token that is shown is the credential.
var unauthenticated = []string{
	"oauth/token",
	"oauth/jwks",
	"oauth/status",
	"oauth/status/*",
	".well-known/openid-configuration",
	".well-known/oauth-authorization-server",
}

func (b *backend) pathsOAuthPublic() []*framework.Path {
	read := func(pattern, suffix, media, what, help string, handler framework.OperationFunc) *framework.Path {
		return &framework.Path{
			Pattern:      pattern,
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: suffix},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback: handler, Summary: what, Responses: rawResponses(http.StatusOK, media, what),
				},
			},
			HelpSynopsis:    what,
			HelpDescription: help + " It needs no Vault token.",
		}
	}
	list := read("oauth/status/"+framework.GenericNameRegex("number"), "status-list", mediaStatusList, "A status list, signed.",
		"Shows API servers which JWTs were revoked before they expired (draft-ietf-oauth-status-list).", b.statusList)
	list.Fields = map[string]*framework.FieldSchema{
		"number": {Type: framework.TypeString, Required: true, Description: "Number of the list, from the uri in the token's status."},
	}
	metadata := "Where the endpoints are and what they support (RFC 8414, OpenID Connect Discovery 1.0)."
	return []*framework.Path{
		read("oauth/jwks", "jwks", mediaJWKS, "The keys that JWTs are signed with.",
			"A JWK set (RFC 7517) of the current key, the next one, and those whose tokens may still be live.", b.jwks),
		list,
		read("oauth/status/?$", "status-lists", mediaJSON, "The URIs of all status lists.",
			"For API servers that fetch the lists ahead (draft-ietf-oauth-status-list section 9).", b.statusLists),
		read(`\.well-known/openid-configuration`, "openid-configuration", mediaJSON, "The issuer's metadata.", metadata, b.metadata),
		read(`\.well-known/oauth-authorization-server`, "oauth-authorization-server", mediaJSON, "The issuer's metadata.", metadata, b.metadata),
	}
}

func (b *backend) jwks(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(st.signers.Ring().PublicKeys())
	if err != nil {
		return nil, err
	}
	c, err := st.config.get()
	if err != nil { // verifiers go on, and nobody knows how long they may cache
		return rawResponse(http.StatusOK, mediaJWKS, "no-store", body), nil
	}
	return rawResponse(http.StatusOK, mediaJWKS, maxAge(c.JWKSMaxAge), body), nil
}

func (b *backend) metadata(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	c, err := st.config.get()
	if err != nil {
		return nil, err
	}
	if c.Issuer == "" {
		return rawResponse(http.StatusNotFound, mediaJSON, "no-store", []byte(`{"error":"no issuer is configured"}`)), nil
	}
	body, err := json.Marshal(map[string]any{
		"issuer":                                        c.Issuer,
		"jwks_uri":                                      c.Issuer + "/oauth/jwks",
		"token_endpoint":                                c.Issuer + "/oauth/token",
		"introspection_endpoint":                        c.Issuer + "/oauth/introspect",
		"revocation_endpoint":                           c.Issuer + "/oauth/revoke",
		"status_list_aggregation_endpoint":              c.Issuer + "/oauth/status",
		"grant_types_supported":                         []string{grantTypeRefresh, grantTypeExchange},
		"response_types_supported":                      []string{},
		"token_endpoint_auth_methods_supported":         []string{"none"},
		"introspection_endpoint_auth_methods_supported": []string{"Bearer"},
		"revocation_endpoint_auth_methods_supported":    []string{"Bearer"},
		"introspection_signing_alg_values_supported":    token.Algorithms,
		"tls_client_certificate_bound_access_tokens":    true,

		// OpenID Connect Discovery requires these of every issuer; there are no ID tokens here.
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": token.Algorithms,
	})
	if err != nil {
		return nil, err
	}
	return rawResponse(http.StatusOK, mediaJSON, maxAge(c.JWKSMaxAge), body), nil
}

func (b *backend) statusLists(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	c, err := st.config.get()
	if err != nil {
		return nil, err
	}
	uris := []string{}
	for _, number := range st.indexes.Lists() {
		uris = append(uris, c.statusURI(number))
	}
	body, err := json.Marshal(map[string]any{"status_lists": uris})
	if err != nil {
		return nil, err
	}
	return rawResponse(http.StatusOK, mediaJSON, maxAge(c.StatusListTTL), body), nil
}

func (b *backend) statusList(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	c, err := st.config.get()
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseUint(d.Get("number").(string), 10, 32)
	if err != nil || strconv.FormatUint(number, 10) != d.Get("number").(string) || !st.indexes.Has(uint32(number)) {
		return rawResponse(http.StatusNotFound, mediaJSON, "no-store", []byte(`{"error":"there is no such status list"}`)), nil
	}
	body, err := b.statusCache.get(st, c, uint32(number), b.now(), func(payload []byte) (signed string, err error) {
		err = st.signers.Sign(ctx, req.Storage, c.SigningAlgorithm, statusListLifetime(c), func(ring *token.SigningRing) error {
			signed, err = ring.Sign(token.TypeStatusList, payload)
			return err
		})
		return signed, err
	})
	if err != nil {
		return nil, err
	}
	return rawResponse(http.StatusOK, mediaStatusList, maxAge(c.StatusListTTL), body), nil
}

// statusListLifetime is how long a status list is valid: it outlives the copies that caches have handed on to caches.
func statusListLifetime(c *config) time.Duration { return 3 * c.StatusListTTL }

// statusCache keeps the status lists as they are served. One is made anew when a revocation, a new key or
// other settings have changed it, or when verifiers that cache it would soon hold it for too old.
type statusCache struct {
	mu    sync.Mutex
	lists map[uint32]*servedList
}

type servedList struct {
	body     []byte
	revision uint64
	ledger   *ledger.Deviations
	ring     *token.SigningRing
	config   *config
	builtAt  time.Time
}

func (sc *statusCache) get(st *state, c *config, number uint32, now time.Time, sign func([]byte) (string, error)) ([]byte, error) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	// The revision is read before the list, so that a change in between is made up for next time.
	fresh := &servedList{revision: st.statusRevision(number), ledger: st.deviations, ring: st.signers.Ring(), config: c, builtAt: now}
	if old := sc.lists[number]; old != nil && old.revision == fresh.revision && old.ledger == fresh.ledger &&
		old.ring == fresh.ring && old.config == c && now.Sub(old.builtAt) < c.StatusListTTL {
		return old.body, nil
	}
	for key, err := range st.deviations.Damaged() {
		// A list without the revocations that are there would revive tokens.
		return nil, fmt.Errorf("the stored entry %s cannot be read: %w", key, err)
	}
	lst, err := token.EncodeStatusList(ledger.ListSize, st.revokedIn(number))
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(map[string]any{
		"sub": c.statusURI(number),
		"iat": now.Unix(),
		"exp": now.Add(statusListLifetime(c)).Unix(),
		"ttl": int64(c.StatusListTTL.Seconds()),
		"status_list": map[string]any{
			"bits":            1,
			"lst":             lst,
			"aggregation_uri": c.Issuer + "/oauth/status",
		},
	})
	if err != nil {
		return nil, err
	}
	signed, err := sign(payload)
	if err != nil {
		return nil, err
	}
	fresh.body = []byte(signed)
	if sc.lists == nil {
		sc.lists = make(map[uint32]*servedList)
	}
	sc.lists[number] = fresh
	for n := range sc.lists {
		if !st.indexes.Has(n) {
			delete(sc.lists, n)
		}
	}
	return fresh.body, nil
}
