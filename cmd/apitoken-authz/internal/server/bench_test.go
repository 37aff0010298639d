package server

import (
	"bufio"
	"bytes"
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
	"syscall"
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
	lines := NewLines(log)
	b.Cleanup(func() { _ = lines.Close() })
	s = New(verifier, f, slog.New(slog.NewJSONHandler(log, nil)), lines, prometheus.NewRegistry())
	return s, issuer.Opaque(b, verifytest.Token{Scopes: []string{"orders:*"}, CIDRs: []string{"10.0.0.0/8"}, Hosts: []string{"api.example.com"}})
}

// contestant is a server that is compared with others. ask sends one request of a client, and waits for the answer.
type contestant struct {
	name string
	ask  func(b *testing.B, client int) bool

	wall, cpu time.Duration
	took      []time.Duration
}

// compare has clients ask the contestants in turns, so that other work of the machine slows all of them down. The first is
// the measure. cpu-ratio compares the processor time of client and server, on which other work has less influence.
func compare(b *testing.B, contestants ...*contestant) {
	const turn = 4000 // requests
	for _, c := range contestants {
		c.run(b, turn) // opens connections
		c.wall, c.cpu, c.took = 0, 0, nil
	}
	b.ResetTimer()
	for done := 0; done < b.N; done += turn {
		for _, c := range contestants {
			c.run(b, min(turn, b.N-done))
		}
	}
	first := contestants[0]
	for _, c := range contestants {
		slices.Sort(c.took)
		if len(c.took) == 0 {
			b.Fatal("no request was answered")
		}
		b.ReportMetric(float64(len(c.took))/c.wall.Seconds(), c.name+"/s")
		b.ReportMetric(float64(c.cpu.Nanoseconds())/float64(len(c.took))/1000, c.name+"-cpu-µs")
		b.ReportMetric(float64(c.took[len(c.took)*99/100].Microseconds()), c.name+"-p99-µs")
		if c != first {
			b.ReportMetric(float64(len(c.took))/c.wall.Seconds()/(float64(len(first.took))/first.wall.Seconds()), c.name+"-ratio")
			b.ReportMetric(float64(first.cpu)/float64(len(first.took))/(float64(c.cpu)/float64(len(c.took))), c.name+"-cpu-ratio")
		}
	}
	b.ReportMetric(0, "ns/op")
}

func (c *contestant) run(b *testing.B, n int) {
	var left atomic.Int64
	left.Store(int64(n))
	took := make([][]time.Duration, benchClients)
	var clients sync.WaitGroup
	start, cpu := time.Now(), cpuTime(b)
	for i := range benchClients {
		clients.Go(func() {
			for left.Add(-1) >= 0 {
				begun := time.Now()
				if !c.ask(b, i) {
					return
				}
				took[i] = append(took[i], time.Since(begun))
			}
		})
	}
	clients.Wait()
	c.wall += time.Since(start)
	c.cpu += cpuTime(b) - cpu
	c.took = append(c.took, slices.Concat(took...)...)
}

// cpuTime returns the processor time of this process.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// overHTTP serves a handler to clients that send the same bytes on connections that stay open.
func overHTTP(b *testing.B, name string, handler http.Handler, request string) *contestant {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := newHTTP(handler)
	go func() { _ = server.Serve(l) }()
	b.Cleanup(func() { _ = server.Close() })
	type client struct {
		net.Conn
		reader *bufio.Reader
	}
	clients := make([]client, benchClients)
	for i := range clients {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		clients[i] = client{conn, bufio.NewReader(conn)}
	}
	return &contestant{name: name, ask: func(b *testing.B, i int) bool {
		if _, err := io.WriteString(clients[i], request); err != nil {
			b.Error(err)
			return false
		}
		status, err := clients[i].reader.ReadSlice('\n')
		good := bytes.HasPrefix(status, []byte("HTTP/1.1 2"))
		for line := status; err == nil && len(line) > 2; {
			line, err = clients[i].reader.ReadSlice('\n')
		}
		if err != nil || !good {
			b.Errorf("%t %v", good, err)
			return false
		}
		return true
	}}
}

// BenchmarkForwardAuth compares decisions with an empty handler. All get the same bytes.
func BenchmarkForwardAuth(b *testing.B) {
	empty := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	s, token := benchServer(b, "all")
	quiet, quietToken := benchServer(b, "refused")
	ask := func(token string) string {
		return strings.Join([]string{
			"GET /nginx/orders/7?page=2 HTTP/1.1", "Host: api.example.com", "X-Original-Proto: https", "X-Original-Addr: 10.1.2.3",
			"User-Agent: curl/8.0", "Accept: */*", "Authorization: Bearer " + token,
		}, "\r\n") + "\r\n\r\n"
	}
	compare(b, overHTTP(b, "empty", empty, ask(token)), overHTTP(b, "decides", s, ask(token)),
		overHTTP(b, "no-access-log", quiet, ask(quietToken)))
}

// noop allows everything.
type noop struct {
	authv3.UnimplementedAuthorizationServer
}

func (noop) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{Status: &statuspb.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}}, nil
}

func overGRPC(b *testing.B, name string, service authv3.AuthorizationServer, token string) *contestant {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, service)
	go func() { _ = server.Serve(l) }()
	b.Cleanup(server.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	client, q := authv3.NewAuthorizationClient(conn), get("/orders/7?page=2", token).filled().request()
	return &contestant{name: name, ask: func(b *testing.B, _ int) bool {
		answer, err := client.Check(context.Background(), q)
		if err != nil || answer.GetOkResponse() == nil {
			b.Errorf("%v, %v", answer, err)
			return false
		}
		return true
	}}
}

// BenchmarkExtAuthz compares decisions with a gRPC server that allows everything.
func BenchmarkExtAuthz(b *testing.B) {
	s, token := benchServer(b, "all")
	compare(b, overGRPC(b, "empty", noop{}, token), overGRPC(b, "decides", Envoy{Server: s}, token))
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

// discard is a ResponseWriter that keeps nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header       { return d.header }
func (*discard) Write(b []byte) (int, error) { return len(b), nil }
func (*discard) WriteHeader(int)             {}

// BenchmarkHandler is a decision with its metrics, access log and answer, without the network.
func BenchmarkHandler(b *testing.B) {
	for _, access := range []string{"all", "none"} {
		b.Run("access log "+access, func(b *testing.B) {
			s, token := benchServer(b, access)
			b.ReportAllocs()
			r := &http.Request{
				Method: http.MethodGet, RequestURI: "/nginx/orders/7?page=2", Host: "api.example.com", RemoteAddr: "127.0.0.1:4711",
				Header: http.Header{
					"Authorization": {"Bearer " + token}, "User-Agent": {"curl/8.0"}, "Accept": {"*/*"}, "X-Original-Addr": {"10.1.2.3"}, "X-Original-Proto": {"https"},
				},
			}
			cpu := cpuTime(b)
			for b.Loop() {
				w := discard{header: make(http.Header)}
				s.ServeHTTP(&w, r)
				if w.header["X-Token-Id"] == nil {
					b.Fatal("refused")
				}
			}
			b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op")
		})
	}
}
