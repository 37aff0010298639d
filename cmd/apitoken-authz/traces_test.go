package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Traces are off unless an endpoint or an exporter is set. What is not supported is an error, and not silence.
func TestTraced(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
	for _, c := range []struct {
		variables string
		on        bool
		err       string
	}{
		{"", false, ""},
		{"OTEL_SERVICE_NAME=authz", false, ""},
		{endpoint, true, ""},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:4318/v1/traces", true, ""},
		{"OTEL_TRACES_EXPORTER=otlp", true, ""},
		{endpoint + " OTEL_TRACES_EXPORTER=none", false, ""},
		{endpoint + " OTEL_SDK_DISABLED=true", false, ""},
		{endpoint + " OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", true, ""},
		{endpoint + " OTEL_EXPORTER_OTLP_PROTOCOL=grpc", false, `OTEL_EXPORTER_OTLP_PROTOCOL: "grpc" is not supported: want http/protobuf`},
		{endpoint + " OTEL_EXPORTER_OTLP_PROTOCOL=grpc OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf", true, ""},
		{"OTEL_TRACES_EXPORTER=zipkin", false, `OTEL_TRACES_EXPORTER: "zipkin" is not supported: want otlp or none`},
	} {
		on, err := traced(func(name string) string {
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
		if on != c.on || text != c.err {
			t.Errorf("%s: %t, %q", c.variables, on, text)
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
	traces, err := newTraces(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, span := traces.Tracer("test").Start(t.Context(), "authorize")
	span.End()
	if err := traces.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(got, "")
	if !strings.HasPrefix(text, "/v1/traces ") || !strings.Contains(text, "authorize") || !strings.Contains(text, "apitoken-authz") {
		t.Errorf("%q", text)
	}
}
