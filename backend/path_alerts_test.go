package backend

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/alert"
)

// hook is a receiver of webhooks over TLS.
type hook struct {
	*httptest.Server
	ca     string
	status atomic.Int32
	got    chan *http.Request // with the body in a context of their own
	bodies chan []byte
}

func newHook(t *testing.T) *hook {
	h := &hook{got: make(chan *http.Request, 100), bodies: make(chan []byte, 100)}
	h.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.bodies <- body
		h.got <- r
		w.WriteHeader(int(h.status.Load()))
		_, _ = io.WriteString(w, "said the receiver")
	}))
	h.status.Store(http.StatusNoContent)
	h.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}))
	t.Cleanup(h.Close)
	return h
}

// next returns the type and the data of the next event, after checking the signature.
func (h *hook) next(t *testing.T, secret string) (kind string, eventData data) {
	t.Helper()
	select {
	case r := <-h.got:
		body := <-h.bodies
		wh, err := standardwebhooks.NewWebhook(secret)
		if err == nil {
			err = wh.Verify(body, r.Header)
		}
		var e struct {
			Type string
			Data data
		}
		if err != nil || json.Unmarshal(body, &e) != nil {
			t.Errorf("%v: %s", err, body)
		}
		return e.Type, e.Data
	case <-time.After(10 * time.Second):
		t.Fatal("nothing has arrived")
		return "", nil
	}
}

const alertSecret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

// An alert is written, tested, told of findings, rotated and deleted. Its secrets are returned once, or never.
func TestAlerts(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	e := newEngine(t)
	e.write("roles/r", data{"scopes": []string{"a:read"}})
	answer := e.write("alerts/ops", data{
		"url": h.URL + "/hooks/path-secret", "ca_cert": h.ca, "headers": data{"Authorization": "Bearer header-secret"},
		"events": "opened,acknowledged", "description": "the team's pager", "owner": "team-security",
	})
	secret, _ := answer["secret"].(string)
	if key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_")); err != nil || len(key) != 32 || len(answer) != 1 {
		t.Fatalf("the answer is %v", answer)
	}
	got := e.read("alerts/ops")
	for name, want := range (data{
		"url": h.URL + "/...", "header_names": []string{"Authorization"}, "format": "cloudevents", "events": []string{"opened", "acknowledged"},
		"rules": []string{}, "min_severity": "low", "disabled": false, "owner": "team-security", "allow_http": false,
	}) {
		if fmt.Sprint(got[name]) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if text := fmt.Sprint(got); strings.Contains(text, secret) || strings.Contains(text, "-secret") {
		t.Errorf("a read shows a secret: %s", text)
	}
	if answer := e.write("alerts/ops", data{"description": "another"}); answer != nil {
		t.Errorf("a change is answered with %v", answer)
	}
	if list := e.list("alerts/", nil); !slices.Equal(list, []string{"ops"}) {
		t.Errorf("listed %q", list)
	}

	if answer := e.write("alerts/ops/test", nil); answer["status"] != http.StatusNoContent || answer["id"] == "" {
		t.Errorf("the test is answered with %v", answer)
	}
	if kind, d := h.next(t, secret); kind != "apitoken.alert.test" || d["alert"] != "ops" {
		t.Errorf("got %s, %v", kind, d)
	}
	c := e.creds("r", nil)
	e.report("api-1", 1, data{"token_id": c.id, "refusals": data{"proof_replayed": 1}})
	kind, d := h.next(t, secret)
	if kind != "apitoken.finding.opened" || d["token_id"] != c.id || d["rule"] != "proof_failed" || d["environment"] != "apitoken" {
		t.Errorf("got %s, %v", kind, d)
	}

	rotated := e.write("alerts/ops/rotate-secret", data{"overlap": "1h"})
	next, _ := rotated["secret"].(string)
	if next == secret || !strings.HasPrefix(next, "whsec_") || rotated["previous_secret_expires_at"] == nil {
		t.Errorf("rotated: %v", rotated)
	}
	for began := time.Now(); e.read("alerts/ops")["queue"].(map[string]any)["count"] != 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("the notice still waits")
		}
	}
	e = e.restart()
	if e.read("alerts/ops")["previous_secret_expires_at"] != rotated["previous_secret_expires_at"] {
		t.Error("the overlap does not survive a restart")
	}
	e.write("findings/"+d["id"].(string), data{"note": "a load test"})
	if kind, d := h.next(t, secret); kind != "apitoken.finding.acknowledged" || d["note"] != "a load test" {
		t.Errorf("got %s, %v", kind, d)
	}
	e.write("alerts/ops/rotate-secret", data{"overlap": 0, "secret": alertSecret})
	e.write("alerts/ops/test", nil)
	h.next(t, alertSecret)
	e.do(logical.DeleteOperation, "alerts/ops", nil)
	if got := e.read("alerts/ops"); got != nil {
		t.Errorf("a deleted alert is %v", got)
	}
	if !slices.Contains(e.b.PathsSpecial.SealWrapStorage, alert.EntriesPrefix) {
		t.Error("alerts are not seal-wrapped")
	}
}

