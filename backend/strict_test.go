package backend

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// What is not of the field's type is refused, not converted. Vault hands numbers over as json.Number.
func TestTypesOfFields(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/reader", data{"scopes": "a", "allowed_scopes": "a,5", "token_bound_cidrs": "10.0.0.0/8"})
	for _, c := range []struct {
		path, field string
		value       any
		want        string
	}{
		{"roles/reader", "scopes", json.Number("5"), "scopes: takes a string or a list of strings, not a number"},
		{"roles/reader", "scopes", 5, "scopes: takes a string or a list of strings, not a number"},
		{"roles/reader", "scopes", true, "scopes: takes a string or a list of strings, not a boolean"},
		{"roles/reader", "scopes", data{"a": "b"}, "scopes: takes a string or a list of strings, not an object"},
		{"roles/reader", "scopes", []any{"a", json.Number("5")}, "scopes: takes a list of strings, and element 2 of the list is a number"},
		{"roles/reader", "scopes", []any{"a", []any{"b"}}, "scopes: takes a list of strings, and element 2 of the list is a list"},
		{"roles/reader", "scopes", []any{nil}, "scopes: takes a list of strings, and element 1 of the list is null"},
		{"roles/reader", "token_bound_cidrs", nil, "token_bound_cidrs: is null: leave the field out, or give a value"},
		{"roles/reader", "max_ttl", nil, "max_ttl: is null"},
		{"roles/reader", "max_ttl", "", "max_ttl: is empty: leave the field out, or give a value"},
		{"roles/reader", "max_tokens", "", "max_tokens: is empty"},
		{"roles/reader", "max_tokens", "010", "max_tokens: takes a whole number in decimal digits"},
		{"roles/reader", "max_tokens", "0x10", "max_tokens: takes a whole number in decimal digits"},
		{"roles/reader", "max_tokens", "1_0", "max_tokens: takes a whole number in decimal digits"},
		{"roles/reader", "max_ttl", "0.5s", "max_ttl: takes whole seconds"},
		{"roles/reader", "max_tokens", "many", "max_tokens: takes a whole number in decimal digits"},
		{"roles/reader", "max_ttl", "1d1", "max_ttl: takes a duration in seconds, or such as 90s, 15m, 24h or 7d"},
		{"creds/reader", "ttl", "-5m", "ttl: must not be negative"},
		{"roles/reader", "exchange", "yes", "exchange: takes true or false"},
		{"creds/reader", "ttl", "500ms", "ttl: takes whole seconds"},
		{"roles/reader", "metadata", data{"a": true}, `metadata: takes an object of strings, and "a" is a boolean`},
		{"roles/reader", "metadata", data{"a": nil}, `metadata: takes an object of strings, and "a" is null`},
		{"roles/reader", "metadata", data{"a": data{}}, `metadata: takes an object of strings, and "a" is an object`},
		{"roles/reader", "metadata", data{"a": []any{}}, `metadata: takes an object of strings, and "a" is a list`},
		{"roles/reader", "metadata", json.Number("5"), "metadata: takes an object of strings, not a number"},
		{"roles/reader", "metadata", []any{data{"a": "b"}}, "metadata: takes a list of strings, and element 1 of the list is an object"},
		{"creds/reader", "audience", "", "audience: name at least one, or leave it out"},
		{"creds/reader", "audience", []any{}, "audience: name at least one, or leave it out"},
		{"creds/reader", "token_bound_cidrs", "", `token_bound_cidrs: name at least one, or leave it out for the role's ["10.0.0.0/8"]`},
		{"creds/reader", "scopes", "", "scopes: name at least one, or leave it out"},
		{"roles/reader", "generate_lease", "", "generate_lease: is empty"},
		{"creds/reader", "ttl", "", "ttl: is empty"},
		{"roles/reader", "description", json.Number("5"), "description: takes a string, not a number"},
		{"roles/reader", "proof", false, "proof: takes a string, not a boolean"},
		{"roles/reader", "allow_privileged", 1.0, "allow_privileged: takes true or false, not a number"},
		{"creds/reader", "scopes", json.Number("5"), "scopes: takes a string or a list of strings, not a number"},
		{"config", "privileged_scopes", json.Number("5"), "privileged_scopes: takes a string or a list of strings, not a number"},
		{"config", "environment", json.Number("5"), "environment: takes a string, not a number"},
		{"introspect", "required_scopes", json.Number("5"), "required_scopes: takes a string or a list of strings, not a number"},
	} {
		d := data{c.field: c.value}
		if c.path == "introspect" {
			d["token"] = "x"
		}
		e.refused(logical.UpdateOperation, c.path, d, c.want)
	}
	for field, value := range map[string]any{
		"rate_limit": true, "max_concurrent": 0.5, "settings": []any{}, "credential": "null",
	} {
		e.refused(logical.UpdateOperation, "connections/x", data{"provider": "gitea", "url": "https://x.example.com", field: value}, field+": takes a")
	}
	e.refused(logical.UpdateOperation, "connections/x", data{"rate_limit": ""}, "rate_limit: is empty")
	e.refused(logical.ListOperation, "tokens", data{"limit": true}, "limit: takes a number, not a boolean")
	for _, d := range []data{
		{"scopes": "a", "ttl": "60", "max_ttl": json.Number("3600"), "allow_privileged": "true"},
		{"scopes": []any{"a"}, "ttl": "1m", "allow_privileged": false},
		{"scopes": []string{"a"}, "audience": []any{}, "metadata": []any{"a=b", "c=d"}},
	} {
		e.write("roles/reader", d)
	}
	e.list("tokens", data{"limit": "10"})
	e.write("roles/reader", data{"max_tokens": "10", "metadata": data{"n": json.Number("5e3"), "s": "true"}})
	if r := e.read("roles/reader"); r["max_tokens"] != 10 || fmt.Sprint(r["metadata"]) != "map[n:5e3 s:true]" {
		t.Error(r)
	}
}

// An error stands in the audit log in plain text. It must not show the value, as the framework does.
func TestErrorsDoNotShowValues(t *testing.T) {
	e := newEngine(t)
	for _, path := range []string{"introspect", "lookup", "revoke"} {
		for _, value := range []any{[]any{"secret-1", "secret-2"}, data{"secret-1": "secret-2"}} {
			resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: path, Data: data{"token": value}})
			if text := fmt.Sprint(resp, err); strings.Contains(text, "secret-1") || !strings.Contains(text, "token: takes a string, not a") {
				t.Errorf("%s: %s", path, text)
			}
		}
	}
}

// Vault asks whether something exists before it writes: a value of the wrong type must not fail there, where the error
// would be the framework's.
func TestExistenceIsAMatterOfNames(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/reader", data{"scopes": "a"})
	for name, want := range map[string]bool{"reader": true, "writer": false} {
		req := &logical.Request{Operation: logical.CreateOperation, Path: "roles/" + name, Storage: e.storage, Data: data{"max_tokens": "many", "name": "other"}}
		if found, exists, err := e.b.HandleExistenceCheck(t.Context(), req); !found || exists != want || err != nil {
			t.Errorf("%s: %v, %v, %v", name, found, exists, err)
		}
	}
}

// Every path but those of OAuth rejects unknown fields: clients of OAuth may send parameters of other extensions.
func TestEveryPathIsStrict(t *testing.T) {
	for _, path := range newEngine(t).b.Paths {
		for operation, handler := range path.Operations {
			if _, is := handler.(strictHandler); is == strings.HasPrefix(path.Pattern, oauthPrefix) {
				t.Errorf("%s %s: strict is %v", operation, path.Pattern, is)
			}
		}
	}
}
