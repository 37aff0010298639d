package backend

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// Every path must say what it is, in path-help and in the OpenAPI document.
func TestEveryPathIsDocumented(t *testing.T) {
	e := newEngine(t)
	for _, path := range e.b.Paths {
		if path.HelpSynopsis == "" || path.HelpDescription == "" {
			t.Errorf("%s has no help", path.Pattern)
		}
		if path.DisplayAttrs == nil || path.DisplayAttrs.OperationPrefix != operationPrefix {
			t.Errorf("%s has no operation prefix", path.Pattern)
		}
		for name, field := range path.Fields {
			if !strings.HasSuffix(field.Description, ".") {
				t.Errorf("%s: field %s is described as %q", path.Pattern, name, field.Description)
			}
		}
		for operation, handler := range path.Operations {
			properties := handler.Properties()
			if properties.Summary == "" || len(properties.Responses) == 0 {
				t.Errorf("%s: %s has no summary or no responses", path.Pattern, operation)
			}
		}
	}
}

func TestOpenAPI(t *testing.T) {
	e := newEngine(t)
	resp, err := e.request(&logical.Request{Operation: logical.HelpOperation, Path: "", Data: data{"requestResponsePrefix": "apitoken"}})
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(resp.Data["openapi"])
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(encoded, &document); err != nil {
		t.Fatal(err)
	}
	// Clients are generated from these names: a change of one is a visible decision.
	want := map[string]string{
		"get /config":            "apitoken-read-configuration",
		"post /config":           "apitoken-configure",
		"get /roles/":            "apitoken-list-roles",
		"get /roles/{name}":      "apitoken-read-role",
		"post /roles/{name}":     "apitoken-write-role",
		"delete /roles/{name}":   "apitoken-delete-role",
		"get /creds/{role}":      "apitoken-generate-credentials",
		"post /creds/{role}":     "apitoken-generate-credentials-with-parameters",
		"post /introspect":       "apitoken-introspect-token",
		"post /lookup":           "apitoken-look-up-token",
		"post /revoke":           "apitoken-revoke-token",
		"post /leaked":           "apitoken-report-leaked-tokens",
		"get /tokens/":           "apitoken-list-issued-tokens",
		"get /tokens/{token_id}": "apitoken-read-issued-token",
		"get /keys/":             "apitoken-list-keys",
		"post /keys/rotate":      "apitoken-rotate-key",
		"delete /keys/{key}":     "apitoken-destroy-key",

		"get /report/stale":          "apitoken-read-stale-report",
		"get /report/orphans":        "apitoken-read-orphans-report",
		"get /report/summary":        "apitoken-read-summary",
		"get /report/broad":          "apitoken-read-broad-report",
		"get /report/right-size":     "apitoken-read-right-size-report",
		"get /report/unowned":        "apitoken-read-unowned-report",
		"post /attest/{kind}/{name}": "apitoken-attest-entry",

		"get /alerts/":                      "apitoken-list-alerts",
		"get /alerts/{name}":                "apitoken-read-alert",
		"post /alerts/{name}":               "apitoken-write-alert",
		"delete /alerts/{name}":             "apitoken-delete-alert",
		"post /alerts/{name}/test":          "apitoken-test-alert",
		"post /alerts/{name}/rotate-secret": "apitoken-rotate-alert-secret",

		"get /feed":                                   "apitoken-read-feed",
		"post /usage":                                 "apitoken-report-usage",
		"get /config/detection":                       "apitoken-read-detection-configuration",
		"post /config/detection":                      "apitoken-configure-detection",
		"get /findings/":                              "apitoken-list-findings",
		"get /findings/{id}":                          "apitoken-read-finding",
		"post /findings/{id}":                         "apitoken-acknowledge-finding",
		"post /oauth/token":                           "apitoken-request-oauth-token",
		"post /oauth/introspect":                      "apitoken-introspect-oauth-token",
		"post /oauth/revoke":                          "apitoken-revoke-oauth-token",
		"get /oauth/jwks":                             "apitoken-read-jwks",
		"get /oauth/status":                           "apitoken-read-status-lists",
		"get /oauth/status/{number}":                  "apitoken-read-status-list",
		"get /.well-known/openid-configuration":       "apitoken-read-openid-configuration",
		"get /.well-known/oauth-authorization-server": "apitoken-read-oauth-authorization-server",

		"get /connections/":                  "apitoken-list-connections",
		"get /connections/{name}":            "apitoken-read-connection",
		"post /connections/{name}":           "apitoken-write-connection",
		"delete /connections/{name}":         "apitoken-delete-connection",
		"post /connections/{name}/check":     "apitoken-check-connection",
		"post /connections/{name}/reconcile": "apitoken-start-reconciliation",
		"get /connections/{name}/reconcile":  "apitoken-read-reconciliation",
		"post /rotate-root/{name}":           "apitoken-rotate-root-credential",
		"get /static-roles/":                 "apitoken-list-static-roles",
		"get /static-roles/{name}":           "apitoken-read-static-role",
		"post /static-roles/{name}":          "apitoken-write-static-role",
		"delete /static-roles/{name}":        "apitoken-delete-static-role",
		"get /static-creds/{name}":           "apitoken-read-static-credentials",
		"post /rotate-role/{name}":           "apitoken-rotate-static-role",
		"get /providers/":                    "apitoken-list-providers",
		"get /providers/{name}":              "apitoken-read-provider",
		"post /providers/{name}":             "apitoken-write-provider",
		"delete /providers/{name}":           "apitoken-delete-provider",
		"post /suspend":                      "apitoken-suspend-token",
		"post /resume":                       "apitoken-resume-token",
		"get /suspended/":                    "apitoken-list-suspensions",
		"get /broken/":                       "apitoken-list-broken-entries",
		"get /metrics":                       "apitoken-read-metrics",
		"delete /broken/{key}":               "apitoken-delete-broken-entry",
	}
	got := make(map[string]string)
	for path, item := range document.Paths {
		for method, raw := range item {
			var operation struct{ OperationID string }
			if json.Unmarshal(raw, &operation) == nil && operation.OperationID != "" {
				got[method+" "+path] = operation.OperationID
			}
		}
	}
	for call, id := range want {
		if got[call] != id {
			t.Errorf("%s has the operation id %q, want %q", call, got[call], id)
		}
		delete(got, call)
	}
	if len(got) > 0 {
		t.Errorf("not expected: %v", got)
	}
}

