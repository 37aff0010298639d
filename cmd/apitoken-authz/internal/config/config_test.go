package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/target"
)

const good = `listen: {http: 127.0.0.1:9191}
gateways: [nginx]
vault:
  address: https://vault.example.com:8200
  token_file: /run/token
audience: https://api.example.com
clock_skew: 10s
rules:
  - name: status
    hosts: ["*"]
    methods: [GET]
    paths: [/status]
    public: true
    rate: 10/1s
  - hosts: [api.example.com]
    methods: ["*"]
    paths: [/orders, /orders/**]
    scopes: [orders:read]
`

func TestParse(t *testing.T) {
	f, err := Parse("authz.yaml", []byte(good+"dpop: {max_proofs: 5000}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if f.ClockSkew != 10*time.Second || f.RuleSet().Len() != 2 || f.IdentityHeaders != "strip" || f.Log.Access != "all" || f.Log.Level != "info" {
		t.Errorf("%+v", f)
	}
	c, err := f.Verifier(nil)
	if err != nil || c.Vault.TokenFile != "/run/token" || c.Audience != "https://api.example.com" || c.ClockSkew != 10*time.Second || c.DPoP.MaxProofs != 5000 {
		t.Errorf("%+v, %v", c, err)
	}
}

// Each error has the line of what is wrong. A case replaces a text of the good file.
func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"[nginx]", "[nginx, apache]", `authz.yaml:2: gateways[1]: "apache" is not a kind of gateway`},
		{"[nginx]", "[nginx, nginx]", `authz.yaml:2: gateways[1]: "nginx" is listed twice`},
		{"gateways: [nginx]", "gateways: []", "authz.yaml:2: gateways: is required"},
		{"[nginx]", "[nginx, envoy]", `authz.yaml:1: listen.grpc: is required for gateway "envoy"`},
		{"9191}", "9191, grpc: 127.0.0.1:9192}", `listen.grpc: is only for gateway "envoy"`},
		{"127.0.0.1:9191", "localhost", `authz.yaml:1: listen.http: "localhost" is not an address with a port`},
		{"http: ", "admin: ", "authz.yaml:1: listen.http: is required"},
		{"audience: https://api.example.com\n", "", "audience: is required"},
		{"gateways: [nginx]", "gateways: [nginx]\ntrusted_proxies: [10.0.0.0/8, 0.0.0.0/0]", `authz.yaml:3: trusted_proxies[1]: 0.0.0.0/0 are all addresses`},
		{"gateways: [nginx]", "gateways: [nginx]\ntrusted_proxies: ['::/0']", `trusted_proxies[0]: ::/0 are all addresses`},
		{"gateways: [nginx]", "gateways: [nginx]\ngateway_addresses: [0.0.0.0/0]", `gateway_addresses[0]: 0.0.0.0/0 are all addresses`},
		{"gateways: [nginx]", "gateways: [nginx]\ngateway_addresses: [proxy]", `gateway_addresses[0]: "proxy" is not an address range`},
		{"gateways: [nginx]", "gateways: [nginx]\ntrusted_proxies: [10.1.2.3/8]", `trusted_proxies[0]: "10.1.2.3/8" is not an address range: it has bits set beyond its length, did you mean 10.0.0.0/8?`},
		{"gateways: [nginx]", "gateways: [nginx]\ngateway_addresses: [" + strings.Repeat("10.0.0.1,", 1001) + "]", "authz.yaml:3: gateway_addresses: 1001 ranges given, at most 1000 are allowed"},
		{"gateways: [nginx]", "gateways: [nginx]\nfail_open: true", `authz.yaml:3: there is no field "fail_open" here`},
		{"gateways: [nginx]", "gateways: [nginx]\nidentity_headers: keep", `identity_headers: "keep" is not known`},
		{"gateways: [nginx]", "gateways: [nginx]\nlog: {level: loud}", `log.level: "loud" is not a level`},
		{"gateways: [nginx]", "gateways: [nginx]\nlog: {access: some}", `log.access: "some" is not known`},
		{"gateways: [nginx]", "gateways: [nginx]\nmax_age: 2m", "authz.yaml:3: max_age: must be between 0s and 1m0s"},
		{"gateways: [nginx]", "gateways: [nginx]\nmax_tokens: many", `authz.yaml:3: want a whole number, not "many"`},
		{"gateways: [nginx]", "gateways: [nginx]\ndpop: {max_proofs: -1}", "authz.yaml:3: dpop.max_proofs: must be between 0 and 10000000"},
		{"gateways: [nginx]", "gateways: [nginx]\ndpop:\n  max_proofs: 10000001", "authz.yaml:4: dpop.max_proofs: must be between 0 and 10000000"},
		{"gateways: [nginx]", "gateways: [nginx]\ndpop: {max_proofs: many}", `authz.yaml:3: want a whole number, not "many"`},
		{"gateways: [nginx]", "gateways: [nginx]\nfeed_from: {ca_cert: x}", "authz.yaml:3: feed_from.url: is required"},
		{"gateways: [nginx]", "gateways: [nginx]\nrelay: {listen: here, certificate: c, key: k, client_ca: a}", `authz.yaml:3: relay.listen: "here" is not an address`},
		{"gateways: [nginx]", "gateways: [nginx]\nrelay: {listen: '127.0.0.1:1', certificate: c, key: k}", "authz.yaml:3: relay: certificate, key and client_ca are required"},
		{"gateways: [nginx]", "gateways: [nginx]\nscanner: {listen: here}", `authz.yaml:3: scanner.listen: "here" is not an address with a port`},
		{"gateways: [nginx]", "gateways: [nginx]\nscanner: {listen: '10.0.0.5:9194'}", `authz.yaml:3: scanner.listen: "10.0.0.5:9194" is not on loopback`},
		{"gateways: [nginx]", "gateways: [nginx]\nscanner: {listen: ':9194'}", `scanner.listen: ":9194" is not on loopback`},
		{"gateways: [nginx]", "gateways: [nginx]\nscanner: {listen: 'localhost:9194', key: k}", "authz.yaml:3: scanner: certificate and key are both required, or neither"},
		{"gateways: [nginx]", "gateways: [nginx]\ntls: {key: k}", "authz.yaml:3: tls: certificate and key"},
		{"gateways: [nginx]", "gateways: [caddy]\nclient_certificates: true", "authz.yaml:3: client_certificates: needs certificate_header"},
		{"gateways: [nginx]", "gateways: [nginx]\nclient_certificates: true\ncertificate_header: {name: X-Client-Cert}", "authz.yaml:4: certificate_header: is only for gateways caddy and traefik"},
		{"gateways: [nginx]", "gateways: [caddy]\ncertificate_header: {name: X-Client-Cert}", "authz.yaml:3: certificate_header: needs client_certificates: true"},
		{"gateways: [nginx]", "gateways: [caddy]\nclient_certificates: true\ncertificate_header: {encoding: pem}", `certificate_header.name: "" is not the name of a header`},
		{"gateways: [nginx]", "gateways: [caddy]\nclient_certificates: true\ncertificate_header: {name: X_Client_Cert}", `certificate_header.name: "X_Client_Cert" is not the name of a header`},
		{"gateways: [nginx]", "gateways: [caddy]\nclient_certificates: true\ncertificate_header: {name: X-Client-Cert, encoding: der}", `certificate_header.encoding: "der" is not known: want base64 or pem`},
		{"gateways: [nginx]", "gateways: [caddy]\nclient_certificates: true\ncertificate_header: {name: x-forwarded-uri}", `certificate_header.name: X-Forwarded-Uri has another meaning here`},
		{"gateways: [nginx]", "gateways: [caddy]\nclient_certificates: true\ncertificate_header: {name: x-token-id}", `certificate_header.name: X-Token-Id has another meaning here`},
		{"gateways: [nginx]", "gateways: [caddy, traefik]\nclient_certificates: true\ncertificate_header: {name: X-Client-Cert}", `certificate_header.name: must be X-Forwarded-Tls-Client-Cert for gateway traefik`},
		{"https://vault.example.com:8200", "vault.example.com:8200", `vault.address: "vault.example.com:8200" is not a URL with https://, such as https://vault.example.com:8200`},
		{"https://vault.example.com:8200", "vault.example.com", `vault.address: "vault.example.com" is not a URL with https://`},
		{"https://vault.example.com:8200", "https://:8200", `vault.address: "https://:8200" is not a URL with https://`},
		{"token_file: /run/token", "token_file: /run/token\n  adress: https://vault", `there is no field "adress" here: want one of address, namespace, mount, ca_cert, token_file, approle, kubernetes, jwt`},
		{"gateways: [nginx]", "gateways: [nginx]\nissuer: vault.example.com", `authz.yaml:3: issuer: "vault.example.com" is not a URL`},
		{"[GET]", "[GET]\n    scope: [a]", `authz.yaml:12: there is no field "scope" here: want one of name, hosts, methods, paths, allow_encoded_slash, public, any_token, scopes, audience, rate`},
		{"token_file: /run/token", "approle: {role_id: a}\n  token_file: x", "authz.yaml:3: vault: want exactly one of token_file, approle, kubernetes and jwt, not 2"},
		{"  token_file: /run/token\n", "", "authz.yaml:3: vault: want exactly one"},
		{"10s", "soon", `authz.yaml:7: want a duration such as 30s, not "soon"`},
		{"public: true\n    rate", "public: maybe\n    rate", `authz.yaml:13: want true or false, not "maybe"`},
		{"[GET]", "[get]", `authz.yaml:11: rules[0].methods[0]: "get" is not a method`},
		{"[GET]", "GET", `authz.yaml:11: want a list of texts, not "GET"`},
		{"[/status]", "[/status, /a/../b]", `authz.yaml:12: rules[0].paths[1]: "/a/../b" the path contains a dot segment`},
		{"rate: 10/1s", "rate: 10 per second", "authz.yaml:14: rules[0].rate: \"10 per second\" is not a rate"},
		{"public: true\n", "public: true\n    scopes: [a]\n", "authz.yaml:13: rules[0].public: a public rule looks at no token"},
		{"    scopes: [orders:read]\n", "", "authz.yaml:15: rules[1]: want scopes, or any_token: true, or public: true"},
		{"scopes: [orders:read]", "scopes: [orders:read]\n    any_token: true", "rules[1].any_token: scopes are required as well"},
		{"[orders:read]", "['orders:*']", `authz.yaml:18: rules[1].scopes[0]: "orders:*" is a pattern`},
		{"[orders:read]", "['a b']", `authz.yaml:18: rules[1].scopes: scope "a b" contains a space`},
		{"[api.example.com]", "[api.example.com:443]", "authz.yaml:15: rules[1].hosts: \"api.example.com:443\" is not a host name"},
		{"  - hosts: [api.example.com]\n", "  - name: status\n    hosts: [api.example.com]\n", `authz.yaml:15: rules[1].name: "status" is the name of rules[0] as well`},
		{"    hosts: [\"*\"]\n", "", "authz.yaml:9: rules[0].hosts: is required"},
		{"    methods: [GET]\n    paths: [/status]", "    methods: ['*']\n    paths: [/**]", "authz.yaml:15: rules[1]: is never reached: rules[0] matches every request"},
		{"rules:", "rules: []\nmore:", "there is no field \"more\""},
		{"audience: https", "audience: x\naudience: https", "already defined"},
		{good, "", "the file is empty"},
		{good, good + "---\n" + good, "more than one document"},
		{"gateways: [nginx]", "gateways: [nginx", "authz.yaml"},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if text == good {
			t.Errorf("%q is not in the good file", c.old)
		}
		_, err := Parse("authz.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "config.") {
			t.Errorf("%q for %q:\n%v\nwant %s", c.new, c.old, err, c.want)
		}
	}
}

