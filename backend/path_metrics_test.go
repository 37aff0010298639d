package backend

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
)

// metrics reads the metrics: the value of each series.
func (e *engine) metrics() map[string]float64 {
	e.t.Helper()
	answer := e.do(logical.ReadOperation, "metrics", nil).Data
	if answer[logical.HTTPContentType] != metrics.ContentType || answer[logical.HTTPStatusCode] != 200 {
		e.t.Errorf("%v, status %v", answer[logical.HTTPContentType], answer[logical.HTTPStatusCode])
	}
	values := make(map[string]float64)
	for line := range strings.Lines(string(answer[logical.HTTPRawBody].([]byte))) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "#") {
			continue
		}
		series, value, _ := strings.Cut(line, " ")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			e.t.Errorf("%q: %v", line, err)
		}
		values[series] = n
	}
	return values
}

// measures compares some series.
func (e *engine) measures(want map[string]float64) {
	e.t.Helper()
	got := e.metrics()
	for _, series := range slices.Sorted(maps.Keys(want)) {
		if n, there := got[series]; !there || n != want[series] {
			e.t.Errorf("%s is %v (%v), want %v", series, n, there, want[series])
		}
	}
}

// Each thing that the engine does with its own tokens counts once.
func TestMetrics(t *testing.T) {
	e := newEngine(t)
	e.write("config", data{"issuer": issuer})
	e.write("roles/reader", data{"scopes": "a:read", "max_tokens": 4, "owner": "team-a"})
	e.write("roles/jwt", data{"token_format": "jwt", "scopes": "a", "audience": "api", "ttl": "1h"})
	e.write("roles/refreshed", data{"scopes": "a", "refresh": true, "access_ttl": "5m", "ttl": "1h", "exchange": true})
	var c []*creds
	for range 4 {
		c = append(c, e.creds("reader", nil))
	}
	e.refused(logical.UpdateOperation, "creds/reader", nil, "max_tokens")
	e.creds("jwt", nil)
	grant := e.creds("refreshed", nil)
	if status, pair := e.refresh(grant.data["refresh_token"].(string)); status != 200 {
		t.Fatalf("%d: %v", status, pair)
	}
	if status, narrower := e.exchange(grant.token, data{}); status != 200 {
		t.Fatalf("%d: %v", status, narrower)
	}

	e.expect("active", c[0].token, nil)
	e.expect("active", c[0].token, nil)
	e.expect("insufficient_scope", c[0].token, data{"required_scopes": "b"})
	e.expect("malformed", "nonsense", nil)
	e.report("api-1", 1, data{"token_id": c[0].id, "uses": 5, "refusals": data{"rate_limited": 2}})
	e.report("api-1", 1, data{"token_id": c[0].id, "uses": 5}) // a retry
	if resp, err := e.renew(c[0], time.Hour); err != nil || resp.IsError() {
		t.Fatal(resp, err)
	}
	e.measures(map[string]float64{
		`apitoken_tokens_issued_total{kind="opaque"}`:                               5,
		`apitoken_tokens_issued_total{kind="jwt"}`:                                  1,
		`apitoken_tokens_issued_total{kind="service"}`:                              0,
		`apitoken_issue_errors_total{kind="opaque",result="refused"}`:               1,
		`apitoken_renewals_total{kind="native"}`:                                    1,
		`apitoken_refreshes_total`:                                                  1,
		`apitoken_exchanges_total`:                                                  1,
		`apitoken_decisions_total{reason="ok",source="introspect"}`:                 2,
		`apitoken_decisions_total{reason="insufficient_scope",source="introspect"}`: 1,
		`apitoken_decisions_total{reason="malformed",source="introspect"}`:          1,
		`apitoken_decisions_total{reason="ok",source="usage"}`:                      5,
		`apitoken_decisions_total{reason="rate_limited",source="usage"}`:            2,
		`apitoken_usage_reports_total{result="counted"}`:                            1,
		`apitoken_usage_reports_total{result="duplicate"}`:                          1,
		`apitoken_usage_reporters`:                                                  1,
		`apitoken_role_tokens{role="reader"}`:                                       4,
		`apitoken_role_tokens{role="jwt"}`:                                          1,
		`apitoken_role_tokens{role="other"}`:                                        0,
		`apitoken_tokens{kind="opaque"}`:                                            5,
		`apitoken_tokens{kind="jwt"}`:                                               1,
		`apitoken_unowned_entries`:                                                  2,
		`apitoken_storage_entries{kind="roles"}`:                                    3,
		`apitoken_records{kind="inventory"}`:                                        6,
		`apitoken_records{kind="deviations"}`:                                       1,
		`apitoken_records{kind="refreshes"}`:                                        1,
		`apitoken_active`:                                                           1,
		`apitoken_info{version="` + Version + `"}`:                                  1,
		`apitoken_storage_writes_total{result="error"}`:                             0,
		`apitoken_unreadable_entries`:                                               0,
		`apitoken_open_findings{rule="shared",severity="high"}`:                     0,
		`apitoken_rotation_timestamp_seconds{kind="root",result="success"}`:         0,
		`apitoken_revocation_queue_tokens{connection="other"}`:                      0,
		`apitoken_finding_responses_pending`:                                        0,
		`apitoken_static_roles_overdue_seconds`:                                     0,
		`apitoken_revocations_total{cause="lease"}`:                                 0,
		`apitoken_decisions_total{reason="other",source="usage"}`:                   0,
	})
	got := e.metrics()
	for _, series := range []string{
		`apitoken_storage_writes_total{result="ok"}`, `apitoken_storage_written_bytes_total`, `apitoken_process_memory_bytes`,
		`apitoken_start_timestamp_seconds`, `apitoken_feed_epoch_timestamp_seconds`, `apitoken_tokens_counted_timestamp_seconds`,
	} {
		if got[series] <= 0 {
			t.Errorf("%s is %v", series, got[series])
		}
	}
	for series := range got {
		if strings.Contains(series, c[0].token) || strings.Contains(series, c[0].id) || strings.Contains(series, entityAnn) {
			t.Errorf("%s names a token or an entity", series)
		}
	}
}

