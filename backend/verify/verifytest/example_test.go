package verifytest_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"testing"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// A test of an API without Vault: the issuer makes tokens, and the verifier of the API checks them. A test function has its own
// testing.T.
func Example() {
	t := new(testing.T)
	issuer := verifytest.New(t)
	config := issuer.Config()
	config.Logger = slog.New(slog.DiscardHandler)
	verifier, err := verify.New(context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}
	defer verifier.Close()

	token := issuer.Opaque(t, verifytest.Token{Role: "shop", Scopes: []string{"orders:read"}})
	for _, scope := range []string{"orders:read", "orders:write"} {
		decision, err := verifier.Check(context.Background(), token, &verify.Use{Scopes: []string{scope}})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(scope, decision.Allowed)
	}
	// Output:
	// orders:read true
	// orders:write false
}
