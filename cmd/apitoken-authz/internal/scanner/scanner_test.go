package scanner

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
)

// engine knows the texts that are alive.
type engine struct {
	mu    sync.Mutex
	alive map[string]bool
	leaks []verify.Leak
	fails error
	hold  chan struct{} // nil, or answers wait until it is closed
}

func (e *engine) ReportLeaked(ctx context.Context, list []verify.Leak) ([]verify.LeakFeedback, error) {
	if e.hold != nil {
		<-e.hold
	}
	if e.fails != nil {
		return nil, e.fails
	}
	e.mu.Lock()
	e.leaks = append(e.leaks, list...)
	e.mu.Unlock()
	feedback := make([]verify.LeakFeedback, len(list))
	for i := range list {
		feedback[i] = verify.LeakFeedback{TokenHash: "hash", TokenType: list[i].Type, Label: "false_positive"}
		if e.alive[list[i].Token] {
			feedback[i].Label = "true_positive"
		}
	}
	return feedback, nil
}

func (e *engine) Alive(_ context.Context, text string) (bool, error) { return e.alive[text], e.fails }

// world is a Scanner with its log.
type world struct {
	*engine
	*Scanner
	t   *testing.T
	log strings.Builder
	dir string
	key *ecdsa.PrivateKey
}

const secret = "0123456789abcdef"