func TestUnknownFieldsAreRefused(t *testing.T) {
	e := newEngine(t)
	e.refused(logical.UpdateOperation, "roles/reader", data{"scopes": "a", "token_bound_cidr": "10.0.0.0/8"}, "token_bound_cidr: is not a field of this path")
	e.refused(logical.UpdateOperation, "roles/reader", data{"scopes": "a", "bound_region": "CH"}, "bound_region: is not a field")
	e.refused(logical.UpdateOperation, "roles/reader", data{"bound_region": "CH"}, "metadata, owner, params, proof") // "name" is part of the path
	e.refused(logical.UpdateOperation, "rotate-role/box", data{"overlap": "1h"}, "overlap: is not a field of this path, which takes no fields")
	if e.read("roles/reader") != nil {
		t.Error("the role was written")
	}
}

// sealingKey is where storage has the current sealing key.
func (e *engine) sealingKey() string {
	return native.KeysPrefix + "opaque/" + e.b.Loaded().Sealing.Keys().Current().Name
}

// What another node writes is seen here: Vault tells of each key.
func TestInvalidate(t *testing.T) {
	active := newEngine(t)
	active.write("roles/reader", data{"scopes": "a,b"})
	standby := mountOn(t, active.storage, active.system)
	before := active.creds("reader", nil)
	standby.b.InvalidateKey(context.Background(), active.sealingKey())
	standby.expect("active", before.token, nil)

	var written []string
	invalidate := func(keys ...string) {
		for _, key := range keys {
			standby.b.InvalidateKey(context.Background(), key)
		}
		written = append(written, keys...)
	}
	active.write("config", data{"environment": "production", "token_prefix": "new"})
	invalidate(native.ConfigKey)
	invalidate(active.sealingKey())
	active.write("keys/rotate", nil)
	invalidate(active.sealingKey())
	active.write("roles/reader", data{"scopes": "a"})
	invalidate(role.Prefix + "reader")
	after := active.creds("reader", nil)
	active.write("revoke", data{"token": before.token})
	active.b.Flush(context.Background())
	keys, err := logical.CollectKeysWithPrefix(context.Background(), active.storage, "ledger/")
	if err != nil {
		t.Fatal(err)
	}
	invalidate(keys...)

	standby.expect("revoked", before.token, nil)
	standby.expect("insufficient_scope", after.token, data{"required_scopes": "b"})
	standby.expect("active", after.token, data{"required_scopes": "a"})
	if env := standby.read("config")["environment"]; env != "production" {
		t.Errorf("environment %q", env)
	}
	if n := len(standby.list("tokens/", nil)); n != 2 {
		t.Errorf("%d tokens in the inventory", n)
	}

	// Every key that is in storage is one that Invalidate knows.
	all, err := logical.CollectKeys(context.Background(), active.storage)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range all {
		found := false
		for _, known := range written {
			found = found || known == key
		}
		if !found {
			t.Errorf("nothing has invalidated %q", key)
		}
	}
}

