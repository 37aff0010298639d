package main

import (
	"context"
	"fmt"
	"os"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Protocols of OTLP, as OTEL_EXPORTER_OTLP_PROTOCOL has them.
const (
	overHTTP = "http/protobuf"
	overGRPC = "grpc"
)

// traced returns the protocol by which traces are sent, by the variables of OpenTelemetry; empty: there are no traces. Its error names
// the variable that has a value which is not supported.
func traced(getenv func(string) string) (protocol string, err error) {
	if getenv("OTEL_SDK_DISABLED") == "true" {
		return "", nil
	}
	exporter := getenv("OTEL_TRACES_EXPORTER")
	switch exporter {
	case "none":
		return "", nil
	case "", "otlp":
	default:
		return "", fmt.Errorf("OTEL_TRACES_EXPORTER: %q is not supported: want otlp or none", exporter)
	}
	if exporter == "" && getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return "", nil
	}
	// The variable of traces counts before the variable of all signals.
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		switch protocol := getenv(name); protocol {
		case "":
		case overHTTP, overGRPC:
			return protocol, nil
		default:
			return "", fmt.Errorf("%s: %q is not supported: want %s or %s", name, protocol, overHTTP, overGRPC)
		}
	}
	return overHTTP, nil
}

// newTraces returns a provider of spans that are sent by OTLP; nil if traces are not configured. The exporter and the SDK read the other
// variables of OpenTelemetry: endpoint, headers, certificates, sampler, resource.
func newTraces(ctx context.Context) (*sdktrace.TracerProvider, error) {
	protocol, err := traced(os.Getenv)
	if err != nil || protocol == "" {
		return nil, err
	}
	var client otlptrace.Client
	if protocol == overGRPC {
		client = otlptracegrpc.NewClient()
	} else {
		client = otlptracehttp.NewClient()
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	service, err := resource.Merge(resource.NewSchemaless(attribute.String("service.name", "apitoken-authz")), resource.Environment())
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	return sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(service)), nil
}
