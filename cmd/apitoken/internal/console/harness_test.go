package console

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// vaultStub answers as Vault's HTTP API does, for the tests of what the console itself promises. The acceptance tests run on a
// real Vault.
type vaultStub struct {
	*httptest.Server
	mu       sync.Mutex
	answers  map[string]func(r *http.Request) (int, any) // by path below /v1/
	tokens   map[string]bool                             // good Vault tokens; false: its policies allow nothing
	requests []seen
	ttl      time.Duration // of the tokens of userpass
	now      func() time.Time
}

// seen is a request to Vault.
type seen struct{ method, path, query, token, body string }

func newVaultStub(t *testing.T, now func() time.Time) *vaultStub {
	v := &vaultStub{
		answers: map[string]func(*http.Request) (int, any){}, now: now, ttl: time.Hour,
		tokens: map[string]bool{"good": true, "poor": false},
	}
	v.Server = httptest.NewServer(v)
	t.Cleanup(v.Close)
	return v
}

func (v *vaultStub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	path, token := strings.TrimPrefix(r.URL.Path, "/v1/"), r.Header.Get("X-Vault-Token")
	v.mu.Lock()
	v.requests = append(v.requests, seen{r.Method, path, r.URL.RawQuery, token, string(body)})
	answer := v.answers[path]
	allowed, good := v.tokens[token]
	v.mu.Unlock()
	send := func(status int, body any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	refuse := func(status int, text ...string) { send(status, map[string]any{"errors": append([]string{}, text...)}) }
	switch {
	case strings.HasPrefix(path, "auth/userpass/login/"):
		if strings.Contains(string(body), `"denied"`) {
			refuse(403, "permission denied") // as where no auth method is enabled
			return
		}
		if !strings.Contains(string(body), `"right"`) {
			refuse(400, "invalid username or password")
			return
		}
		v.mu.Lock()
		v.tokens["of-userpass"] = true
		v.mu.Unlock()
		send(200, map[string]any{"auth": map[string]any{"client_token": "of-userpass", "lease_duration": 3600}})
	case strings.HasPrefix(path, "auth/oidc/"):
		status, body := answer(r)
		send(status, body)
	case !good:
		refuse(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
	case path == "auth/token/lookup-self":
		data := map[string]any{"display_name": "somebody", "policies": []string{"default"}}
		if token == "of-userpass" {
			data["expire_time"] = v.now().Add(v.ttl).Format(time.RFC3339Nano)
		}
		send(200, map[string]any{"data": data})
	case path == "auth/token/revoke-self":
		v.mu.Lock()
		delete(v.tokens, token)
		v.mu.Unlock()
		w.WriteHeader(204)
	case !allowed:
		refuse(403, "1 error occurred:\n\t* permission denied\n\n")
	case answer != nil:
		status, body := answer(r)
		send(status, body)
	default:
		refuse(404)
	}
}

// set has the stub answer with data.
func (v *vaultStub) set(path string, data any, warnings ...string) {
	v.handle(path, func(*http.Request) (int, any) { return 200, map[string]any{"data": data, "warnings": warnings} })
}

func (v *vaultStub) handle(path string, answer func(*http.Request) (int, any)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.answers[path] = answer
}

// to returns the requests to a path.
func (v *vaultStub) to(path string) (list []seen) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range v.requests {
		if r.path == path {
			list = append(list, r)
		}
	}
	return list
}

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// world is a console, its Vault, and a browser.
type world struct {
	*testing.T
	*Server
	vault *vaultStub
	clock *clock
	web   *httptest.Server
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	c := &clock{at: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)}
	v := newVaultStub(t, c.now)
	conf := api.DefaultConfig()
	conf.Address, conf.MaxRetries = v.URL, 0
	client, err := api.NewClient(conf)
	if err != nil {
		t.Fatal(err)
	}
	cf := &Config{
		Mount: "apitoken", Vault: client, Port: "8250", PasswordPath: "userpass", OIDCPath: "oidc", Idle: 15 * time.Minute,
		Longest: 8 * time.Hour, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: c.now,
	}
	for _, f := range change {
		f(cf)
	}
	w := &world{T: t, Server: New(cf), vault: v, clock: c}
	w.web = httptest.NewServer(w.Server)
	t.Cleanup(w.web.Close)
	t.Cleanup(w.revoking.Wait)
	return w
}