// Rows that storage has refused are written within a minute, also where no further token is issued.
func TestRefusedRowsAreWrittenLater(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	e.creds("reader", nil)
	c := e.creds("reader", nil)
	e.storage.broken.Store(true)
	e.b.Flush(t.Context())
	e.storage.broken.Store(false)
	e.minute()
	if listed := mountOn(t, e.storage, e.system).list("tokens/", nil); !slices.Contains(listed, c.id) {
		t.Errorf("after a crash %q are listed, and not %s", listed, c.id)
	}
}

// Key material must be in seal-wrapped storage, and no token in storage at all.
func TestStorage(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	c := e.creds("reader", nil)
	if _, err := e.renew(c, 0); err != nil {
		t.Fatal(err)
	}
	e.write("revoke", data{"token": c.token})
	e.b.Flush(context.Background())

	secret := e.b.Loaded().Sealing.Keys().Current().Secret
	encodedSecret, _ := json.Marshal(secret)
	keys, err := logical.CollectKeys(context.Background(), e.storage)
	if err != nil || len(keys) < 4 {
		t.Fatal(keys, err)
	}
	for _, key := range keys {
		entry, err := e.storage.Get(context.Background(), key)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(entry.Value), c.token) {
			t.Errorf("%s holds the token", key)
		}
		wrapped := false
		for _, special := range e.b.PathsSpecial.SealWrapStorage {
			if strings.HasSuffix(special, "/") {
				wrapped = wrapped || strings.HasPrefix(key, special)
			} else {
				wrapped = wrapped || key == special
			}
		}
		holds := strings.Contains(string(entry.Value), string(encodedSecret)) || strings.Contains(string(entry.Value), string(secret))
		if holds != wrapped {
			t.Errorf("%s: holds key material %v, is seal-wrapped %v", key, holds, wrapped)
		}
	}
}

