package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"go.yaml.in/yaml/v3"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/process"
)

// requirePrometheus skips the test where there is no Prometheus.
func requirePrometheus(t *testing.T) {
	t.Helper()
	for _, name := range []string{"prometheus", "promtool"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("REQUIRE_PROMETHEUS") != "" {
				t.Fatal(err)
			}
			fmt.Fprintln(os.Stderr, "The tests with Prometheus are skipped:", err)
			t.Skip("SKIPPED: there is no", name)
		}
	}
}

// promtool runs promtool in bootstrap/monitoring.
func promtool(t *testing.T, stdin []byte, args ...string) {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Dir, cmd.Stdin = filepath.Join(root, "bootstrap", "monitoring"), bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// prometheus is a Prometheus server with the configuration of bootstrap/monitoring.
type prometheus struct {
	t    *testing.T
	addr string
}

// newPrometheus starts a server that scrapes Vault each second with a token of policy.hcl.
func newPrometheus(t *testing.T, c *api.Client) *prometheus {
	t.Helper()
	dir, from := t.TempDir(), filepath.Join(root, "bootstrap", "monitoring")
	policy, err := os.ReadFile(filepath.Join(from, "policy.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Sys().PutPolicyWithContext(t.Context(), "apitoken-metrics", string(policy)); err != nil {
		t.Fatal(err)
	}
	secret, err := c.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"apitoken-metrics"}, NoDefaultPolicy: true})
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(dir, "vault-token")
	if err := os.WriteFile(token, []byte(secret.Auth.ClientToken), 0o600); err != nil {
		t.Fatal(err)
	}
	change := strings.NewReplacer(
		"scheme: https", "scheme: http", "/etc/prometheus/vault-token", token,
		"vault.example.com:8200", strings.TrimPrefix(c.Address(), "http://"), "30s", "1s",
	)
	for _, file := range []string{"prometheus.yml", "rules.yml"} {
		text, err := os.ReadFile(filepath.Join(from, file))
		if err != nil {
			t.Fatal(err)
		}
		if file == "prometheus.yml" {
			text = []byte(change.Replace(string(text)))
		}
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ports, err := process.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	p := &prometheus{t, "127.0.0.1:" + ports[0]}
	server, err := process.Start("prometheus", exec.Command("prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.addr, "--log.level=warn"), filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	if err := server.Wait(t.Context(), func() bool {
		resp, err := http.Get("http://" + p.addr + "/-/ready")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	}); err != nil {
		t.Fatal(err)
	}
	return p
}

// get asks the API, and decodes the data of the answer.
func (p *prometheus) get(path string, query url.Values, into any) error {
	resp, err := http.Get("http://" + p.addr + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: into}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s", answer.Error)
	}
	return nil
}

// query returns the number of series that an expression returns.
func (p *prometheus) query(expr string) (int, error) {
	var data struct{ Result []json.RawMessage }
	err := p.get("query", url.Values{"query": {expr}}, &data)
	return len(data.Result), err
}

// returns fails the test unless an expression is valid and returns data.
func (p *prometheus) returns(expr string) {
	p.t.Helper()
	if n, err := p.query(expr); err != nil || n == 0 {
		p.t.Errorf("%s: %d series, %v", expr, n, err)
	}
}

// until waits until an expression returns data.
func (p *prometheus) until(expr string) {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if n, err := p.query(expr); err == nil && n > 0 {
			return
		} else if time.Now().After(deadline) {
			p.t.Fatalf("%s: %d series, %v", expr, n, err)
		}
	}
}

// metricsOf reads the metrics as Prometheus does.
func metricsOf(t *testing.T, c *api.Client, token string) (status int, media string, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.Address()+"/v1/apitoken/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), body
}