// Revocations and suspensions count by their cause.
func TestMetricsOfRevocations(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a:read"})
	e.write("roles/gone", data{"scopes": "a:read"})
	e.write("roles/refreshed", data{"scopes": "a", "refresh": true, "access_ttl": "5m", "ttl": "1h"})
	var c []*creds
	for range 6 {
		c = append(c, e.creds("reader", nil))
	}
	e.revokeLease(c[0])
	e.revokeLease(c[0]) // Vault may repeat
	e.write("revoke", data{"token_id": c[1].id})
	e.revokeLease(c[1]) // revoked before
	e.write("oauth/revoke", data{"token": c[2].token})
	e.write("oauth/revoke", data{"token": "nonsense"}) // an unknown token is a success, and no revocation
	e.write("suspend", data{"token_id": c[3].id})
	e.creds("gone", nil)
	e.creds("gone", nil)
	e.do(logical.DeleteOperation, "roles/gone", nil)
	e.write("config/detection", data{"shared": "revoke", "shared_addresses": 1})
	e.write("revoke", data{"subject": entityAnn}) // c[3] to c[5]
	e.measures(map[string]float64{
		`apitoken_revocations_total{cause="lease"}`:         1,
		`apitoken_revocations_total{cause="request"}`:       2,
		`apitoken_revocations_total{cause="subject"}`:       3,
		`apitoken_revocations_total{cause="role_deleted"}`:  2,
		`apitoken_revocations_total{cause="refresh_reuse"}`: 0,
		`apitoken_suspensions_total{cause="request"}`:       1,
		`apitoken_feed_lag_events`:                          0,
	})
	grant := e.creds("refreshed", nil)
	_, first := e.refresh(grant.data["refresh_token"].(string))
	_, _ = e.refresh(first["refresh_token"].(string))
	if status, _ := e.refresh(grant.data["refresh_token"].(string)); status == 200 {
		t.Error("a refresh token of before is accepted")
	}
	e.measures(map[string]float64{`apitoken_revocations_total{cause="refresh_reuse"}`: 1})

	// Readers of the feed.
	start := e.read("feed")
	e.write("roles/reader", data{"scopes": "a:read,b"})
	e.do(logical.ReadOperation, "feed", data{"epoch": start["epoch"], "cursor": start["cursor"]})
	e.do(logical.ReadOperation, "feed", data{"epoch": "another", "cursor": 1})
	e.measures(map[string]float64{
		`apitoken_feed_reads_total{result="start"}`:  1,
		`apitoken_feed_reads_total{result="ok"}`:     1,
		`apitoken_feed_reads_total{result="resync"}`: 1,
		`apitoken_feed_lag_events`:                   1,
	})
}