// Storage that fails leaves everything as it was.
func TestFailingStorage(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a,b"})
	c := e.creds("reader", nil)

	e.storage.Underlying().FailPut(true)
	e.storage.Underlying().FailDelete(true)
	for path, d := range map[string]data{
		"roles/reader": {"scopes": "a"},
		"roles/writer": {"scopes": "a"},
		"config":       {"token_prefix": "new"},
		"keys/rotate":  nil,
		"revoke":       {"token": c.token},
	} {
		if resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: path, Data: d}); err == nil {
			t.Errorf("%s: no error, %v", path, resp)
		}
	}
	if _, err := e.request(&logical.Request{Operation: logical.DeleteOperation, Path: "roles/reader"}); err == nil {
		t.Error("the role is deleted, says the engine")
	}
	if _, err := e.renew(c, 0); err == nil {
		t.Error("the token is renewed, says the engine")
	}
	if _, err := e.request(&logical.Request{Operation: logical.RevokeOperation, Path: "creds/reader", Secret: c.secret}); err == nil {
		t.Error("the lease is revoked, says the engine")
	}
	for name, e := range map[string]*engine{"before": e, "after a restart": mountOn(t, e.storage, e.system)} {
		e.expect("active", c.token, data{"required_scopes": "b"})
		if n := len(e.list("roles/", nil)); n != 1 {
			t.Errorf("%s: %d roles", name, n)
		}
		if n := len(e.list("keys/", nil)); n != 1 {
			t.Errorf("%s: %d keys", name, n)
		}
	}

	// A mount whose first key cannot be stored issues nothing.
	e.storage.Underlying().FailPut(false)
	fresh := newEngine(t)
	fresh.write("roles/reader", data{"scopes": "a"})
	fresh.storage.Underlying().FailPut(true)
	if resp, err := fresh.request(&logical.Request{Operation: logical.ReadOperation, Path: "creds/reader"}); err == nil {
		t.Errorf("issued with a key that is not stored: %v", resp)
	}
}

func TestStorageThatCannotBeReadIsAnError(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	e.creds("reader", nil)
	for _, key := range []string{native.ConfigKey} {
		entry, err := e.storage.Get(context.Background(), key)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.storage.Put(context.Background(), &logical.StorageEntry{Key: key, Value: []byte("{damaged")}); err != nil {
			t.Fatal(err)
		}
		b, err := Factory(context.Background(), &logical.BackendConfig{StorageView: e.storage, System: e.system})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Initialize(context.Background(), &logical.InitializationRequest{Storage: e.storage}); err == nil && entry != nil {
			t.Errorf("a damaged %s was not noticed", key)
		}
		b.Cleanup(context.Background())
		if entry == nil {
			_ = e.storage.Delete(context.Background(), key)
		} else if err := e.storage.Put(context.Background(), entry); err != nil {
			t.Fatal(err)
		}
	}
}

// The docs have every path and every field, of requests and of answers: docs/oauth.md what speaks OAuth, docs/api.md the rest.
func TestDocs(t *testing.T) {
	sections := make(map[string]string) // title -> text
	for _, file := range []string{"../docs/api.md", "../docs/oauth.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range strings.Split(string(text), "\n## ") {
			title, _, _ := strings.Cut(s, "\n")
			sections[title] = s
		}
	}
	for _, path := range newEngine(t).b.Paths {
		name := regexp.MustCompile(`\(\?P<(\w+)>.*`).ReplaceAllString(path.Pattern, ":$1")
		name = strings.NewReplacer("/?$", "", `\`, "").Replace(name)
		section, found := sections[name]
		for title, s := range sections { // a list is with what it lists, keys/rotate with keys
			if !found && (strings.HasPrefix(title, name+"/:") || strings.HasPrefix(name, title+"/")) {
				section = s
			}
		}
		if !strings.Contains(section, "    curl ") || (!strings.Contains(section, "    vault ") && !strings.HasPrefix(name, "oauth/") && name[0] != '.') {
			t.Errorf("%s has no section with a CLI and a curl example", name)
		}
		fields := make(map[string]*framework.FieldSchema) // that the path takes, and that it returns
		maps.Copy(fields, path.Fields)
		for _, operation := range path.Operations {
			for _, response := range operation.Properties().Responses[http.StatusOK] {
				maps.Copy(fields, response.Fields)
			}
		}
		for field := range fields {
			if field != "keys" && field != "key_info" && !strings.Contains(name, ":"+field) && !strings.Contains(section, "`"+field+"`") {
				t.Errorf("%s: the field %s is not in its section", name, field)
			}
		}
	}
}
