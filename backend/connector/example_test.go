package connector_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
)

// shelf defines a provider: how to create and revoke tokens at an HTTP API.
const shelf = `
name: shelf
title: Shelf
documentation: [https://shelf.example.com/api]
expiry: none
credential:
  key: {type: string, required: true, secret: true, description: API key of an administrator.}
params:
  scopes: {type: list, required: true, description: Scopes of the token.}
operations:
  create:
    requests:
      - method: POST
        path: /tokens
        headers: {authorization: '"Bearer " + credential.key'}
        json: '{"name": name, "scopes": params.scopes}'
    result: {id: string(response.body.id), token: response.body.token}
  find:
    requests: [{method: GET, path: /tokens, headers: {authorization: '"Bearer " + credential.key'}}]
    items: response.body
  revoke:
    requests: [{method: DELETE, path: '/tokens/{id}', headers: {authorization: '"Bearer " + credential.key'}, gone: [404]}]
  check:
    requests: [{method: GET, path: /tokens, headers: {authorization: '"Bearer " + credential.key'}}]
`

// A Service creates a token at an upstream service and revokes the token, as the provider's definition says.
func Example() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.URL.Path, r.Header.Get("Authorization"))
		if r.Method == http.MethodPost {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"id": 7, "token": "shelf_0123456789abcdef"}`)
		}
	}))
	defer server.Close()

	provider, err := connector.Compile([]byte(shelf))
	if err != nil {
		log.Fatal(err)
	}
	client, err := connector.NewClient(connector.ClientConfig{URL: server.URL})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	service := &connector.Service{Connection: "books", Provider: provider, Client: client, Credential: map[string]any{"key": "admin-key"}}

	ctx, now := context.Background(), time.Now()
	created, err := service.Create(ctx, "vault-reader-1", "reader", map[string]any{"scopes": []string{"read"}}, now, now.Add(time.Hour))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(created.ID, created.Text)
	if err := service.Revoke(ctx, &created.Token); err != nil {
		log.Fatal(err)
	}
	// Output:
	// POST /tokens Bearer admin-key
	// 7 shelf_0123456789abcdef
	// DELETE /tokens/7 Bearer admin-key
}

// Compile returns an error with the line of a mistake.
func ExampleCompile() {
	_, err := connector.Compile([]byte("name: shelf\ntitel: Shelf\n"))
	fmt.Println(err)
	// Output: line 2: "titel" is not one of: name, title, description, documentation, credential, settings, params, expiry, max_name, operations
}