func TestAlertErrors(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	many := make([]string, 101)
	headers := make(data)
	for i := range many {
		many[i] = fmt.Sprint("r", i)
		headers[fmt.Sprint("x-", i)] = "v"
	}
	good := "https://alerts.example.com/x"
	for want, d := range map[string]data{
		"url: is needed": {},
		"url: is not a URL such as https://alerts.example.com/apitoken":                      {"url": "alerts.example.com/path-secret"},
		"url: has the scheme http, which anybody on the way can read":                        {"url": "http://alerts.example.com/path-secret"},
		"url: must not contain a user or a password":                                         {"url": "https://path-secret@alerts.example.com/"},
		"url: must not have a fragment":                                                      {"url": good + "#path-secret"},
		"url: ends with /..., which stands for the path":                                     {"url": "https://alerts.example.com/..."},
		"url: is 2049 bytes long, at most 2048 are allowed":                                  {"url": good + strings.Repeat("x", 2049-len(good))},
		`format: "teams" is not one of: cloudevents, slack`:                                  {"url": good, "format": "teams"},
		`events: "closed" is not one of: opened, escalated, acknowledged`:                    {"url": good, "events": "closed"},
		"events: is empty: name at least one of: opened":                                     {"url": good, "events": []string{}},
		`rules: "x" is no rule of config/detection, which has impossible_travel, new_region`: {"url": good, "rules": "x"},
		"roles: has 101 roles, at most 100 are allowed":                                      {"url": good, "roles": many},
		`min_severity: "critical" is not one of: low, medium, high`:                          {"url": good, "min_severity": "critical"},
		"secret: must be whsec_ and the Base64 of 24 to 64 random bytes":                     {"url": good, "secret": "whsec_path-secret"},
		"secret: is empty: leave the field out":                                              {"url": good, "secret": ""},
		"ca_cert: has no certificate in PEM":                                                 {"url": good, "ca_cert": "noise"},
		"headers: has a name that is not the name of a header":                               {"url": good, "headers": data{"a b": "path-secret"}},
		"headers: has a name that is not the name of a header: write":                        {"url": good, "headers": "Authorization: Bearer path-secret="},
		"events: has 4 events, there are 3":                                                  {"url": good, "events": "opened,opened,opened,opened"},
		`headers: "Webhook-Id" is set by the engine`:                                         {"url": good, "headers": data{"Webhook-Id": "path-secret"}},
		`headers: "Host" is set by the engine`:                                               {"url": good, "headers": data{"Host": "path-secret"}},
		"headers: takes name=value, or in JSON an object of strings":                         {"url": good, "headers": "Authorization: path-secret"},
		`headers: the value of "A" has a character`:                                          {"url": good, "headers": data{"A": "path-secret\r\nB: c"}},
		"headers: has 101 headers, at most 16 are allowed":                                   {"url": good, "headers": headers},
		`headers: the value of "A" is 4097 bytes long, at most 4096`:                         {"url": good, "headers": data{"A": strings.Repeat("x", 4097)}},
		`headers: has "a" twice, in upper and in lower case`:                                 {"url": good, "headers": data{"A": "1", "a": "2"}},
		"owner: is \"...\"": {"url": good, "owner": "..."},
		"description: is 1025 bytes long, at most 1024 are allowed": {"url": good, "description": strings.Repeat("x", 1025)},
		"rule: is not a field of this path":                         {"url": good, "rule": "x"},
		"disabled: takes true or false":                             {"url": good, "disabled": "maybe"},
	} {
		resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "alerts/x", Data: d})
		if text := fmt.Sprint(resp, err); strings.Contains(text, "path-secret") {
			t.Errorf("the error shows a value: %s", text)
		}
		e.saysNo(resp, err, want)
	}
	if list := e.list("alerts/", nil); len(list) != 0 {
		t.Errorf("stored are %q", list)
	}
	for path, want := range map[string]string{"alerts/x/test": `name: there is no alert "x"`, "alerts/x/rotate-secret": `name: there is no alert "x"`} {
		e.refused(logical.UpdateOperation, path, nil, want)
	}
	e.write("alerts/x", data{"url": good, "secret": alertSecret, "headers": data{"A": "b"}})
	e.write("alerts/x", data{"url": good, "secret": alertSecret}) // not a change
	for want, d := range map[string]data{
		"secret: cannot be changed by a write: rotate-secret": {"secret": strings.Replace(alertSecret, "M", "N", 1)},
		"url: a change of it sends headers elsewhere":         {"url": "https://elsewhere.example.com/"},
		"allow_http: a change of it sends headers elsewhere":  {"allow_http": true},
		"ca_cert: a change of it sends headers elsewhere":     {"ca_cert": "x"},
	} {
		e.refused(logical.UpdateOperation, "alerts/x", d, want)
	}
	e.write("alerts/x", data{"url": "https://elsewhere.example.com/", "headers": data{"A": "b"}})
	for want, d := range map[string]data{
		"secret: is the current secret":     {"secret": alertSecret},
		"secret: must be whsec_":            {"secret": "noise"},
		"overlap: 721h is more than 720h":   {"overlap": "721h"},
		"overlap: must not be negative":     {"overlap": "-1s"},
		"url: is not a field of this path,": {"url": good},
	} {
		e.refused(logical.UpdateOperation, "alerts/x/rotate-secret", d, want)
	}
	for i := range alert.MaxAlerts - 1 {
		e.write(fmt.Sprint("alerts/n", i), data{"url": good})
	}
	e.refused(logical.UpdateOperation, "alerts/one-too-many", data{"url": good}, "name: there are 32 alerts, which is the maximum")
	e.write("alerts/n1", data{"disabled": true})
	if got := e.read("alerts/n1"); got["disabled"] != true || got["disabled_at"] == nil || got["disabled_reason"] != nil {
		t.Errorf("a disabled alert is %v", got)
	}
}