// A service that is down shows in the queue, and a failed rotation counts.
func TestMetricsOfServices(t *testing.T) {
	s := newShelf(t)
	e := onShelf(t, s)
	c := e.creds("reader", nil)
	s.setFault(failing)
	e.revokeLease(c)
	if !eventually(func() bool {
		got := e.metrics()
		return got[`apitoken_revocation_queue_tokens{connection="shelf"}`] == 1 &&
			got[`apitoken_revocation_queue_failing{connection="shelf"}`] == 1 &&
			got[`apitoken_revocation_queue_age_seconds{connection="shelf"}`] > 0
	}) {
		t.Errorf("the queue: %v", e.metrics())
	}
	s.setFault(nil)
	e.settled()
	if resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "rotate-root/shelf"}); err != nil || resp.IsError() {
		t.Fatal(resp, err)
	}
	e.write("static-roles/kept", data{"role": "reader", "rotation_period": "1h"})
	e.keptToken("kept")
	e.write("rotate-role/kept", nil)
	s.setFault(failing)
	e.refused(logical.UpdateOperation, "rotate-root/shelf", nil, "not rotated")
	s.setFault(nil)
	e.measures(map[string]float64{
		`apitoken_tokens_issued_total{kind="service"}`:                  1,
		`apitoken_revocations_total{cause="lease"}`:                     1,
		`apitoken_revocations_total{cause="expiry"}`:                    0,
		`apitoken_revocation_queue_age_seconds{connection="shelf"}`:     0,
		`apitoken_rotations_total{kind="root",result="failure"}`:        1,
		`apitoken_rotations_total{kind="root",result="success"}`:        1,
		`apitoken_rotations_total{kind="static_role",result="success"}`: 1,
		`apitoken_storage_entries{kind="connections"}`:                  1,
		`apitoken_storage_entries{kind="static_roles"}`:                 1,
		`apitoken_static_roles_failing`:                                 0,
	})
}

// Storage that cannot be written shows in the errors.
func TestMetricsOfFailures(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	e.storage.broken.Store(true)
	if _, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "creds/reader"}); err == nil {
		t.Fatal("a token was issued without storage")
	}
	e.storage.broken.Store(false)
	got := e.metrics()
	if got[`apitoken_issue_errors_total{kind="opaque",result="failed"}`] != 1 || got[`apitoken_storage_writes_total{result="error"}`] == 0 {
		t.Errorf("%v", got)
	}
}

// Findings show by rule and severity, until somebody acknowledges them.
func TestMetricsOfFindings(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": []string{"a:read"}})
	c := e.creds("r", nil)
	e.report("api-1", 1, data{"token_id": c.id, "refusals": data{"host_not_allowed": 20}})
	e.measures(map[string]float64{`apitoken_open_findings{rule="refused_burst",severity="medium"}`: 1, `apitoken_findings`: 1})
	e.write("findings/"+e.list("findings/", nil)[0], data{"note": "a load test"})
	e.measures(map[string]float64{`apitoken_open_findings{rule="refused_burst",severity="medium"}`: 0, `apitoken_findings`: 1})
}

