package acceptance

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/vaultserver"
)

// pager is a receiver of alerts over TLS, which answers with a status.
type pager struct {
	*httptest.Server
	status atomic.Int32
	got    chan page
}

// page is a delivery.
type page struct {
	header http.Header
	body   []byte
	status int // of the answer
}

func newPager(t *testing.T) *pager {
	p := &pager{got: make(chan page, 1000)}
	p.status.Store(http.StatusNoContent)
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		status := int(p.status.Load())
		w.WriteHeader(status)
		p.got <- page{r.Header.Clone(), body, status}
	}))
	t.Cleanup(p.Close)
	return p
}

// next returns the next delivery that is answered with a status, and the data of its event. It checks the signature, the
// form of the event, and the time.
func (p *pager) next(t *testing.T, status int, secret, eventType string) (id string, data map[string]any) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case got := <-p.got:
			if got.status != status {
				continue
			}
			wh, err := standardwebhooks.NewWebhook(secret)
			if err == nil {
				err = wh.Verify(got.body, got.header) // the time, too
			}
			if err != nil {
				t.Fatal(err)
			}
			var event struct {
				SpecVersion, ID, Source, Type, Subject, DataContentType string

				Time time.Time
				Data map[string]any
			}
			if err := json.Unmarshal(got.body, &event); err != nil {
				t.Fatal(err)
			}
			if event.SpecVersion != "1.0" || event.ID != got.header.Get("webhook-id") || event.Type != eventType ||
				got.header.Get("Content-Type") != "application/cloudevents+json" || !strings.HasSuffix(event.Source, "/v1/apitoken") ||
				event.Subject == "" || event.DataContentType != "application/json" || event.Time.IsZero() {
				t.Errorf("the event is %s", got.body)
			}
			return event.ID, event.Data
		case <-deadline:
			t.Fatalf("no event %s was answered with %d", eventType, status)
		}
	}
}

