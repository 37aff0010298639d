package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

// configuration writes a configuration for an issuer, and returns its path.
func configuration(t *testing.T, i *verifytest.Issuer, rule string) string {
	t.Helper()
	dir := t.TempDir()
	vault := i.Config().Vault
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(vault.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	text := "listen: {http: 127.0.0.1:0}\ngateways: [caddy]\nvault: {address: " + vault.Address + ", token_file: " + filepath.Join(dir, "token") +
		"}\naudience: " + verifytest.Audience + "\nrules:\n  - {hosts: ['*'], methods: [GET], paths: [/orders], " + rule + "}\n"
	path := filepath.Join(dir, "authz.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheckConfig(t *testing.T) {
	i := verifytest.New(t)
	var out strings.Builder
	good := configuration(t, i, "scopes: [a]")
	if err := run(options{config: good, check: true}, nil, &out); err != nil || out.String() != good+" is good: 1 rules\n" {
		t.Errorf("%v, %s", err, &out)
	}
	bad := configuration(t, i, "scope: [a]")
	if err := run(options{config: bad, check: true}, nil, &out); err == nil || !strings.Contains(err.Error(), bad+`:6: there is no field "scope" here: want one of name, hosts,`) {
		t.Error(err)
	} else if strings.Contains(err.Error(), "nothing of the file") {
		t.Errorf("a check uses no file: %v", err)
	}
}

func TestSchema(t *testing.T) {
	var out strings.Builder
	if err := run(options{schema: true}, nil, &out); err != nil || !json.Valid([]byte(out.String())) {
		t.Error(err)
	}
}

// An explanation is the decision of the library on a token of the engine.
func TestExplain(t *testing.T) {
	i := verifytest.New(t)
	path := configuration(t, i, "scopes: [a]")
	good := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
	narrow := i.Opaque(t, verifytest.Token{Scopes: []string{"b"}})
	bound := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}, CIDRs: []string{"10.0.0.0/8"}})
	for _, c := range []struct{ token, client, want string }{
		{good, "127.0.0.1", "decision     allowed"},
		{narrow, "127.0.0.1", "insufficient_scope"},
		{bound, "10.1.2.3", "decision     allowed"},
		{bound, "127.0.0.1", "address_not_allowed"},
		{"", "127.0.0.1", "reason       missing"},
		{"noise", "127.0.0.1", "reason       malformed"},
	} {
		var out strings.Builder
		err := run(options{config: path, explain: "GET https://api.test/orders", client: c.client}, strings.NewReader(c.token+"\n"), &out)
		if err != nil || !strings.Contains(out.String(), c.want) {
			t.Errorf("%v\n%s\nwant %s", err, &out, c.want)
		}
		if c.token != "" && strings.Contains(out.String(), c.token) {
			t.Errorf("the explanation has the token:\n%s", &out)
		}
	}
	if err := run(options{config: path, explain: "/orders", client: "127.0.0.1"}, strings.NewReader(""), &strings.Builder{}); err == nil {
		t.Error("a request without a method was explained")
	}
}