// Reported tokens count as revoked by their leak: native tokens and tokens of services, once each.
func TestMetricsOfLeaks(t *testing.T) {
	e := onShelf(t, newShelf(t))
	e.write("roles/own", data{"scopes": "a"})
	native, service, revoked := e.creds("own", nil), e.creds("reader", nil), e.creds("own", nil)
	e.write("revoke", data{"token_id": revoked.id})
	for range 2 {
		e.write("leaked", data{"tokens": []any{native.token, service.token, revoked.token, "nonsense"}})
	}
	e.revokeLease(native)
	e.revokeLease(service)
	e.measures(map[string]float64{
		`apitoken_revocations_total{cause="leaked"}`: 2, `apitoken_revocations_total{cause="request"}`: 1,
		`apitoken_revocations_total{cause="lease"}`: 0,
	})
}

// A notice that a receiver refuses waits in the queue of alerts.
func TestMetricsOfAlerts(t *testing.T) {
	h := newHook(t)
	h.status.Store(http.StatusBadGateway)
	e := newEngine(t)
	e.write("alerts/ops", data{"url": h.URL, "ca_cert": h.ca})
	e.write("roles/r", data{"scopes": "a"})
	e.write("leaked", data{"tokens": []any{e.creds("r", nil).token}})
	if !eventually(func() bool {
		got := e.metrics()
		return got[`apitoken_alert_queue_notices`] == 1 && got[`apitoken_alert_queue_age_seconds`] > 0
	}) {
		t.Errorf("the queue: %v", e.metrics())
	}
	h.status.Store(http.StatusNoContent)
	e.write("alerts/ops/test", nil) // has the alert try again at once
	if !eventually(func() bool { return e.metrics()[`apitoken_alert_queue_notices`] == 0 }) {
		t.Errorf("the queue: %v", e.metrics())
	}
	e.measures(map[string]float64{`apitoken_alert_queue_age_seconds`: 0, `apitoken_alert_notices_dropped_total`: 0})
}

// However many roles and connections there are, the number of series is bounded.
func TestMetricsAreBounded(t *testing.T) {
	e := newEngine(t)
	before := len(e.metrics())
	if before >= 200 {
		t.Errorf("a new mount has %d series", before)
	}
	for i := range metrics.MaxNamed + 10 {
		role := fmt.Sprintf("r%03d", i)
		e.write("roles/"+role, data{"scopes": "a"})
		for range 1 + i%2 {
			e.creds(role, nil)
		}
		e.connection(role)
	}
	e.write("roles/other", data{"scopes": "a"})
	e.creds("other", nil)
	got := e.metrics()
	if grown := len(got) - before; grown != 5*metrics.MaxNamed {
		t.Errorf("%d more series, want %d", grown, 5*metrics.MaxNamed)
	}
	if got[`apitoken_role_tokens{role="r001"}`] != 2 || got[`apitoken_role_tokens{role="other"}`] != 11 {
		t.Errorf("r001 has %v, and the others have %v", got[`apitoken_role_tokens{role="r001"}`], got[`apitoken_role_tokens{role="other"}`])
	}
}

// A standby answers for itself, and says that it is none to write.
func TestMetricsOnAStandby(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": "a"})
	c := e.creds("r", nil)
	e.b.Cleanup(t.Context())
	e.system.state.Store(uint32(consts.ReplicationPerformanceStandby))
	standby := mountOn(t, e.storage, e.system)
	standby.expect("active", c.token, nil)
	if got := standby.usageOf(c.id); got["uses"] != uint64(0) {
		t.Errorf("the standby counts uses for reports: %v", got)
	}
	standby.measures(map[string]float64{
		`apitoken_decisions_total{reason="ok",source="introspect"}`: 1,
		`apitoken_active`: 0, `apitoken_tokens_issued_total{kind="opaque"}`: 0, `apitoken_role_tokens{role="r"}`: 1,
	})
}