func newWorld(t *testing.T, signed bool) *world {
	w := &world{t: t, engine: &engine{alive: map[string]bool{"good": true}}, dir: t.TempDir()}
	var err error
	if w.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	c := &config.Scanner{SecretFile: w.write("secret", secret+"\n")}
	if signed {
		c.GitHubKeys = w.write("keys.json", w.published("k1", w.key))
	}
	if w.Scanner, err = New(w.engine, c, slog.New(slog.NewJSONHandler(&w.log, nil)), prometheus.NewRegistry()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) write(name, text string) string {
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// published is the answer of GitHub's API about a key.
func (w *world) published(id string, key *ecdsa.PrivateKey) string {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		w.t.Fatal(err)
	}
	text, _ := json.Marshal(map[string]any{"public_keys": []any{map[string]any{
		"key_identifier": id, "key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "is_current": true,
	}}})
	return string(text)
}

func (w *world) sign(body string) string {
	sum := sha256.Sum256([]byte(body))
	signature, err := ecdsa.SignASN1(rand.Reader, w.key, sum[:])
	if err != nil {
		w.t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(signature)
}

func (w *world) ask(method, path, body string, header ...string) (int, string) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	out := httptest.NewRecorder()
	w.ServeHTTP(out, r)
	text, _ := io.ReadAll(out.Body)
	return out.Code, string(text)
}

// A report as GitHub's documentation has it reaches the engine, and the answer is an array of feedback.
func TestGitHub(t *testing.T) {
	w := newWorld(t, true)
	const body = `[{"source":"commit","token":"good","type":"some_type","url":"https://example.com/base-repo-url/"},{"token":"noise","type":"some_type"}]`
	status, answer := w.ask("POST", "/scanner/github", body, keyHeader, "k1", signatureHeader, w.sign(body))
	want := `[{"token_hash":"hash","token_type":"some_type","label":"true_positive"},{"token_hash":"hash","token_type":"some_type","label":"false_positive"}]`
	if status != 200 || strings.TrimSpace(answer) != want {
		t.Errorf("%d %s", status, answer)
	}
	if len(w.leaks) != 2 || w.leaks[0] != (verify.Leak{Token: "good", Type: "some_type", URL: "https://example.com/base-repo-url/", Source: "commit"}) {
		t.Errorf("reported %+v", w.leaks)
	}
	if strings.Contains(w.log.String(), "good") {
		t.Errorf("the log shows a token: %s", &w.log)
	}
}

func TestGitHubRefuses(t *testing.T) {
	w := newWorld(t, true)
	const good = `[{"token":"good"}]`
	other := newWorld(t, true)
	many := "[" + strings.Repeat(`{"token":"x"},`, maxReports) + `{"token":"x"}]`
	for _, c := range []struct {
		name, body string
		header     []string
		status     int
	}{
		{"no signature", good, nil, 403},
		{"the signature of another body", good, []string{keyHeader, "k1", signatureHeader, w.sign(good + " ")}, 403},
		{"the signature of another key", good, []string{keyHeader, "k1", signatureHeader, other.sign(good)}, 403},
		{"an unknown key", good, []string{keyHeader, "k2", signatureHeader, w.sign(good)}, 403},
		{"no key", good, []string{signatureHeader, w.sign(good)}, 403},
		{"two keys", good, []string{keyHeader, "k1", keyHeader, "k1", signatureHeader, w.sign(good)}, 403},
		{"two signatures", good, []string{keyHeader, "k1", signatureHeader, w.sign(good), signatureHeader, w.sign(good)}, 403},
		{"no base64", good, []string{keyHeader, "k1", signatureHeader, "?"}, 403},
		{"no JSON", "good", []string{keyHeader, "k1", signatureHeader, w.sign("good")}, 400},
		{"no array", `{"token":"good"}`, []string{keyHeader, "k1", signatureHeader, w.sign(`{"token":"good"}`)}, 400},
		{"nothing", `[]`, []string{keyHeader, "k1", signatureHeader, w.sign(`[]`)}, 400},
		{"no token", `[{"type":"t"}]`, []string{keyHeader, "k1", signatureHeader, w.sign(`[{"type":"t"}]`)}, 400},
		{"too many", many, []string{keyHeader, "k1", signatureHeader, w.sign(many)}, 400},
		{"too large", strings.Repeat(" ", maxReportBody+1), []string{keyHeader, "k1"}, 413},
	} {
		status, answer := w.ask("POST", "/scanner/github", c.body, c.header...)
		if status != c.status || !strings.Contains(answer, `"error"`) || strings.Contains(answer, "good") {
			t.Errorf("%s: %d %s, want %d", c.name, status, answer, c.status)
		}
	}
	if len(w.leaks) > 0 {
		t.Errorf("reported %+v", w.leaks)
	}
	if status, _ := w.ask("GET", "/scanner/github", ""); status != 405 {
		t.Errorf("GET: %d", status)
	}
	if status, _ := w.ask("POST", "/scanner/other", ""); status != 404 {
		t.Errorf("another path: %d", status)
	}
	w.fails = errors.New("sealed")
	if status, _ := w.ask("POST", "/scanner/github", good, keyHeader, "k1", signatureHeader, w.sign(good)); status != 503 {
		t.Errorf("Vault is sealed: %d", status)
	}
}

// Without keys a report needs no signature: possession of the token is the proof.
func TestGitHubWithoutKeys(t *testing.T) {
	w := newWorld(t, false)
	if status, answer := w.ask("POST", "/scanner/github", `[{"token":"good"}]`); status != 200 || !strings.Contains(answer, "true_positive") {
		t.Errorf("%d %s", status, answer)
	}
}

// The request of TruffleHog's custom detectors: 200 for a live token, 404 for a dead one.
func TestVerify(t *testing.T) {
	w := newWorld(t, false)
	for _, c := range []struct {
		body, authorization string
		status              int
	}{
		{`{"VaultAPIToken":{"token":["good","good"]}}`, "Bearer " + secret, 200},
		{`{"VaultAPIToken":{"token":[" good"]}}`, "Bearer " + secret, 200},
		{`{"VaultAPIToken":{"token":["dead"]}}`, "Bearer " + secret, 404},
		{`{"VaultAPIToken":{"token":["dead"],"jwt":["good"]}}`, "Bearer " + secret, 200},
		{`{"VaultAPIToken":{"token":["good"]}}`, "Bearer " + secret + "x", 401},
		{`{"VaultAPIToken":{"token":["good"]}}`, secret, 401},
		{`{"VaultAPIToken":{"token":["good"]}}`, "", 401},
		{`{"VaultAPIToken":{"token":[]}}`, "Bearer " + secret, 400},
		{`{"VaultAPIToken":{"token":"good"}}`, "Bearer " + secret, 400},
		{`{"VaultAPIToken":{"token":["1","2","3","4","5","6","7","8","9"]}}`, "Bearer " + secret, 400},
		{`["good"]`, "Bearer " + secret, 400},
		{strings.Repeat(" ", maxQuestionBody+1), "Bearer " + secret, 413},
	} {
		status, answer := w.ask("POST", "/scanner/verify", c.body, "Authorization", c.authorization)
		if status != c.status || strings.Contains(answer, "good") {
			t.Errorf("%.60s: %d %s, want %d", c.body, status, answer, c.status)
		}
	}
	w.fails = errors.New("sealed")
	if status, _ := w.ask("POST", "/scanner/verify", `{"d":{"r":["good"]}}`, "Authorization", "Bearer "+secret); status != 503 {
		t.Errorf("Vault is sealed: %d", status)
	}
	closed, err := New(w.engine, &config.Scanner{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	out := httptest.NewRecorder()
	closed.ServeHTTP(out, httptest.NewRequest("POST", "/scanner/verify", strings.NewReader(`{"d":{"r":["good"]}}`)))
	if out.Code != http.StatusNotFound {
		t.Errorf("without a secret: %d", out.Code)
	}
}

func TestFiles(t *testing.T) {
	w := newWorld(t, true)
	for text, want := range map[string]string{
		"{}":                              "there are no public_keys",
		`{"public_keys":[{"key":"x"}]}`:   "is not in PEM",
		"nonsense":                        "invalid character",
		w.published("", w.key):            "is no ECDSA key on the curve P-256",
		strings.Repeat(" ", 10) + `["x"]`: "cannot unmarshal",
	} {
		if _, err := parseKeys([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %s", text, err, want)
		}
	}
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if _, err := parseKeys([]byte(w.published("k", p384))); err == nil {
		t.Error("a key on P-384 is taken")
	}
	for _, c := range []*config.Scanner{
		{SecretFile: w.write("short", "0123456789abcde\n")}, {SecretFile: "missing"}, {GitHubKeys: w.write("bad", "{}")},
	} {
		if _, err := New(w.engine, c, slog.New(slog.DiscardHandler), prometheus.NewRegistry()); err == nil || !strings.HasPrefix(err.Error(), "scanner.") {
			t.Errorf("%+v: %v", c, err)
		}
	}

	// Changed files are read again; what cannot be used is not taken.
	again := func() { w.secret.checked, w.keys.checked = time.Time{}, time.Time{} }
	w.write("secret", "another secret of the scanners")
	again()
	if got := string(w.secret.get()); got != "another secret of the scanners" {
		t.Errorf("the secret is %q", got)
	}
	w.write("secret", "short")
	w.write("keys.json", "{}")
	again()
	if got := string(w.secret.get()); got != "another secret of the scanners" || len(w.keys.get()) != 1 {
		t.Errorf("the secret is %q, the keys are %v", got, w.keys.get())
	}
	if !strings.Contains(w.log.String(), "file not reloaded") {
		t.Errorf("nothing is logged: %s", &w.log)
	}
}

// More requests than are handled at once are turned away.
func TestManyRequests(t *testing.T) {
	w := newWorld(t, false)
	w.hold = make(chan struct{})
	answered := make(chan int)
	for range maxRequests {
		go func() {
			status, _ := w.ask("POST", "/scanner/github", `[{"token":"x"}]`)
			answered <- status
		}()
	}
	for len(w.places) < maxRequests {
		time.Sleep(time.Millisecond)
	}
	if status, _ := w.ask("POST", "/scanner/github", `[{"token":"x"}]`); status != 503 {
		t.Errorf("one too many: %d", status)
	}
	close(w.hold)
	for range maxRequests {
		if status := <-answered; status != 200 {
			t.Errorf("%d", status)
		}
	}
}

func FuzzMatches(f *testing.F) {
	f.Add([]byte(`{"d":{"r":["a"]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if texts, err := matches(body); err == nil && (len(texts) == 0 || len(texts) > maxTexts) {
			t.Error(fmt.Sprint(texts))
		}
	})
}

// A report that the engine would refuse whole is refused at once, with the reason: GitHub need not repeat the request.
func TestGitHubTypes(t *testing.T) {
	w := newWorld(t, false)
	for _, kind := range []string{strings.Repeat("x", 129), "ä", "a\nb", "\x7f"} {
		body, _ := json.Marshal([]any{map[string]any{"token": "good"}, map[string]any{"token": "noise", "type": kind}})
		status, answer := w.ask("POST", "/scanner/github", string(body))
		if status != 400 || !strings.Contains(answer, "object 1 of the array has a type") || len(w.leaks) > 0 {
			t.Errorf("%q: %d %s, %d reports", kind, status, answer, len(w.leaks))
		}
	}
	if status, answer := w.ask("POST", "/scanner/github", `[{"token":"good","type":"`+strings.Repeat("~", 128)+`"}]`); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
}

// A request whose handler fails gives its place back.
func TestPlaceOfFailure(t *testing.T) {
	w := newWorld(t, false)
	w.Scanner.engine = nil // a fault of the program
	for range maxRequests {
		func() {
			defer func() { _ = recover() }() // as the web server does
			w.ask("POST", "/scanner/github", `[{"token":"x"}]`)
		}()
	}
	w.Scanner.engine = w.engine
	if status, answer := w.ask("POST", "/scanner/github", `[{"token":"x"}]`); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
}

// Clients that send their bodies slowly, or none, keep nobody out: they hold memory, of which there is a bound, and no place.
func TestSlowClients(t *testing.T) {
	w := newWorld(t, true)
	server := httptest.NewServer(w)
	defer server.Close()
	for range 2 * maxRequests {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /scanner/github HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n[", maxReportBody)
	}
	time.Sleep(50 * time.Millisecond)
	const body = `[{"token":"good"}]`
	if status, answer := w.ask("POST", "/scanner/github", body, keyHeader, "k1", signatureHeader, w.sign(body)); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
}

// The bodies of all requests together are bounded, and give their memory back.
func TestMemoryOfBodies(t *testing.T) {
	w := newWorld(t, false)
	large := `[{"token":"x","url":"` + strings.Repeat("x", maxReportBody-100) + `"}]`
	for range maxBodies/maxReportBody + 1 {
		if status, answer := w.ask("POST", "/scanner/github", large); status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
	}
	if status, _ := w.ask("POST", "/scanner/github", strings.Repeat(" ", maxReportBody+1)); status != 413 {
		t.Errorf("%d", status)
	}
	if !w.memory.TryAcquire(maxBodies) {
		t.Error("memory was not given back")
	}
	if status, answer := w.ask("POST", "/scanner/github", `[{"token":"x"}]`); status != 503 {
		t.Errorf("%d %s", status, answer)
	}
}
