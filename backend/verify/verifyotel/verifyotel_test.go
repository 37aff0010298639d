package verifyotel_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifyotel"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// The span of a request has the decision on its token, allowed or refused, and never the token.
func TestAnnotate(t *testing.T) {
	i := verifytest.New(t)
	v, err := verify.New(t.Context(), i.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	spans := tracetest.NewInMemoryExporter()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)).Tracer("test")
	api := v.Middleware(verify.RequireScopes("orders:read"), verify.Observe(verifyotel.Annotate))(
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))

	good := i.Opaque(t, verifytest.Token{Role: "shop", Scopes: []string{"orders:read"}})
	weak := i.Opaque(t, verifytest.Token{Role: "shop"})
	for _, c := range []struct{ header, status, want string }{
		{"Bearer " + good, "200", "apitoken.decision=allowed apitoken.token_id=ID apitoken.role=shop"},
		{"Bearer " + weak, "403", "apitoken.decision=refused apitoken.reason=insufficient_scope apitoken.token_id=ID apitoken.role=shop"},
		{"", "401", "apitoken.decision=refused apitoken.reason=missing"},
	} {
		spans.Reset()
		ctx, span := tracer.Start(t.Context(), "request")
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/orders", nil)
		if c.header != "" {
			r.Header.Set("Authorization", c.header)
		}
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		span.End()
		var got []string
		for _, a := range spans.GetSpans()[0].Attributes {
			text := string(a.Key) + "=" + a.Value.String()
			if a.Key == verifyotel.TokenID && len(a.Value.AsString()) > 0 {
				text = string(a.Key) + "=ID"
			}
			got = append(got, text)
		}
		if strings.Join(got, " ") != c.want || fmt.Sprint(w.Code) != c.status {
			t.Errorf("status %d, %s\nwant %s, %s", w.Code, got, c.status, c.want)
		}
		if text := fmt.Sprintf("%+v", spans.GetSpans()); strings.Contains(text, good) || strings.Contains(text, weak) {
			t.Error("the span has the token")
		}
	}
	verifyotel.Annotate(t.Context(), verify.Decision{}) // no span
}
