package acceptance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/process"
)

// GitHub reports tokens to the authorizer, and TruffleHog asks whether tokens are alive, with the engine in a real Vault.
func TestScanners(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	published, _ := json.Marshal(map[string]any{"public_keys": []any{map[string]any{
		"key_identifier": "k1", "key": string(inPEM("PUBLIC KEY", der)), "is_current": true,
	}}})
	dir := t.TempDir()
	for name, text := range map[string]string{"keys.json": string(published), "secret": "0123456789abcdef"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ports, err := process.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	s := newShop(t, "scanner: {listen: '127.0.0.1:"+ports[0]+"', github_keys: "+filepath.Join(dir, "keys.json")+", secret_file: "+filepath.Join(dir, "secret")+"}")
	post := func(path, body string, header ...string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://127.0.0.1:"+ports[0]+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	alive := func(text string) int {
		t.Helper()
		status, _ := post("/scanner/verify", `{"VaultAPIToken":{"token":["`+text+`"]}}`, "Authorization", "Bearer 0123456789abcdef")
		return status
	}
	for _, role := range []string{"reader", "jwt", "far"} {
		text, _ := s.token(t, role)
		if status := alive(text); status != 200 {
			t.Errorf("%s: a live token has status %d", role, status)
		}
		looked := s.write(t, "apitoken/lookup", map[string]any{"token": text})
		if usage, _ := looked.Data["usage"].(map[string]any); usage["uses"] != json.Number("0") || usage["refusals"] != nil {
			t.Errorf("%s: the question counted as a use: %v", role, usage)
		}
		body := `[{"token":"` + text + `","type":"apitoken","url":"https://github.com/o/r/blob/1/f#L5","source":"content"},{"token":"noise","type":"apitoken"}]`
		sum := sha256.Sum256([]byte(body))
		signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		signed := []string{"Github-Public-Key-Identifier", "k1", "Github-Public-Key-Signature", base64.StdEncoding.EncodeToString(signature)}
		if status, _ := post("/scanner/github", strings.Replace(body, "noise", "other", 1), signed...); status != 403 || alive(text) != 200 {
			t.Errorf("%s: a report with a wrong signature has status %d", role, status)
		}
		status, answer := post("/scanner/github", body, signed...)
		if status != 200 || !strings.HasPrefix(answer, `[{"token_hash":`) || strings.Count(answer, "true_positive") != 1 || strings.Count(answer, "false_positive") != 1 {
			t.Errorf("%s: %d %s", role, status, answer)
		}
		if status := alive(text); status != 404 {
			t.Errorf("%s: a reported token has status %d", role, status)
		}
	}
	if log, err := os.ReadFile(s.authzLog); err != nil || strings.Contains(string(log), "apt_") || !strings.Contains(string(log), "leaked tokens reported") {
		t.Errorf("%v, the log is %s", err, log)
	}
}
