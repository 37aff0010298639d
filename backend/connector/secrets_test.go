package connector

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// A definition cannot put a secret of the credential to where somebody sees it, by no detour.
func TestSecretsStayInRequests(t *testing.T) {
	const saving = "gone: [404]\n  check:"
	for name, edit := range map[string][2]string{
		"token":      {"token: response.body.token", "token: credential.key"},
		"id":         {"id: string(response.body.id)", "id: credential.key"},
		"expires_at": {"expires_at: response.body.expires", "expires_at: size(credential.key)"},
		"granted":    {"expires_at: response.body.expires", `granted: '{"level": credential.key}'`},
		"record":     {"expires_at: response.body.expires", `record: '{"level": base64.encode(bytes(credential.key))}'`},
		"data":       {`{"who": response.body.name}`, `{"who": [credential.key].map(k, k)[0]}`},
		"shadowed":   {`{"who": response.body.name}`, `{"who": ["x"].map(name, .credential.key)[0]}`},
		"items":      {"items: response.body", `items: '[{"id": "1", "name": credential.key}]'`},
		"next":       {`next: 'size(response.body) < 2 ? "" : "more"'`, `next: credential.key`},
		"when":       {"      - method: DELETE", "      - when: credential.key.startsWith(\"a\")\n        method: DELETE"},
		"whole path": {"path: /api/self", "path: '{+\"/\" + credential.key}'"},
		"saved": {"    result: {data: '{\"who\": response.body.name}'}", `        save: {a: credential.key.substring(1)}
      - method: GET
        path: /api/self
        save: {b: "[saved.a]"}
    result: {data: '{"who": saved.b}'}`},
		"default": {"key: {type: string, secret: true, required: true", "key: {type: string, secret: true, default: x"},
	} {
		text := strings.Replace(small, edit[0], edit[1], 1)
		if text == small {
			t.Errorf("%s: %q is not in the definition", name, edit[0])
		}
		if _, err := Compile([]byte(text)); err == nil || !strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is saved by one operation is no secret in another that has a variable of that name.
	text := strings.Replace(small, saving, `gone: [404]
        save: {a: token}
  check:`, 1)
	text = strings.Replace(text, "    result: {data: '{\"who\": response.body.name}'}", "        save: {a: response.body.name}\n    result: {data: '{\"who\": saved.a}'}", 1)
	if _, err := Compile([]byte(text)); err != nil {
		t.Error(err)
	}
}

// CEL's errors hold what could not be converted, and fields' errors what is not allowed.
func TestSecretsAreInNoError(t *testing.T) {
	for _, header := range []string{"string(int(credential.key))", "string(timestamp(credential.key))", "string(duration(base64.encode(bytes(credential.key))))", `{"a": "b"}[credential.key]`} {
		p, err := Compile([]byte(strings.Replace(small, `'"Bearer " + credential.key'`, "'"+header+"'", 1)))
		if err != nil {
			t.Fatal(err)
		}
		u := serve(t, ClientConfig{}, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
		u.Provider = p
		_, err = u.create(t.Context())
		if err == nil || strings.Contains(err.Error(), "top/secret") || strings.Contains(err.Error(), "dG9wL3NlY3JldA") {
			t.Errorf("%s: %v", header, err)
		}
	}
	fields := map[string]Field{"key": {Type: TypeString, Secret: true, Allowed: []string{"a"}}}
	if _, err := Values(fields, map[string]any{"key": "top/secret"}); err == nil || strings.Contains(err.Error(), "top/secret") {
		t.Errorf("%v", err)
	}
}

// A service that repeats the credential does not get it shown either.
func TestEchoIsRefused(t *testing.T) {
	for name, body := range map[string]string{
		"token":  `{"id": 1, "token": "top/secret", "expires": null, "name": "x"}`,
		"id":     `{"id": "a top/secret b", "token": "t", "expires": null, "name": "x"}`,
		"nobody": `{"id": 1, "token": "t", "expires": null, "name": "x"}`,
	} {
		u := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
		_, err := u.create(t.Context())
		if name == "nobody" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		var e *Error
		if !errors.As(err, &e) || !e.Unsure || !strings.Contains(err.Error(), name+": the service repeats a secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	u := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"name": ["top/secret"]}`) })
	if _, err := u.Check(t.Context()); err == nil || strings.Contains(err.Error(), "top/secret") {
		t.Errorf("%v", err)
	}
}