// TestMonitoring has a real Prometheus scrape a real Vault, and evaluates each expression of the rules and of the dashboard.
func TestMonitoring(t *testing.T) {
	requirePrometheus(t)
	t.Parallel()
	c := mounted(t).Client()
	write := func(path string, data map[string]any) map[string]any {
		t.Helper()
		secret, err := c.Logical().WriteWithContext(t.Context(), path, data)
		if err != nil {
			t.Fatal(err)
		}
		if secret == nil {
			return nil
		}
		return secret.Data
	}
	promtool(t, nil, "check", "rules", "rules.yml")
	promtool(t, nil, "test", "rules", "rules_test.yml")
	promtool(t, nil, "check", "config", "--syntax-only", "prometheus.yml")

	p := newPrometheus(t, c)
	p.until(`up{job="apitoken"} == 1`)

	// Something of everything.
	write("apitoken/roles/reader", map[string]any{"scopes": []string{"a:read"}, "ttl": "1h"})
	write("apitoken/roles/refreshed", map[string]any{"scopes": []string{"a"}, "refresh": true, "access_ttl": "5m", "ttl": "1h"})
	write("apitoken/static-roles/nightly", map[string]any{"role": "reader", "rotation_period": "24h"})
	write("apitoken/rotate-role/nightly", nil)
	issued := write("apitoken/creds/reader", nil)
	for range 3 {
		write("apitoken/introspect", map[string]any{"token": issued["token"]})
		write("apitoken/introspect", map[string]any{"token": issued["token"], "required_scopes": "b"})
	}
	if _, err := c.Logical().ReadWithContext(t.Context(), "apitoken/feed"); err != nil {
		t.Fatal(err)
	}
	write("apitoken/usage", map[string]any{"reporter": "api-1", "sequence": 1, "tokens": []any{
		map[string]any{"token_id": issued["token_id"], "uses": 5, "refusals": map[string]any{"proof_replayed": 1}},
	}})
	write("apitoken/revoke", map[string]any{"token_id": issued["token_id"]})

	status, media, body := metricsOf(t, c, c.Token())
	if status != http.StatusOK || media != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("%d %s\n%.300s", status, media, body)
	}
	promtool(t, body, "check", "metrics")
	if bytes.Contains(body, []byte(issued["token"].(string))) || bytes.Contains(body, []byte(issued["token_id"].(string))) {
		t.Error("the metrics name a token")
	}
	if status, _, _ := metricsOf(t, c, ""); status != http.StatusForbidden {
		t.Errorf("without a Vault token: %d", status)
	}

	p.until(`apitoken_revocations_total{cause="request"} == 1`)
	p.until(`count_over_time(apitoken_revocations_total{cause="request"}[10s]) > 3`)
	for expr, want := range map[string]int{
		`apitoken_decisions_total{source="introspect",reason="ok"} == 3`:                 1,
		`apitoken_decisions_total{source="introspect",reason="insufficient_scope"} == 3`: 1,
		`apitoken_decisions_total{source="usage",reason="ok"} == 5`:                      1,
		`apitoken_rotations_total{kind="static_role",result="success"} == 1`:             1,
		`apitoken_tokens_issued_total{kind="opaque"} == 1`:                               1,
		`apitoken_active{mount="apitoken"} == 1`:                                         1,
		`apitoken_unreadable_entries == 0`:                                               1,
	} {
		if n, err := p.query(expr); err != nil || n != want {
			t.Errorf("%s: %d series, %v", expr, n, err)
		}
	}
	p.dashboard()
	p.rules()
	p.until(`ALERTS{alertname="ApitokenHighFinding",rule="proof_failed",alertstate="firing"}`)
}

// dashboard evaluates every expression of the dashboard: each returns data.
func (p *prometheus) dashboard() {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "bootstrap", "monitoring", "dashboard.json"))
	if err != nil {
		p.t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		p.t.Fatal(err)
	}
	exprs := 0
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			exprs++
			p.returns(strings.NewReplacer("$mount", "apitoken", "$__rate_interval", "30s").Replace(target.Expr))
		}
	}
	if exprs < 30 {
		p.t.Errorf("the dashboard has %d expressions", exprs)
	}
	p.t.Logf("%d expressions of %d panels", exprs, len(dashboard.Panels))
}

// rules evaluates the rules: each metric that a rule names exists, each rule is healthy, and each record has values.
func (p *prometheus) rules() {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "bootstrap", "monitoring", "rules.yml"))
	if err != nil {
		p.t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Record, Expr string }
		}
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		p.t.Fatal(err)
	}
	series := regexp.MustCompile(`[\w:]*\bapitoken_\w+(:\w+)*`)
	names := 0
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if rule.Record != "" {
				p.until(rule.Record)
			}
			for _, name := range series.FindAllString(rule.Expr, -1) {
				names++
				p.returns(name)
			}
		}
	}
	if names < 15 {
		p.t.Errorf("the rules name %d series", names)
	}
	var evaluated struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := p.get("rules", nil, &evaluated); err != nil {
		p.t.Fatal(err)
	}
	n := 0
	for _, group := range evaluated.Groups {
		for _, rule := range group.Rules {
			if n++; rule.Health != "ok" {
				p.t.Errorf("%s: %s, %s", rule.Name, rule.Health, rule.LastError)
			}
		}
	}
	p.t.Logf("%d rules name %d series", n, names)
}
