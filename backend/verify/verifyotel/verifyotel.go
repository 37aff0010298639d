// Package verifyotel adds decisions of package verify to spans of OpenTelemetry. Package verify itself does not depend on
// OpenTelemetry.
package verifyotel

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
)

// Names of attributes.
const (
	Decision = attribute.Key("apitoken.decision") // allowed or refused
	Reason   = attribute.Key("apitoken.reason")   // why the use is refused; absent if the use is allowed
	TokenID  = attribute.Key("apitoken.token_id") // public name of the token; absent if not known
	Role     = attribute.Key("apitoken.role")     // role of the token; absent if not known
)

// Attributes returns the attributes of a decision, of which none has the token.
func Attributes(d verify.Decision) []attribute.KeyValue {
	list := append(make([]attribute.KeyValue, 0, 4), Decision.String("refused"))
	if d.Allowed {
		list[0] = Decision.String("allowed")
	}
	for _, a := range [...]struct {
		key   attribute.Key
		value string
	}{{Reason, string(d.Reason)}, {TokenID, d.TokenID}, {Role, d.Role}} {
		if a.value != "" {
			list = append(list, a.key.String(a.value))
		}
	}
	return list
}

// Annotate adds the attributes of a decision to the span of a context. Without a recording span it does nothing. Use it as
// verify.Observe(verifyotel.Annotate).
func Annotate(ctx context.Context, d verify.Decision) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(Attributes(d)...)
	}
}
