package token_test

import (
	"crypto/rand"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// A key seals the claims of an opaque token. Only a ring with that key opens the token.
func Example() {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	key, err := token.NewKey(rand.Reader, now)
	if err != nil {
		log.Fatal(err)
	}
	ring := token.NewRing([]token.Key{key})
	id, err := token.NewID(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	claims := &token.Claims{ID: id, Grant: id, IssuedAt: now, ExpiresAt: now.Add(time.Hour), Scopes: []string{"invoices:read"}}

	text, err := token.Mint(ring, "apt", claims)
	if err != nil {
		log.Fatal(err)
	}
	opened, err := token.Open(ring, text)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(strings.HasPrefix(text, "apt_"), token.Checksum(text))
	fmt.Println(opened.ID == id, opened.Scopes, opened.ExpiresAt.UTC().Format(time.RFC3339))

	_, err = token.Open(token.NewRing(nil), text)
	fmt.Println(err)
	// Output:
	// true true
	// true [invoices:read] 2026-01-02T04:04:05Z
	// made with a key that is not in this ring
}

// A revoked token has the value 1 in its status list (draft-ietf-oauth-status-list section 4.1).
func ExampleEncodeStatusList() {
	lst, bits, err := token.EncodeStatusList(16, []uint32{3, 9}, nil)
	if err != nil {
		log.Fatal(err)
	}
	list, err := token.DecodeStatusList(lst)
	if err != nil {
		log.Fatal(err)
	}
	for _, index := range []uint32{3, 4, 9} {
		fmt.Println(index, token.StatusAt(list, bits, index))
	}
	// Output:
	// 3 1
	// 4 0
	// 9 1
}
