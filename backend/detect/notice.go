package detect

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Kind is the kind of a notice.
type Kind string

// The kinds of notices.
const (
	KindOpened       Kind = "opened"       // a new finding
	KindEscalated    Kind = "escalated"    // a higher severity, another response, or ten times as many events
	KindAcknowledged Kind = "acknowledged" // an operator has acknowledged the finding
)

// Kinds are all kinds of notices.
var Kinds = []Kind{KindOpened, KindEscalated, KindAcknowledged}

const (
	// escalateFactor is how many times as many events make an escalation.
	escalateFactor = 10

	// escalateAfter is the minimum time from a notice to the event that escalates by the number of events: a client that repeats a
	// dead token ten times a second would cause an escalation every few seconds.
	escalateAfter = time.Hour
)

// Notice says what is new about a finding. A notice does not change.
type Notice struct {
	ID      string    `json:"id"` // 24 hexadecimal digits
	Kind    Kind      `json:"kind"`
	At      time.Time `json:"at"`
	Change  string    `json:"change,omitempty"` // of an escalation: what has changed, in a phrase
	Finding Finding   `json:"finding"`
}

// announced is what the notices about a finding have said. The zero value: there was none.
type announced struct {
	At           time.Time `json:"at,omitzero"`
	Severity     string    `json:"severity,omitempty"`
	Count        uint64    `json:"count,omitempty"`
	Response     string    `json:"response,omitempty"`
	Acknowledged time.Time `json:"acknowledged_at,omitzero"`
}

// SeverityRank returns 1 for low, 2 for medium, 3 for high, and 0 for anything else.
func SeverityRank(severity string) int { return map[string]int{Low: 1, Medium: 2, High: 3}[severity] }

// news returns what no notice has said about a finding; the empty kind: nothing.
func (f *Finding) news() (kind Kind, change string) {
	said := &f.Announced
	switch {
	case said.At.IsZero():
		return KindOpened, ""
	case f.State == Acknowledged && !f.Acknowledgement.At.Equal(said.Acknowledged):
		return KindAcknowledged, ""
	case SeverityRank(f.Severity) > SeverityRank(said.Severity):
		return KindEscalated, fmt.Sprintf("severity %s, before %s", f.Severity, said.Severity)
	case f.Response != said.Response:
		return KindEscalated, "response " + f.Response
	case f.State == Open && f.Count/escalateFactor >= said.Count && f.Last.Sub(said.At) >= escalateAfter:
		return KindEscalated, fmt.Sprintf("%d events, before %d", f.Count, said.Count)
	}
	return "", ""
}

// compose returns the notice that is due about a finding; nil: none. A process that tries again after a crash composes a
// notice with the same ID.
func (f *Finding) compose(now time.Time) *Notice {
	kind, change := f.news()
	if kind == "" {
		return nil
	}
	said := &f.Announced
	sum := sha256.Sum256([]byte(strings.Join([]string{
		f.ID, string(kind), f.First.Format(time.RFC3339), said.At.Format(time.RFC3339Nano), f.Severity, f.Response,
		f.Acknowledgement.At.Format(time.RFC3339),
	}, "\x00")))
	n := &Notice{ID: hex.EncodeToString(sum[:12]), Kind: kind, At: now.UTC().Round(0), Change: change, Finding: *f}
	n.Finding.Announced = announced{}
	return n
}

// announced returns what the notices about a finding have said after this notice. said is what they said before.
func (n *Notice) announced(said announced) announced {
	next := announced{n.At, n.Finding.Severity, n.Finding.Count, n.Finding.Response, said.Acknowledged}
	if SeverityRank(said.Severity) > SeverityRank(next.Severity) {
		next.Severity = said.Severity // a severity that falls and rises again is no news
	}
	if n.Kind == KindAcknowledged {
		next.Acknowledged = n.Finding.Acknowledgement.At
	}
	return next
}

// announce logs what is new about a finding, and calls Notify. After a failure, the same notice is tried again without
// another log line. The caller stores the finding afterwards: a crash before repeats the notice.
func (d *Detector) announce(ctx context.Context, it *item) error {
	fs := &d.findings
	fs.mu.Lock()
	n, composed := it.notice, false
	if n == nil {
		n = it.compose(d.Now())
		it.notice, composed = n, n != nil
	}
	fs.mu.Unlock()
	if n == nil {
		return nil
	}
	if composed {
		d.logNotice(n)
	}
	if d.Notify != nil {
		if err := d.Notify(ctx, n); err != nil {
			return err
		}
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	it.notice, it.Announced = nil, n.announced(it.Announced)
	if it.dirty.IsZero() {
		it.dirty = n.At // what was announced must be stored
	}
	return nil
}

// logNotice writes a notice to the log. No field has a token.
func (d *Detector) logNotice(n *Notice) {
	f, log := &n.Finding, d.Log().Named("findings")
	about := []any{
		"finding", f.ID, "rule", string(f.Rule), "severity", f.Severity, "token_id", f.TokenID, "role", f.Role, "entity_id", f.EntityID,
		"address", f.Address, "count", f.Count, "summary", f.Summary, "response", f.Response,
	}
	switch n.Kind {
	case KindOpened:
		log.Warn("misuse of a token found", about...)
	case KindEscalated:
		log.Warn("finding escalated", append(about, "change", n.Change)...)
	case KindAcknowledged:
		log.Info("finding acknowledged", append(about, "acknowledged_by", f.By)...)
	}
}