func TestParseScanner(t *testing.T) {
	for text, tls := range map[string]bool{
		"{listen: 'localhost:9194'}":                             false,
		"{listen: '[::1]:9194', secret_file: s, github_keys: g}": false,
		"{listen: ':9194', certificate: c, key: k}":              true,
	} {
		f, err := Parse("authz.yaml", []byte(good+"scanner: "+text+"\n"))
		if err != nil || (f.Scanner.TLS() != nil) != tls {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]access.Rate{
		"10/1s":           {Count: 10, Burst: 10, Window: time.Second},
		"100/90s burst 7": {Count: 100, Burst: 7, Window: 90 * time.Second},
	} {
		f, err := Parse("authz.yaml", []byte(strings.Replace(good, "rate: 10/1s", "rate: "+text, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if got := f.RuleSet().Match("api.example.com", "GET", &target.Target{Segments: []string{"status"}}); got == nil || got.Rate != want {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

// The header of a certificate has a canonical name and an encoding.
func TestCertificateHeader(t *testing.T) {
	text := strings.Replace(good, "gateways: [nginx]", "gateways: [nginx, traefik]\nclient_certificates: true\ncertificate_header: {name: x-forwarded-tls-client-cert}", 1)
	f, err := Parse("authz.yaml", []byte(text))
	if err != nil || *f.CertificateHeader != (CertificateHeader{Name: "X-Forwarded-Tls-Client-Cert", Encoding: EncodingBase64}) {
		t.Errorf("%+v, %v", f, err)
	}
}

// Addresses of Vault that the client of Vault takes.
func TestVaultAddress(t *testing.T) {
	for _, address := range []string{"https://vault.example.com:8200", "https://vault.example.com/prefix/", "http://127.0.0.1:8200", "https://[::1]:8200", "unix:///run/vault.sock"} {
		text := strings.Replace(good, "https://vault.example.com:8200", address, 1)
		if _, err := Parse("authz.yaml", []byte(text)); err != nil {
			t.Error(err)
		}
	}
}

// schema.json has the fields of the Go types, and no others.
func TestSchema(t *testing.T) {
	var schema any
	if err := json.Unmarshal(Schema, &schema); err != nil {
		t.Fatal(err)
	}
	compare(t, "", reflect.TypeFor[File](), schema)
}

func compare(t *testing.T, place string, typ reflect.Type, schema any) {
	object := schema.(map[string]any)
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Struct {
		compare(t, place+"[]", typ.Elem(), object["items"])
		return
	}
	if typ.Kind() != reflect.Struct {
		return
	}
	if object["additionalProperties"] != false {
		t.Errorf("%s allows more properties", place)
	}
	var fields, properties []string
	for i := range typ.NumField() {
		name := typ.Field(i).Tag.Get("yaml")
		if name == "" {
			continue
		}
		fields = append(fields, name)
		if property, ok := object["properties"].(map[string]any)[name]; ok {
			compare(t, place+"."+name, typ.Field(i).Type, property)
		}
	}
	for name := range object["properties"].(map[string]any) {
		properties = append(properties, name)
	}
	slices.Sort(fields)
	slices.Sort(properties)
	if !slices.Equal(fields, properties) {
		t.Errorf("%s: fields %q, properties %q", place, fields, properties)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "authz.yaml")
	if _, err := Load(path); err == nil {
		t.Error("a missing file was loaded")
	}
	if err := os.WriteFile(path, []byte(good+"x: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path+`:19: there is no field "x" here`) {
		t.Error(err)
	}
}

// A file that is far too large is not read: the authorizer that runs would run out of memory at the next reload.
func TestLoadHugeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "authz.yaml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("%.200v", err)
	}
}
