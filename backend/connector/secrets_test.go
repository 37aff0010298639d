package connector

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
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

// A rotation does not move a secret into a member of the credential that is shown.
func TestRotationShowsNoSecret(t *testing.T) {
	for result, want := range map[string]string{
		`{"key": generated}`:                                        "",
		`{"key": generated, "user": name}`:                          "",
		`{"key": generated, "user": "u-" + generated}`:              "user: generated is a secret, and the member is shown",
		`{"key": generated, "user": [credential.key].map(k, k)[0]}`: "user: credential.key is a secret",
		`{"key": generated, "usr": name}`:                           `"usr" is not a member`,
		`{"key": generated, name: name}`:                            "must be written as text",
		`true ? {"key": generated} : {"user": generated}`:           "must be a map of the members",
	} {
		text := small + strings.NewReplacer(`{"key": string(response.body.key)}`, result).Replace(rotating)
		if _, err := Compile([]byte(text)); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", result, err, want)
		}
	}
	p, err := Compile([]byte(small + strings.Replace(rotating, "string(response.body.key)}", `string(response.body.key), "user": string(response.body.user)}`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]string{
		`{"key": "another", "user": "v"}`:          "",
		`{"key": "another", "user": "top/secret"}`: "user: the service repeats a secret",
		`{"key": "top/secret", "user": "u"}`:       "the service returned the credential that is in use",
	} {
		u := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
		u.Provider = p
		fresh, err := u.RotateRoot(t.Context(), "root-1", "", time.Now(), time.Now().Add(time.Hour))
		var e *Error
		if want == "" && (err != nil || fresh["key"] != "another" || fresh["user"] != "v") ||
			want != "" && (!errors.As(err, &e) || !e.Unsure || !strings.Contains(e.Message, want)) {
			t.Errorf("%s: %v, %v, want %s", body, fresh, err, want)
		}
	}
}

// A message is cut and folded after secrets were taken out of it.
func TestMessagesAreScrubbedWhole(t *testing.T) {
	secret := "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----"
	for name, message := range map[string]string{"folded": "bad key: " + secret, "cut": strings.Repeat("x ", 137) + secret, "in a list": secret} {
		u := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{message}})
		})
		u.Provider = u.Provider.with(t, "'\"Bearer \" + credential.key'", "form_encode(credential.key)")
		u.Credential = map[string]any{"user": "u", "key": secret}
		if _, err := u.create(t.Context()); err == nil || strings.Contains(err.Error(), "BEGIN KEY") || strings.Contains(err.Error(), "MIIE") {
			t.Errorf("%s: %v", name, err)
		}
	}
	u := &Service{Provider: &Provider{Definition: Definition{Credential: map[string]Field{"a": {Secret: true}, "b": {Secret: true}}}}, Credential: map[string]any{"a": "secret", "b": "secret-and-more"}}
	for range 20 {
		if got := u.tell("secret-and-more", nil); got != "[secret]" {
			t.Error(got)
		}
	}
}

// A service that repeats a request does not get a secret shown that was encoded for it.
func TestEncodedSecretsAreScrubbed(t *testing.T) {
	for _, header := range []string{"basic_auth(credential.user, credential.key)", "\"Bearer \" + base64.encode(bytes(credential.key))", "form_encode(credential.key)"} {
		var sent string
		u := serve(t, ClientConfig{}, func(w http.ResponseWriter, r *http.Request) {
			sent = r.Header.Get("Authorization")
			sent = sent[strings.LastIndex(sent, " ")+1:]
			w.WriteHeader(400)
			_ = json.NewEncoder(w).Encode(map[string]any{"message": "bad request: Authorization: " + sent + ", key=top%2Fsecret"})
		})
		u.Provider = u.Provider.with(t, `'"Bearer " + credential.key'`, "'"+header+"'")
		_, err := u.create(t.Context())
		if err == nil || sent == "" || strings.Contains(err.Error(), sent) || strings.Contains(err.Error(), "top%2Fsecret") {
			t.Errorf("%s: %v", header, err)
		}
	}
}

// with compiles the definition anew with one part replaced.
func (p *Provider) with(t *testing.T, old, fresh string) *Provider {
	t.Helper()
	changed, err := Compile([]byte(strings.ReplaceAll(p.Text, old, fresh)))
	if err != nil {
		t.Fatal(err)
	}
	return changed
}
