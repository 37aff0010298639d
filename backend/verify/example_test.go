package verify_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// An API that requires a scope. In production, Config has the address of Vault and a way to log in:
//
//	verify.Config{
//		Audience: "https://orders.example.com",
//		Vault:    &verify.VaultConfig{Address: "https://vault.example.com:8200", TokenFile: "/run/vault/token"},
//	}
func Example() {
	t := new(testing.T)
	issuer := verifytest.New(t) // stands for Vault
	verifier, err := verify.New(context.Background(), issuer.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer verifier.Close()

	orders := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		decision, _ := verify.From(r.Context())
		fmt.Fprintf(w, "orders for role %s", decision.Role)
	})
	api := httptest.NewServer(verifier.Middleware(verify.RequireScopes("orders:read"))(orders))
	defer api.Close()

	get := func(token string) {
		req, _ := http.NewRequest(http.MethodGet, api.URL+"/orders", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		fmt.Println(resp.StatusCode, strings.TrimSpace(string(body)))
		fmt.Println(resp.Header.Get("WWW-Authenticate"))
	}
	get(issuer.Opaque(t, verifytest.Token{Role: "shop", Scopes: []string{"orders:*"}}))
	get(issuer.JWT(t, verifytest.Token{Role: "shop", Scopes: []string{"users:read"}}))
	// Output:
	// 200 orders for role shop
	//
	// 403 Forbidden
	// Bearer error="insufficient_scope", scope="orders:read"
}

// A check without net/http, such as in a gateway.
func ExampleVerifier_Check() {
	t := new(testing.T)
	issuer := verifytest.New(t)
	verifier, err := verify.New(context.Background(), issuer.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer verifier.Close()

	token := issuer.JWT(t, verifytest.Token{Scopes: []string{"orders:read"}})
	decision, err := verifier.Check(context.Background(), token, &verify.Use{Scopes: []string{"orders:write"}})
	if err != nil {
		log.Fatal(err) // no decision: answer with 503
	}
	fmt.Println(decision.Allowed, decision.Reason)
	// Output: false insufficient_scope
}
