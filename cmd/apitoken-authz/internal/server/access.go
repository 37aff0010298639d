package server

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
)

// maxLogged is the most bytes of a text of the client in the log.
const maxLogged = 512

// record counts and logs an answer.
func (s *Server) record(k *kind, r *Request, a *Answer, start time.Time) {
	took := time.Since(start)
	if a.Allowed {
		k.allowed.count(took)
	} else {
		s.metrics.of(k.name, string(a.Reason)).count(took)
	}
	if s.logs == "all" || s.logs == "refused" && !a.Allowed {
		s.log(k, r, a, start, took)
	}
}

// log writes the line of the access log about a request. The line has the form of slog.JSONHandler, which takes twice as long
// as the decision. r is nil if the gateway's question could not be read.
func (s *Server) log(k *kind, r *Request, a *Answer, start time.Time, took time.Duration) {
	var space [1024]byte
	b := append(space[:0], `{"time":"`...)
	b = start.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","level":"INFO","msg":"request"`...)
	b = field(b, "gateway", k.name)
	b = append(b, `,"allowed":`...)
	b = strconv.AppendBool(b, a.Allowed)
	if !a.Allowed {
		b = field(b, "reason", string(a.Reason))
		b = field(b, "detail", logged(a.Detail, a))
	}
	if r != nil {
		b = field(b, "method", logged(r.Method, a))
		b = field(b, "host", logged(r.Host, a))
		b = field(b, "path", logged(r.logPath(), a))
		b = append(b, `,"client":"`...)
		b = r.Client.AppendTo(b)
		b = append(b, '"')
	}
	if a.Rule != nil {
		b = field(b, "rule", a.Rule.Name)
	}
	if d := &a.Decision; d.TokenID != "" {
		b = field(b, "token_id", d.TokenID)
		b = field(b, "role", d.Role)
		b = field(b, "subject", d.Subject)
	}
	b = append(b, `,"duration_us":`...)
	b = strconv.AppendInt(b, took.Microseconds(), 10)
	b = append(b, "}\n"...)
	_, _ = s.access.Write(b)
}

// field appends a text to a JSON object.
func field(b []byte, name, value string) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			text, _ := json.Marshal(value) // no text makes an error
			return append(b, text...)
		}
	}
	b = append(b, '"')
	b = append(b, value...)
	return append(b, '"')
}

// logged returns what the log may have of a text that a client sent: not the token of the request, nor any other.
func logged(s string, a *Answer) string {
	s = verify.Redact(redact(s, a.secret))
	if len(s) > maxLogged {
		return s[:maxLogged] + "..."
	}
	return s
}
