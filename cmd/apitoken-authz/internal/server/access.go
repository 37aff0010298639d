package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
)

// maxLogged is the most bytes of a text of the client in the log.
const maxLogged = 512

// record counts and logs an answer.
func (s *Server) record(ctx context.Context, k *kind, r *Request, a *Answer, start time.Time) {
	took := time.Since(start)
	handler := k.log
	if a.Allowed {
		k.allowed.count(took)
	} else {
		s.metrics.of(k.name, string(a.Reason)).count(took)
		handler = k.refused
	}
	switch s.settings.Log.Access {
	case "none":
		return
	case "refused":
		if a.Allowed {
			return
		}
	}
	if !handler.Enabled(ctx, slog.LevelInfo) {
		return
	}
	// A Logger would look up which line of code logs.
	line := slog.NewRecord(start, slog.LevelInfo, "request", 0)
	line.AddAttrs(attributes(r, a, took)...)
	_ = handler.Handle(ctx, line)
}

// attributes returns what the access log has of a request. r is nil if the gateway's question could not be read.
func attributes(r *Request, a *Answer, took time.Duration) []slog.Attr {
	attrs := make([]slog.Attr, 0, 12)
	if !a.Allowed {
		attrs = append(attrs, slog.String("reason", string(a.Reason)), slog.String("detail", logged(a.Detail, a)))
	}
	if r != nil {
		attrs = append(attrs, slog.String("method", logged(r.Method, a)), slog.String("host", logged(r.Host, a)),
			slog.String("path", logged(r.logPath(), a)), slog.String("client", r.Client.String()))
	}
	if a.Rule != nil {
		attrs = append(attrs, slog.String("rule", a.Rule.Name))
	}
	if d := &a.Decision; d.TokenID != "" {
		attrs = append(attrs, slog.String("token_id", d.TokenID), slog.String("role", d.Role), slog.String("subject", d.Subject))
	}
	return append(attrs, slog.Int64("duration_us", took.Microseconds()))
}

// logged returns what the log may have of a text that a client sent: not the token of the request, nor any other.
func logged(s string, a *Answer) string {
	s = verify.Redact(redact(s, a.secret))
	if len(s) > maxLogged {
		return s[:maxLogged] + "..."
	}
	return s
}