func TestMetricsErrors(t *testing.T) {
	newEngine(t).refused(logical.ReadOperation, "metrics", data{"format": "prometheus"}, "format: is not a field of this path")
}

// docs/monitoring.md has every metric with its type and labels, and no other.
func TestMetricsDocs(t *testing.T) {
	text, err := os.ReadFile("../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]string)
	for _, row := range regexp.MustCompile("(?m)^\\| `(apitoken_\\w+)` \\| (\\w+) \\|(.*?)\\| .+ \\|$").FindAllStringSubmatch(string(text), -1) {
		documented[row[1]] = row[2] + " " + strings.TrimSpace(strings.ReplaceAll(row[3], "`", ""))
	}
	exported := make(map[string]string)
	for _, m := range metrics.All() {
		kind := "gauge"
		if m.Type == prometheus.CounterValue {
			kind = "counter"
		}
		exported[m.Name] = kind + " " + strings.Join(m.Labels, ", ")
	}
	for name, about := range exported {
		if documented[name] != about {
			t.Errorf("%s is documented as %q, and is %q", name, documented[name], about)
		}
	}
	for name := range documented {
		if exported[name] == "" {
			t.Errorf("%s is documented, and not exported", name)
		}
	}
	shown := newEngine(t).metrics()
	for name := range exported {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(shown)), func(series string) bool {
			return series == name || strings.HasPrefix(series, name+"{")
		}) {
			t.Errorf("a new mount does not show %s", name)
		}
	}
	for cause := range shown {
		label := regexp.MustCompile(`cause="(\w+)"`).FindStringSubmatch(cause)
		if label != nil && !strings.Contains(string(text), "| `"+label[1]+"` | ") {
			t.Errorf("the cause %s is not documented", label[1])
		}
	}
}

// The rules and the dashboard name metrics that exist; each alert is documented, and has a unit test.
func TestMonitoring(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	const dir = "../bootstrap/monitoring/"
	exported := make(map[string]bool)
	for _, m := range metrics.All() {
		exported[m.Name] = true
	}
	docs, tests := read("../docs/monitoring.md"), read(dir+"rules_test.yml")
	for _, file := range []string{"rules.yml", "rules_test.yml", "dashboard.json"} {
		names := regexp.MustCompile(`\bapitoken_\w+`).FindAllString(strings.NewReplacer("mount_kind:", "", "mount_reason:", "", "mount:", "").Replace(read(dir+file)), -1)
		if len(names) < 10 {
			t.Errorf("%s has only %d metrics", file, len(names))
		}
		for _, name := range names {
			if !exported[name] && name != "apitoken_tokens_issued" && name != "apitoken_decisions" && name != "apitoken_refused" {
				t.Errorf("%s: there is no metric %s", file, name)
			}
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Record string
				Labels        map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(dir+"rules.yml")), &rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Record != "" && !strings.Contains(docs, "`"+r.Record+"`") {
				t.Errorf("the record %s is not documented", r.Record)
			}
			if r.Alert != "" && (!strings.Contains(docs, "| `"+r.Alert+"` | "+r.Labels["severity"]+" |") || strings.Count(tests, "alertname: "+r.Alert+"\n") < 2) {
				t.Errorf("the alert %s is not documented with its severity, or lacks unit tests of both cases", r.Alert)
			}
		}
	}
}

// A scrape of a mount with 100,000 live tokens, counted anew.
func BenchmarkMetrics(b *testing.B) {
	e := newEngine(b)
	e.do(logical.UpdateOperation, "roles/reader", data{"scopes": "a:b"})
	for range 100_000 {
		e.do(logical.ReadOperation, "creds/reader", nil)
	}
	b.ReportAllocs()
	for b.Loop() {
		e.do(logical.ReadOperation, "metrics", nil)
	}
}