// A role that does not exist is stored with a warning: the role may be created later, and the name may be misspelled.
func TestAlertOfMissingRole(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.write("roles/billing", data{"scopes": "invoices:read"})
	write := func(d data) string {
		t.Helper()
		resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "alerts/x", Data: d})
		if err != nil || resp.IsError() {
			t.Fatalf("%v: %v %v", d, resp, err)
		}
		if resp == nil {
			return ""
		}
		return strings.Join(resp.Warnings, "; ")
	}
	const want = `roles: there is no role "biling": the alert sends nothing about it until there is one`
	if got := write(data{"url": "https://alerts.example.com/", "roles": "billing,biling"}); got != want {
		t.Errorf("created with the warning %q", got)
	}
	if got := write(data{"roles": "biling"}); got != want {
		t.Errorf("changed with the warning %q", got)
	}
	if got := write(data{"roles": "billing"}) + write(data{"roles": ""}) + write(data{"owner": "a"}); got != "" {
		t.Errorf("changed with the warning %q", got)
	}
}

// A test that fails says why.
func TestAlertTestFails(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	e := newEngine(t)
	e.write("alerts/x", data{"url": h.URL + "/path-secret"})
	e.refused(logical.UpdateOperation, "alerts/x/test", nil, "certificate signed by unknown authority")
	e.write("alerts/x", data{"ca_cert": h.ca})
	h.status.Store(http.StatusForbidden)
	e.refused(logical.UpdateOperation, "alerts/x/test", nil, "status 403 Forbidden: said the receiver")
	h.status.Store(http.StatusMovedPermanently)
	e.refused(logical.UpdateOperation, "alerts/x/test", nil, "redirects are not followed")
	h.Close()
	e.refused(logical.UpdateOperation, "alerts/x/test", nil, "was not delivered to 127.0.0.1:")
	e.write("alerts/x", data{"url": "https://169.254.169.254/latest/meta-data"})
	e.refused(logical.UpdateOperation, "alerts/x/test", nil, "link-local, multicast or metadata address")
}

