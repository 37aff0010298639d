package access_test

import (
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

// Decide checks one use of a token: its state, then the audience, scopes, address and host.
func ExampleDecide() {
	addresses, err := access.ParseAddresses([]string{"10.0.0.0/8"})
	if err != nil {
		log.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	state := access.State{ExpiresAt: now.Add(time.Hour)}
	permissions := &access.Permissions{Scopes: access.Scopes{"invoices:*"}, Addresses: []access.Addresses{addresses}}
	use := func(scope, clientIP string) *access.Use {
		return &access.Use{Scopes: []string{scope}, ClientIP: netip.MustParseAddr(clientIP)}
	}

	fmt.Println(access.Decide(now, state, permissions, use("invoices:read", "10.1.2.3")) == access.Good)
	fmt.Println(access.Decide(now, state, permissions, use("users:read", "10.1.2.3")))
	fmt.Println(access.Decide(now, state, permissions, use("invoices:read", "192.0.2.1")))
	fmt.Println(access.Decide(now.Add(time.Hour), state, permissions, use("invoices:read", "10.1.2.3")))
	// Output:
	// true
	// insufficient_scope
	// address_not_allowed
	// expired
}

// A last segment * matches any scope with that prefix.
func ExampleScopes_Missing() {
	allowed, err := access.ParseScopes([]string{"invoices:*", "users:read"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(allowed.Missing([]string{"invoices:read", "users:delete"}))
	// Output: [users:delete]
}
