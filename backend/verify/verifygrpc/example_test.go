package verifygrpc_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifygrpc"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// A server passes the interceptors to grpc.NewServer. A method that scopes does not know is refused.
func Example() {
	t := new(testing.T)
	issuer := verifytest.New(t) // stands for Vault
	config := issuer.Config()
	config.Logger = slog.New(slog.DiscardHandler)
	verifier, err := verify.New(context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}
	defer verifier.Close()

	scopes := func(method string) ([]string, bool) {
		if method == "/shop.Orders/List" {
			return []string{"orders:read"}, true
		}
		return nil, false
	}
	check := verifygrpc.Unary(verifier, scopes) // for grpc.NewServer(grpc.UnaryInterceptor(check))

	token := issuer.Opaque(t, verifytest.Token{Scopes: []string{"orders:read"}})
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("authorization", "Bearer "+token))
	list := func(context.Context, any) (any, error) { return "two orders", nil }
	for _, method := range []string{"/shop.Orders/List", "/shop.Orders/Delete"} {
		answer, err := check(ctx, nil, &grpc.UnaryServerInfo{FullMethod: method}, list)
		fmt.Println(method, answer, status.Code(err))
	}
	// Output:
	// /shop.Orders/List two orders OK
	// /shop.Orders/Delete <nil> PermissionDenied
}