// An alert that cannot be read is listed, affects no other alert, and can be written again or deleted.
func TestBrokenAlert(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	for _, name := range []string{"a", "b", "c"} {
		e.write("alerts/"+name, data{"url": "https://alerts.example.com/"})
	}
	for _, key := range []string{"entry/a", "entry/b", "queue/00000000000000000000000a"} {
		entry := &logical.StorageEntry{Key: alert.Prefix + key, Value: []byte("noise")}
		if err := e.storage.InmemStorage.Put(context.Background(), entry); err != nil {
			t.Fatal(err)
		}
	}
	e = e.restart()
	want := []string{"alert/entry/a", "alert/entry/b", "alert/queue/00000000000000000000000a"}
	if got := e.list("broken/", nil); !slices.Equal(got, want) {
		t.Errorf("listed as broken: %q", got)
	}
	for _, path := range []string{"alerts/a/test", "alerts/a/rotate-secret"} {
		e.refused(logical.UpdateOperation, path, nil, "the stored entry alert/entry/a cannot be read")
	}
	e.refused(logical.ReadOperation, "alerts/a", nil, "the stored entry alert/entry/a cannot be read")
	if answer := e.write("alerts/a", data{"url": "https://alerts.example.com/"}); answer["secret"] == nil {
		t.Errorf("written again: %v", answer)
	}
	e.do(logical.DeleteOperation, "alerts/b", nil)
	e.do(logical.DeleteOperation, "broken/alert/queue/00000000000000000000000a", nil)
	if got := e.list("broken/", nil); len(got) != 0 {
		t.Errorf("listed as broken: %q", got)
	}
	if got := e.list("alerts/", nil); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("listed are %q", got)
	}
}

// A standby has the active node do everything about an alert, since only the active node knows the queue.
func TestAlertsOnAStandby(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.write("alerts/x", data{"url": "https://alerts.example.com/"})
	e.system.state.Store(uint32(consts.ReplicationPerformanceStandby))
	standby := mountOn(t, e.storage, e.system)
	if got := standby.list("alerts/", nil); !slices.Equal(got, []string{"x"}) {
		t.Errorf("listed are %q", got)
	}
	for path, op := range map[string]logical.Operation{
		"alerts/x": logical.ReadOperation, "alerts/x/test": logical.UpdateOperation, "alerts/x/rotate-secret": logical.UpdateOperation,
		"alerts/y": logical.CreateOperation, "alerts/z": logical.DeleteOperation,
	} {
		if _, err := standby.request(&logical.Request{Operation: op, Path: path}); err != logical.ErrReadOnly { //nolint:errorlint // Vault compares so
			t.Errorf("%s on a standby: %v", path, err)
		}
	}
}
