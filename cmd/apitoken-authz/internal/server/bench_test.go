package server

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
)

const benchClients = 100

// benchServer is a server with the real library, an access log and metrics. It returns a token that may read orders.
func benchServer(b *testing.B, access string) (s *Server, token string) {
	issuer := verifytest.New(b)
	verifier, err := verify.New(b.Context(), issuer.Config())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = verifier.Close() })
	f, err := config.Parse("authz.yaml", []byte(strings.Replace(configuration, "audience: api", "audience: "+verifytest.Audience+"\nlog: {access: "+access+"}", 1)))
	if err != nil {
		b.Fatal(err)
	}
	log, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = log.Close() })
	s = New(verifier, f, slog.New(slog.NewJSONHandler(log, nil)), prometheus.NewRegistry())
	return s, issuer.Opaque(b, verifytest.Token{Scopes: []string{"orders:*"}, CIDRs: []string{"10.0.0.0/8"}, Hosts: []string{"api.example.com"}})
}

// load has clients send the same bytes on connections that stay open, and reports requests a second and the 99th percentile.
func load(b *testing.B, address, request string) {
	var left atomic.Int64
	left.Store(int64(b.N))
	took := make([][]time.Duration, benchClients)
	var clients sync.WaitGroup
	b.ResetTimer()
	for i := range benchClients {
		clients.Go(func() {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			reader := bufio.NewReader(conn)
			for left.Add(-1) >= 0 {
				start := time.Now()
				if _, err := io.WriteString(conn, request); err != nil {
					b.Error(err)
					return
				}
				status, err := reader.ReadString('\n')
				for line := status; err == nil && line != "\r\n"; {
					line, err = reader.ReadString('\n')
				}
				if err != nil || !strings.HasPrefix(status, "HTTP/1.1 2") {
					b.Errorf("%s%v", status, err)
					return
				}
				took[i] = append(took[i], time.Since(start))
			}
		})
	}
	clients.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) > 0 {
		b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "requests/s")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
	}
}

// BenchmarkForwardAuth compares a decision with an empty handler. Both get the same bytes.
func BenchmarkForwardAuth(b *testing.B) {
	s, token := benchServer(b, "all")
	quiet, quietToken := benchServer(b, "refused")
	lines := []string{
		"GET /nginx/orders/7?page=2 HTTP/1.1", "Host: api.example.com", "X-Original-Proto: https", "X-Original-Addr: 10.1.2.3",
		"User-Agent: curl/8.0", "Accept: */*", "Authorization: Bearer " + token,
	}
	request := strings.Join(lines, "\r\n") + "\r\n\r\n"
	for _, c := range []struct {
		name    string
		handler http.Handler
		request string
	}{
		{"empty", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }), request},
		{"decides", s, request},
		{"decides without access log", quiet, strings.Replace(request, token, quietToken, 1)},
	} {
		b.Run(c.name, func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			server := newHTTP(c.handler)
			go func() { _ = server.Serve(l) }()
			defer server.Close()
			load(b, l.Addr().String(), c.request)
		})
	}
}

// noop allows everything.
type noop struct {
	authv3.UnimplementedAuthorizationServer
}

func (noop) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{Status: &statuspb.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}}, nil
}

// BenchmarkExtAuthz compares a decision with a gRPC server that allows everything.
func BenchmarkExtAuthz(b *testing.B) {
	s, token := benchServer(b, "all")
	for name, service := range map[string]authv3.AuthorizationServer{"empty": noop{}, "decides": Envoy{Server: s}} {
		b.Run(name, func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			server := grpc.NewServer()
			authv3.RegisterAuthorizationServer(server, service)
			go func() { _ = server.Serve(l) }()
			defer server.Stop()
			conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			client := authv3.NewAuthorizationClient(conn)
			var left atomic.Int64
			left.Store(int64(b.N))
			var clients sync.WaitGroup
			b.ResetTimer()
			for range benchClients {
				clients.Go(func() {
					q := get("/orders/7?page=2", token).filled().request()
					for left.Add(-1) >= 0 {
						answer, err := client.Check(context.Background(), q)
						if err != nil || answer.GetOkResponse() == nil {
							b.Errorf("%v, %v", answer, err)
							return
						}
					}
				})
			}
			clients.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
	}
}

// BenchmarkDecide is a decision without the network.
func BenchmarkDecide(b *testing.B) {
	s, token := benchServer(b, "all")
	b.ReportAllocs()
	r := &Request{Gateway: "nginx", Method: "GET", Target: "/orders/7?page=2", Scheme: "https", Host: "api.example.com", Client: addr("10.1.2.3"), Header: http.Header{
		"Authorization": {"Bearer " + token}, "User-Agent": {"curl/8.0"}, "Accept": {"*/*"}, "X-Original-Addr": {"10.1.2.3"}, "X-Original-Proto": {"https"},
	}}
	for b.Loop() {
		if a := s.decide(context.Background(), r); !a.Allowed {
			b.Fatal(a.Reason, a.Detail)
		}
	}
}