// TestAlerts has a real Vault server call a receiver of alerts, which fails; restarts Vault, and has Vault step down, while
// notices wait.
func TestAlerts(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := vaultserver.Start(ctx, vaultserver.Config{Binary: vault, Dir: filepath.Join(t.TempDir(), "node1"), PluginDir: filepath.Dir(plugin)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	c := server.Client()
	err = errors.Join(
		server.Register(ctx, vaultserver.PluginName),
		c.Sys().MountWithContext(ctx, "apitoken", &api.MountInput{Type: vaultserver.PluginName}),
	)
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, data map[string]any) map[string]any {
		t.Helper()
		secret, err := c.Logical().WriteWithContext(ctx, path, data)
		if err != nil {
			t.Fatal(err)
		}
		if secret == nil {
			return nil
		}
		return secret.Data
	}
	queue := func() map[string]any {
		t.Helper()
		secret, err := c.Logical().ReadWithContext(ctx, "apitoken/alerts/pager")
		if err != nil {
			t.Fatal(err)
		}
		return secret.Data["queue"].(map[string]any)
	}
	sequence := 0
	misuse := func() (token string) { // shows a token without the proof of its key, as a verifier reports
		t.Helper()
		token = write("apitoken/creds/reader", nil)["token_id"].(string)
		sequence++
		write("apitoken/usage", map[string]any{"reporter": "api", "sequence": sequence, "tokens": []any{
			map[string]any{"token_id": token, "refusals": map[string]any{"proof_replayed": 1}},
		}})
		return token
	}
	p := newPager(t)
	write("apitoken/roles/reader", map[string]any{"scopes": "orders:read", "ttl": "1h"})
	secret := write("apitoken/alerts/pager", map[string]any{
		"url": p.URL + "/hooks/path-secret", "headers": map[string]any{"Authorization": "Bearer header-secret"},
		"ca_cert": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})),
	})["secret"].(string)

	// The test button.
	if answer := write("apitoken/alerts/pager/test", nil); answer["status"] != json.Number("204") {
		t.Errorf("the test is answered with %v", answer)
	}
	p.next(t, http.StatusNoContent, secret, "apitoken.alert.test")

	// A finding arrives; after a failure with the same ID.
	p.status.Store(http.StatusInternalServerError)
	token, began := misuse(), time.Now()
	id, _ := p.next(t, http.StatusInternalServerError, secret, "apitoken.finding.opened")
	t.Logf("the first try came %s after the report", time.Since(began).Round(time.Millisecond))
	p.status.Store(http.StatusNoContent)
	again, data := p.next(t, http.StatusNoContent, secret, "apitoken.finding.opened")
	if again != id || data["token_id"] != token || data["rule"] != "proof_failed" || data["severity"] != "high" {
		t.Errorf("first %s, then %s with %v", id, again, data)
	}

	// A notice waits through a restart, and through a failover.
	p.status.Store(http.StatusServiceUnavailable)
	token = misuse()
	id, _ = p.next(t, http.StatusServiceUnavailable, secret, "apitoken.finding.opened")
	q := queue()
	for end := time.Now().Add(10 * time.Second); q["next_try"] == nil && time.Now().Before(end); q = queue() {
		time.Sleep(20 * time.Millisecond) // the receiver has the call before the engine has the answer
	}
	if q["count"] != json.Number("1") || q["last_error"] != "status 503 Service Unavailable" || q["next_try"] == nil {
		t.Errorf("the queue is %v", q)
	}
	if err := server.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if again, _ := p.next(t, http.StatusServiceUnavailable, secret, "apitoken.finding.opened"); again != id {
		t.Errorf("after a restart %s, before %s", again, id)
	}
	standby := joinShop(t, &shop{Client: c, server: server})
	stepDown(t, server, standby)
	c = standby.Client()
	p.status.Store(http.StatusNoContent)
	again, data = p.next(t, http.StatusNoContent, secret, "apitoken.finding.opened")
	if again != id || data["token_id"] != token {
		t.Errorf("after a failover %s with %v, before %s", again, data, id)
	}
	if err := standby.Wait(ctx, func() bool { return queue()["count"] == json.Number("0") }); err != nil {
		t.Error(err)
	}

	// Both secrets sign during a rotation.
	next := write("apitoken/alerts/pager/rotate-secret", nil)["secret"].(string)
	for _, secret := range []string{secret, next} {
		write("apitoken/alerts/pager/test", nil)
		p.next(t, http.StatusNoContent, secret, "apitoken.alert.test")
	}

	// 410 disables the alert.
	p.status.Store(http.StatusGone)
	misuse()
	p.next(t, http.StatusGone, next, "apitoken.finding.opened")
	if err := standby.Wait(ctx, func() bool {
		secret, err := c.Logical().ReadWithContext(ctx, "apitoken/alerts/pager")
		return err == nil && secret.Data["disabled_reason"] == "the receiver answered 410 Gone" &&
			secret.Data["queue"].(map[string]any)["count"] == json.Number("0")
	}); err != nil {
		t.Error(err)
	}

	// A text for Slack.
	p.status.Store(http.StatusNoContent)
	write("apitoken/alerts/pager", map[string]any{"disabled": false, "format": "slack"})
	token = misuse()
	var text struct{ Text string }
	select {
	case got := <-p.got:
		if err := json.Unmarshal(got.body, &text); err != nil || !strings.Contains(text.Text, "*proof_failed: high finding opened*") ||
			!strings.Contains(text.Text, token) || got.header.Get("Content-Type") != "application/json" {
			t.Errorf("the text is %s", got.body)
		}
	case <-time.After(time.Minute):
		t.Error("no text has arrived")
	}

	// The log has the findings, and no secret.
	for _, log := range []string{server.Log, standby.Log} {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for _, hidden := range []string{secret, next, "path-secret", "header-secret"} {
			if strings.Contains(string(text), hidden) {
				t.Errorf("%s has %s", log, hidden)
			}
		}
		if !strings.Contains(string(text), "misuse of a token found") {
			t.Errorf("%s has no finding", log)
		}
	}
}
