package verifygrpc_test

import (
	"context"
	"log/slog"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifygrpc"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

func TestInterceptors(t *testing.T) {
	i := verifytest.New(t)
	c := i.Config()
	c.Logger = slog.New(slog.DiscardHandler)
	v, err := verify.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	scopes := func(method string) ([]string, bool) {
		switch method {
		case "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch":
			return []string{"health:read"}, true
		}
		return nil, false
	}
	var seen []verify.Decision // of a test that makes one call at a time
	observe := verifygrpc.Observe(func(ctx context.Context, d verify.Decision) {
		if _, ok := metadata.FromIncomingContext(ctx); !ok {
			t.Error("the context is not that of the call")
		}
		seen = append(seen, d)
	})
	server := grpc.NewServer(grpc.UnaryInterceptor(verifygrpc.Unary(v, scopes, observe)), grpc.StreamInterceptor(verifygrpc.Stream(v, scopes, observe)))
	healthpb.RegisterHealthServer(server, health.NewServer())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := healthpb.NewHealthClient(conn)

	good := i.Opaque(t, verifytest.Token{Scopes: []string{"health:*"}, CIDRs: []string{"127.0.0.1"}, Hosts: []string{"127.0.0.1"}})
	for _, c := range []struct {
		name   string
		values []string
		want   codes.Code
	}{
		{"good", []string{"Bearer " + good}, codes.OK}, // the observer sees each of these decisions once
		{"no token", nil, codes.Unauthenticated},
		{"no scheme", []string{good}, codes.Unauthenticated},
		{"two tokens", []string{"Bearer " + good, "Bearer " + good}, codes.Unauthenticated},
		{"scope", []string{"Bearer " + i.JWT(t, verifytest.Token{Scopes: []string{"a"}})}, codes.PermissionDenied},
		{"address", []string{"Bearer " + i.JWT(t, verifytest.Token{Scopes: []string{"*"}, CIDRs: []string{"10.0.0.0/8"}})}, codes.PermissionDenied},
		{"bound to a key", []string{"Bearer " + i.JWT(t, verifytest.Token{Scopes: []string{"*"}, JKT: "x"})}, codes.Unauthenticated},
	} {
		ctx := metadata.NewOutgoingContext(context.Background(), metadata.MD{"authorization": c.values})
		seen = nil
		_, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
		if got := status.Code(err); got != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
		ctx, cancel := context.WithCancel(ctx)
		stream, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		cancel()
		if got := status.Code(err); got != c.want {
			t.Errorf("%s, stream: %v, want %s", c.name, err, c.want)
		}
		if len(seen) != 2 || seen[0].Allowed != (c.want == codes.OK) || seen[0].Reason != seen[1].Reason || seen[0].TokenID != seen[1].TokenID {
			t.Errorf("%s: the observer saw %+v", c.name, seen)
		}
	}
	seen = nil
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+good)
	if _, err := client.List(ctx, &healthpb.HealthListRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a method without a rule: %v", err)
	}
	i.SetDown(true)
	ctx = metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+i.Opaque(t, verifytest.Token{Scopes: []string{"*"}}))
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("while Vault is down: %v", err)
	}
	if len(seen) > 0 {
		t.Errorf("calls without a decision: the observer saw %+v", seen)
	}
	i.SetDown(false)
}
