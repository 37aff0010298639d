package main

import (
	"context"
	"fmt"
	"os"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// traced reports whether traces are configured, by the variables of OpenTelemetry. Its error names the variable that has a
// value which is not supported.
func traced(getenv func(string) string) (bool, error) {
	if getenv("OTEL_SDK_DISABLED") == "true" {
		return false, nil
	}
	exporter := getenv("OTEL_TRACES_EXPORTER")
	switch exporter {
	case "none":
		return false, nil
	case "", "otlp":
	default:
		return false, fmt.Errorf("OTEL_TRACES_EXPORTER: %q is not supported: want otlp or none", exporter)
	}
	if exporter == "" && getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return false, nil
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if protocol := getenv(name); protocol != "" {
			if protocol != "http/protobuf" {
				return false, fmt.Errorf("%s: %q is not supported: want http/protobuf", name, protocol)
			}
			break // the variable of traces counts
		}
	}
	return true, nil
}

// newTraces returns a provider of spans that are sent by OTLP over HTTP; nil if traces are not configured. The exporter and the
// SDK read the other variables of OpenTelemetry: endpoint, headers, certificates, sampler, resource.
func newTraces(ctx context.Context) (*sdktrace.TracerProvider, error) {
	if on, err := traced(os.Getenv); err != nil || !on {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	service, err := resource.Merge(resource.NewSchemaless(attribute.String("service.name", "apitoken-authz")), resource.Environment())
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	return sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(service)), nil
}
