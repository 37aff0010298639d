package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// Traces are off unless an endpoint or an exporter is set. What is not supported is an error, and not silence.
func TestTraced(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
	for _, c := range []struct {
		variables string
		protocol  string
		err       string
	}{
		{"", "", ""},
		{"OTEL_SERVICE_NAME=authz", "", ""},
		{endpoint, overHTTP, ""},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:4318/v1/traces", overHTTP, ""},
		{"OTEL_TRACES_EXPORTER=otlp", overHTTP, ""},
		{endpoint + " OTEL_TRACES_EXPORTER=none", "", ""},
		{endpoint + " OTEL_SDK_DISABLED=true", "", ""},
		{endpoint + " OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", overHTTP, ""},
		{endpoint + " OTEL_EXPORTER_OTLP_PROTOCOL=grpc", overGRPC, ""},
		{endpoint + " OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc", overGRPC, ""},
		{endpoint + " OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", overGRPC, ""},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "", ""},
		{endpoint + " OTEL_EXPORTER_OTLP_PROTOCOL=http/json", "", `OTEL_EXPORTER_OTLP_PROTOCOL: "http/json" is not supported: want http/protobuf or grpc`},
		{endpoint + " OTEL_EXPORTER_OTLP_PROTOCOL=grpc OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf", overHTTP, ""},
		{"OTEL_TRACES_EXPORTER=zipkin", "", `OTEL_TRACES_EXPORTER: "zipkin" is not supported: want otlp or none`},
	} {
		protocol, err := traced(func(name string) string {
			for _, pair := range strings.Fields(c.variables) {
				if value, ok := strings.CutPrefix(pair, name+"="); ok {
					return value
				}
			}
			return ""
		})
		text := ""
		if err != nil {
			text = err.Error()
		}
		if protocol != c.protocol || text != c.err {
			t.Errorf("%s: %q, %q", c.variables, protocol, text)
		}
	}
}

// Spans reach a collector by OTLP, with the name of the service, at the latest when the server stops.
func TestTracesReachCollector(t *testing.T) {
	var mu sync.Mutex
	var got []string
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var q coltracepb.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &q); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.URL.Path+" "+q.String())
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	oneSpan(t)
	text := strings.Join(got, "")
	if !strings.HasPrefix(text, "/v1/traces ") || !strings.Contains(text, "authorize") || !strings.Contains(text, "apitoken-authz") {
		t.Errorf("%q", text)
	}
}

// oneSpan makes a span, and stops the traces.
func oneSpan(t *testing.T) {
	t.Helper()
	traces, err := newTraces(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, span := traces.Tracer("test").Start(t.Context(), "authorize")
	span.End()
	if err := traces.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// collector is a collector of OTLP over gRPC.
type collector struct {
	coltracepb.UnimplementedTraceServiceServer
	got chan string
}

func (c *collector) Export(ctx context.Context, q *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	headers, _ := metadata.FromIncomingContext(ctx)
	c.got <- strings.Join(headers.Get("tenant"), ",") + " " + q.String()
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

// The variable of the protocol has spans sent over gRPC, with the headers of the variables.
func TestTracesReachCollectorOverGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{got: make(chan string, 10)}
	server := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(server, c)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+l.Addr().String())
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "tenant=shop")
	oneSpan(t)
	select {
	case text := <-c.got:
		if !strings.HasPrefix(text, "shop ") || !strings.Contains(text, "authorize") || !strings.Contains(text, "apitoken-authz") {
			t.Errorf("%q", text)
		}
	default:
		t.Error("no span reached the collector")
	}
}