// browser keeps cookies, and follows no redirect.
type browser struct {
	*world
	*http.Client
	csrf string
}

func (w *world) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.Fatal(err)
	}
	return &browser{world: w, Client: &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}}
}

// answered is an answer whose body was read.
type answered struct {
	*http.Response
	text string
}

func (b *browser) do(r *http.Request) *answered {
	b.Helper()
	resp, err := b.Client.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	return &answered{resp, string(text)}
}

func (b *browser) request(method, path string, body io.Reader) *http.Request {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), method, b.web.URL+path, body)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func (b *browser) get(path string) *answered {
	b.Helper()
	return b.do(b.request(http.MethodGet, path, nil))
}

func (b *browser) post(path string, form url.Values, change ...func(*http.Request)) *answered {
	b.Helper()
	r := b.request(http.MethodPost, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, f := range change {
		f(r)
	}
	return b.do(r)
}

var (
	keyInput  = regexp.MustCompile(`name="key" value="([^"]+)"`)
	csrfInput = regexp.MustCompile(`name="csrf" value="([^"]+)"`)
)

// try tries to sign in.
func (b *browser) try(form url.Values) *answered {
	b.Helper()
	m := keyInput.FindStringSubmatch(b.get("/sign-in").text)
	if m == nil {
		b.Fatal("the page to sign in has no key")
	}
	form.Set("key", m[1])
	return b.post("/sign-in", form)
}

// signIn signs in with a token.
func (b *browser) signIn(token string) *browser {
	b.Helper()
	return b.enter(url.Values{"method": {"token"}, "token": {token}})
}

// signInByName signs in with a name and a password.
func (b *browser) signInByName() *browser {
	b.Helper()
	return b.enter(url.Values{"method": {"password"}, "username": {"ann"}, "password": {"right"}})
}

func (b *browser) enter(form url.Values) *browser {
	b.Helper()
	if a := b.try(form); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/" {
		b.Fatalf("%d %s", a.StatusCode, a.text)
	}
	m := csrfInput.FindStringSubmatch(b.get("/reports").text)
	if m == nil {
		b.Fatal("the page has no csrf")
	}
	b.csrf = m[1]
	return b
}

// cookie returns the value of a cookie of the browser.
func (b *browser) cookie(name string) string {
	at, _ := url.Parse(b.web.URL)
	for _, c := range b.Jar.Cookies(at) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// has reports a text that a page lacks.
func (a *answered) has(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(a.text, text) {
			t.Errorf("%s %s has no %q:\n%s", a.Request.Method, a.Request.URL, text, a.text)
		}
	}
}

func id(n int) string { return fmt.Sprintf("%024x", n) }

// tokenRows has the stub serve an inventory of n tokens in pages.
func (v *vaultStub) tokenRows(n int, change func(i int, row map[string]any)) {
	v.handle("apitoken/tokens", func(r *http.Request) (int, any) {
		query, limit := r.URL.Query(), 1000
		_, _ = fmt.Sscan(query.Get("limit"), &limit)
		keys, info, warnings := []string{}, map[string]any{}, []string(nil)
		for i := range n {
			if id(i) <= query.Get("after") && query.Get("after") != "" {
				continue
			}
			if len(keys) == limit {
				warnings = []string{"there are more tokens: list again with after=" + keys[len(keys)-1]}
				break
			}
			row := map[string]any{
				"token_id": id(i), "role": "billing", "role_version": 1, "scopes": []string{"a"}, "entity_id": "", "state": "active",
				"display_name": fmt.Sprintf("holder-%d", i), "issued_at": "2026-03-01T00:00:00Z", "expires_at": "2026-04-01T00:00:00Z",
				"uses": i, "refused": 0,
			}
			if change != nil {
				change(i, row)
			}
			keys = append(keys, id(i))
			info[id(i)] = row
		}
		if len(keys) == 0 {
			return 404, map[string]any{"errors": []string{}}
		}
		return 200, map[string]any{"data": map[string]any{"keys": keys, "key_info": info}, "warnings": warnings}
	})
}
