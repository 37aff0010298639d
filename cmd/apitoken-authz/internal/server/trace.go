package server

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifyotel"
)

// Attributes of spans besides those of verifyotel.
const (
	gatewayAttribute = attribute.Key("apitoken.gateway") // kind of gateway
	ruleAttribute    = attribute.Key("apitoken.rule")    // that matched; absent: none
)

// Trace has the server make a span for each decision. Call Trace before Run.
func (s *Server) Trace(provider trace.TracerProvider) {
	s.tracer = provider.Tracer("github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz")
}

// trace begins the span of a decision, below the span of the gateway if the request names that span (W3C Trace Context). end
// adds the decision. Nothing of a span is what the client sent. r is nil if the gateway's question could not be read.
func (s *Server) trace(ctx context.Context, k *kind, r *Request, start time.Time) (_ context.Context, end func(*Answer)) {
	if r != nil {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	ctx, span := s.tracer.Start(ctx, "authorize", trace.WithTimestamp(start), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(gatewayAttribute.String(k.name)))
	return ctx, func(a *Answer) {
		if span.IsRecording() {
			d := a.Decision
			d.Allowed, d.Reason = a.Allowed, a.Reason // of the request: the rule may refuse a good token
			span.SetAttributes(verifyotel.Attributes(d)...)
			if a.Rule != nil {
				span.SetAttributes(ruleAttribute.String(a.Rule.Name))
			}
			if a.Status == http.StatusServiceUnavailable {
				span.SetStatus(codes.Error, string(a.Reason))
			}
		}
		span.End()
	}
}
