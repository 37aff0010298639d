package server

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3" // of envoy.yaml
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/scanner"
)

const repository = "../../../../"

// The configurations that docs/gateway.md shows are the files of bootstrap/authz, which the acceptance tests run.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile(repository + "docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(repository + "bootstrap/authz/*")
	if err != nil || len(files) < 9 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if name := filepath.Base(path); !strings.Contains(string(text), name) {
			t.Errorf("docs/gateway.md does not mention %s", name)
		} else if !strings.HasSuffix(name, ".service") && !strings.Contains(string(text), "\n"+string(content)+"```\n") {
			t.Errorf("docs/gateway.md shows %s otherwise", name)
		}
	}
	if _, err := config.Load(repository + "bootstrap/authz/authz.yaml"); err != nil {
		t.Error(err)
	}

	// Every metric and every field of a rule is in the docs, and what the docs name exists.
	w := start(t)
	w.allows(t, "caddy", get("/orders", "good").with("X-Token-Id: x"))
	scanners, err := scanner.New(nil, &config.Scanner{}, slog.New(slog.DiscardHandler), w.registry)
	if err != nil {
		t.Fatal(err)
	}
	scanners.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	families, err := prometheus.Gatherers{w.registry}.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, family := range families {
		names = append(names, family.GetName())
	}
	for _, name := range regexp.MustCompile("`(?:apitoken_authz)?(_[a-z_]+)`").FindAllStringSubmatch(string(text), -1) {
		if full := "apitoken_authz" + name[1]; !slices.Contains(names, full) {
			t.Errorf("there is no metric %s", full)
		}
	}
	var schema struct {
		Properties map[string]struct {
			Properties map[string]any
			Items      struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(config.Schema, &schema); err != nil {
		t.Fatal(err)
	}
	for field, object := range schema.Properties {
		if !strings.Contains(string(text), "`"+field) && field != "rules" {
			t.Errorf("docs/gateway.md does not name the setting %s", field)
		}
		for rule := range object.Items.Properties {
			if !strings.Contains(string(text), "| `"+rule+"` |") {
				t.Errorf("docs/gateway.md does not name the field %s of a rule", rule)
			}
		}
	}
}

// envoy.yaml is a configuration by Envoy's own types and rules.
func TestEnvoyConfiguration(t *testing.T) {
	text, err := os.ReadFile(repository + "bootstrap/authz/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := yaml.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var b bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(asJSON, &b); err != nil {
		t.Fatal(err)
	}
	if err := b.ValidateAll(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(string(text), "failure_mode_allow: false") {
		t.Error("errors of the authorizer must not let requests pass")
	}
}
