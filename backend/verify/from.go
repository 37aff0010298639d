package verify

import (
	"context"
	"log/slog"
)

type decisionKey struct{}

// From returns the Decision about the request that Middleware allowed; ok is false in a context without a Decision.
func From(ctx context.Context) (d Decision, ok bool) {
	d, ok = ctx.Value(decisionKey{}).(Decision)
	return d, ok
}

// NewContext returns a context from which From returns a decision: for middleware of other protocols.
func NewContext(ctx context.Context, d Decision) context.Context {
	return context.WithValue(ctx, decisionKey{}, d)
}

// LogValue returns what a log may contain of a decision: never the token.
func (d Decision) LogValue() slog.Value {
	attrs := []slog.Attr{slog.Bool("allowed", d.Allowed)}
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	add("reason", string(d.Reason))
	add("detail", d.Detail)
	add("token_id", d.TokenID)
	add("role", d.Role)
	add("subject", d.Subject)
	return slog.GroupValue(attrs...)
}
