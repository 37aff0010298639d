package server

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
)

// waitFor polls a condition.
func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within ten seconds", what)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A change of the file is a change of the rules. A bad file changes nothing, and is said.
func TestReload(t *testing.T) {
	w := start(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "authz.yaml")
	write(t, path, configuration)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := w.Watch(ctx, path); err != nil {
		t.Fatal(err)
	}
	w.refused(t, "caddy", get("/new/a/b", ""), 403, reasonNoRule)

	more := configuration + "  - {name: new, hosts: [\"*\"], methods: [GET], paths: [/new/**], public: true}\n"
	write(t, path, more)
	waitFor(t, "the new rule", func() bool { return w.send(t, "caddy", get("/new/a/b", "")).allowed })

	write(t, path, strings.Replace(more, "paths: [/new/**]", "paths: [new]", 1))
	waitFor(t, "the error", func() bool { return strings.Contains(w.log.String(), "the rules of before stay in use") })
	if !strings.Contains(w.log.String(), `authz.yaml:14: rules[8].paths[0]: \"new\" must begin`) {
		t.Errorf("the log does not say what is wrong:\n%s", w.log)
	}
	if strings.Contains(w.log.String(), "nothing of the file is used") {
		t.Error("the log says twice that the file is not used")
	}
	w.allows(t, "caddy", get("/new/a/b", ""))
	if text := metricsOf(t, w); !strings.Contains(text, "apitoken_authz_config_last_reload_successful 0") {
		t.Error("the metric does not show the error")
	}

	// Editors replace the file. Other settings need a restart.
	write(t, path+".new", strings.Replace(configuration, "audience: api", "audience: another", 1))
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the replaced file", func() bool { return w.send(t, "caddy", get("/new/a/b", "")).reason == string(reasonNoRule) })
	waitFor(t, "the advice to restart", func() bool { return strings.Contains(w.log.String(), "restart the authorizer to use them") })
	if strings.Count(w.log.String(), "restart the authorizer") != 1 {
		t.Error("a change of rules alone needs no restart")
	}
}

// Kubernetes replaces a link beside the link to the file.
func TestReloadOfKubernetes(t *testing.T) {
	w := start(t)
	dir := t.TempDir()
	version := func(name, text string) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name, "authz.yaml"), text)
	}
	link := func(target, name string) {
		t.Helper()
		tmp := filepath.Join(dir, "tmp")
		if err := os.Symlink(target, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	version("one", configuration)
	version("two", configuration+"  - {name: new, hosts: [\"*\"], methods: [GET], paths: [/new/**], public: true}\n")
	link("one", "..data")
	link("..data/authz.yaml", "authz.yaml")
	if err := w.Watch(t.Context(), filepath.Join(dir, "authz.yaml")); err != nil {
		t.Fatal(err)
	}
	link("two", "..data")
	waitFor(t, "the new rule", func() bool { return w.send(t, "caddy", get("/new/a/b", "")).allowed })
}

// A reload is no way around a rate: a rule that stays as it was keeps its counts, wherever it stands in the file.
func TestReloadKeepsRates(t *testing.T) {
	w := start(t)
	path := filepath.Join(t.TempDir(), "authz.yaml")
	first := "  - {name: new, hosts: [\"*\"], methods: [GET], paths: [/new], public: true}\n"
	for range 2 {
		w.allows(t, "caddy", get("/slow", "good"))
		w.allows(t, "caddy", get("/slow-public", ""))
	}
	for _, text := range []string{configuration, strings.Replace(configuration, "rules:\n", "rules:\n"+first, 1)} {
		write(t, path, text)
		if err := w.Reload(path); err != nil {
			t.Fatal(err)
		}
		w.refused(t, "caddy", get("/slow", "good"), 429, reasonLimited)
		w.refused(t, "caddy", get("/slow-public", ""), 429, reasonLimited)
	}
	write(t, path, strings.ReplaceAll(configuration, "rate: 2/1h", "rate: 3/1h"))
	if err := w.Reload(path); err != nil {
		t.Fatal(err)
	}
	w.allows(t, "caddy", get("/slow", "good")) // another rule
}

// No request is dropped while rules are reloaded.
func TestReloadUnderLoad(t *testing.T) {
	w := start(t)
	path := filepath.Join(t.TempDir(), "authz.yaml")
	write(t, path, configuration)
	done := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if g := w.sendHTTP(t, "caddy", get("/orders", "good").filled()); !g.allowed {
					t.Errorf("status %d", g.status)
					return
				}
			}
		})
	}
	for range 50 {
		if err := w.Reload(path); err != nil {
			t.Error(err)
		}
	}
	close(done)
	clients.Wait()
}

func TestExplain(t *testing.T) {
	w := start(t)
	w.tokens["s3cr3t"] = w.tokens["good"]
	for _, c := range []struct{ method, url, client, token, want string }{
		{"GET", "https://api.example.com/orders/7?a=b", "10.1.2.3", "s3cr3t", "rule         read\nrequires     scopes orders:read\ntoken_id     id-good\nrole         reader"},
		{"GET", "https://api.example.com/orders/7", "10.1.2.3", "s3cr3t", "decision     allowed\n"},
		{"GET", "https://api.example.com/orders", "192.0.2.66", "tennet", "decision     refused, status 403\nreason       address_not_allowed\ndetail       the token may be used from [10.0.0.0/8], not from 192.0.2.66\n"},
		{"GET", "https://api.example.com/status", "10.1.2.3", "", "requires     nothing: the rule is public\ndecision     allowed\n"},
		{"GET", "https://api.example.com/orders", "10.1.2.3", "", "reason       missing\n"},
		{"GET", "https://api.example.com/a/../b", "10.1.2.3", "s3cr3t", "rule         none\ndecision     refused, status 400\nreason       ambiguous_target\ndetail       the path contains a dot segment\n"},
		{"GET", "https://api.example.com", "10.1.2.3", "s3cr3t", "rule         none\ndecision     refused, status 403\nreason       no_rule\n"},
		{"POST", "https://api.example.com/x", "10.1.2.3", "s3cr3t", "reason       no_rule\n"},
		{"GET", "https://api.example.com/orders%2F7", "10.1.2.3", "s3cr3t", "reason       no_rule\ndetail       the path has \"%2f\": rule \"read\" matches such paths with allow_encoded_slash: true only\n"},
		{"GET", "https://api.example.com/other", "10.1.2.3", "s3cr3t", "audience     other\n"},
	} {
		var out strings.Builder
		if err := w.Explain(t.Context(), &out, c.method, c.url, c.client, c.token); err != nil {
			t.Error(err)
		}
		if !strings.Contains(out.String(), c.want) || strings.Contains(out.String(), "s3cr3t") {
			t.Errorf("%s %s:\n%s\nwant %s", c.method, c.url, &out, c.want)
		}
	}
	for _, c := range [][2]string{{"/orders", "10.1.2.3"}, {"https://api.example.com/", "here"}} {
		if err := w.Explain(t.Context(), &strings.Builder{}, "GET", c[0], c[1], ""); err == nil {
			t.Errorf("%q was explained", c)
		}
	}
}

// The files of TLS and the client's certificate are checked in TestTLS. Here: a file that is missing.
func TestCertificatesRefuse(t *testing.T) {
	if _, err := NewCertificates(config.TLS{Certificate: "none.pem", Key: "none.pem"}); err == nil {
		t.Error("a missing certificate was read")
	}
}
