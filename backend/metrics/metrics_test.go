package metrics

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

var testReasons = []access.Reason{access.Expired, access.Revoked, access.Unknown}

// The text has what was counted, and zero for what never happened.
func TestCounters(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	c := New(func() time.Time { return now }, testReasons)
	c.Issued(Opaque)
	c.Issued(JWT)
	c.Issued(JWT)
	c.Issued("nonsense") // no such kind: not counted
	c.NotIssued(Service, Failed)
	c.Renewed(Native)
	c.Refreshed()
	c.Exchanged()
	c.Revoked(ByLease, 1)
	c.Revoked(BySubject, 40)
	c.Revoked(BySubject, -1)
	c.Suspended(ByFinding)
	c.Decided(Introspection, access.Good, 3)
	c.Decided(Introspection, access.Expired, 1)
	c.Decided(Reported, "proof_of_a_newer_version", 7)
	c.UsageReported(true)
	c.Rotated(Root, nil)
	c.Rotated(StaticRole, errors.New("x"))
	c.FeedRead(Resync, 12)
	text := textOf(t, c, nil)
	for _, line := range []string{
		`apitoken_tokens_issued_total{kind="opaque"} 1`,
		`apitoken_tokens_issued_total{kind="jwt"} 2`,
		`apitoken_tokens_issued_total{kind="service"} 0`,
		`apitoken_issue_errors_total{kind="service",result="failed"} 1`,
		`apitoken_issue_errors_total{kind="opaque",result="refused"} 0`,
		`apitoken_renewals_total{kind="native"} 1`,
		`apitoken_refreshes_total 1`,
		`apitoken_exchanges_total 1`,
		`apitoken_revocations_total{cause="lease"} 1`,
		`apitoken_revocations_total{cause="subject"} 40`,
		`apitoken_suspensions_total{cause="finding"} 1`,
		`apitoken_decisions_total{reason="ok",source="introspect"} 3`,
		`apitoken_decisions_total{reason="expired",source="introspect"} 1`,
		`apitoken_decisions_total{reason="other",source="usage"} 7`,
		`apitoken_decisions_total{reason="revoked",source="usage"} 0`,
		`apitoken_usage_reports_total{result="duplicate"} 1`,
		`apitoken_rotations_total{kind="root",result="success"} 1`,
		`apitoken_rotation_timestamp_seconds{kind="root",result="success"} 1.8e+09`,
		`apitoken_rotation_timestamp_seconds{kind="root",result="failure"} 0`,
		`apitoken_rotations_total{kind="static_role",result="failure"} 1`,
		`apitoken_feed_reads_total{result="resync"} 1`,
		`apitoken_feed_lag_events 12`,
		`apitoken_start_timestamp_seconds 1.8e+09`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("the text has no line %s", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// The lag is forgotten after two minutes, and not before the minute is over.
func TestPeak(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var p peak
	p.note(5, now)
	p.note(3, now)
	for _, c := range []struct {
		later time.Duration
		want  uint64
	}{{0, 5}, {59 * time.Second, 5}, {60 * time.Second, 5}, {119 * time.Second, 5}, {120 * time.Second, 0}} {
		if got := p.value(now.Add(c.later)); got != c.want {
			t.Errorf("after %s: %d, want %d", c.later, got, c.want)
		}
	}
}

// A value that a metric must not have is an error instead of a scrape that Prometheus drops.
func TestTextRefusesDuplicates(t *testing.T) {
	c := New(time.Now, nil)
	if _, err := Text(c, func(emit Emit) { emit(Active, 1); emit(Active, 0) }); err == nil {
		t.Error("two values of one metric are accepted")
	}
}

func TestLargest(t *testing.T) {
	var all []Named
	for i := range 3 * MaxNamed {
		all = append(all, Named{fmt.Sprintf("r%03d", i), i / 2})
	}
	all = append(all, Named{Other, 1_000_000})
	names := Largest(all)
	if len(names) != MaxNamed || names[Other] || !names["r149"] || !names["r100"] || names["r099"] {
		t.Errorf("%v", names)
	}
	if names := Largest(nil); len(names) != 0 {
		t.Errorf("%v", names)
	}
}

// Names follow the conventions of Prometheus: promtool checks the real output in the acceptance tests.
func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, m := range All() {
		if seen[m.Name] {
			t.Errorf("%s is defined twice", m.Name)
		}
		seen[m.Name] = true
		if total := strings.HasSuffix(m.Name, "_total"); total != (m.Type == prometheus.CounterValue) {
			t.Errorf("%s: a counter ends in _total, and a gauge does not", m.Name)
		}
		if !strings.HasSuffix(m.Help, ".") || len(m.Labels) > 2 {
			t.Errorf("%s: help %q, labels %q", m.Name, m.Help, m.Labels)
		}
	}
}

// Counting allocates nothing, since every introspection counts.
func TestNoAllocations(t *testing.T) {
	c := New(time.Now, testReasons)
	n := testing.AllocsPerRun(100, func() {
		c.Decided(Introspection, access.Good, 1)
		c.Decided(Introspection, access.Expired, 1)
		c.Issued(Opaque)
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecided(b *testing.B) {
	c := New(time.Now, testReasons)
	b.ReportAllocs()
	for b.Loop() {
		c.Decided(Introspection, access.Expired, 1)
	}
}

func textOf(t *testing.T, c *Counters, read func(Emit)) string {
	t.Helper()
	if read == nil {
		read = func(Emit) {}
	}
	text, err := Text(c, read)
	if err != nil {
		t.Fatal(err)
	}
	return "\n" + string(text)
}
