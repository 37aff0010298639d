package server

import (
	"fmt"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// Each decision is a span below that of the gateway, with the decision and never with a token, a query or a path.
func TestTraces(t *testing.T) {
	eachMode(t, func(t *testing.T, w *world, mode string) {
		spans := tracetest.NewInMemoryExporter()
		w.Trace(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
		w.fake.tokens["token-that-must-not-leak"] = w.fake.tokens["reader"]
		const parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		for _, c := range []struct {
			ask  ask
			want string
		}{
			{get("/orders", "token-that-must-not-leak").with(parent), "decision=allowed token_id=id-reader role=reader rule=read"},
			{get("/status?a=token-that-must-not-leak", "").with(parent), "decision=allowed rule=status"},
			{get("/admin", "token-that-must-not-leak").with(parent), "decision=refused reason=insufficient_scope token_id=id-reader role=reader rule=admin"},
			{get("/orders", "").with(parent), "decision=refused reason=missing rule=read"},
			{get("/a/../b", "").with(parent), "decision=refused reason=ambiguous_target"},
		} {
			spans.Reset()
			w.send(t, mode, c.ask)
			all := spans.GetSpans()
			if len(all) != 1 {
				t.Fatalf("%s: %d spans", c.ask.target, len(all))
			}
			var got []string
			for _, a := range all[0].Attributes {
				got = append(got, strings.TrimPrefix(string(a.Key), "apitoken.")+"="+a.Value.String())
			}
			if text := strings.Join(got, " "); text != "gateway="+mode+" "+c.want {
				t.Errorf("%s: %s\nwant %s", c.ask.target, text, c.want)
			}
			if id := all[0].SpanContext.TraceID().String(); id != "0af7651916cd43dd8448eb211c80319c" || all[0].Parent.SpanID().String() != "b7ad6b7169203331" {
				t.Errorf("%s: trace %s is not that of the gateway", c.ask.target, id)
			}
			if text := fmt.Sprintf("%+v", all); strings.Contains(text, "must-not-leak") || strings.Contains(text, c.ask.target) {
				t.Errorf("the span has what the client sent: %s", text)
			}
		}
		spans.Reset()
		w.fake.err = errEngine
		w.send(t, mode, get("/orders", "reader"))
		if span := spans.GetSpans()[0]; span.Status.Code != codes.Error {
			t.Errorf("no decision: %+v", span.Status)
		}
	})
}
