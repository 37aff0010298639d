package connector

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// serve gives a Service of the small provider at a server.
func serve(t *testing.T, cfg ClientConfig, h http.HandlerFunc) *Service {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	p, err := Compile([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.URL == "" {
		cfg.URL = server.URL
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &Service{
		Connection: "test", Provider: p, Client: c,
		Credential: map[string]any{"user": "u", "key": "top/secret"},
		Settings:   map[string]any{"tenant": "a b/../c"},
	}
}

func (u *Service) create(ctx context.Context) (*Created, error) {
	now := time.Unix(1_800_000_000, 0)
	return u.Create(ctx, "vault-x", "role", map[string]any{"scopes": []string{"read"}, "level": int64(7)}, now, now.Add(time.Hour))
}

// What is sent: values escaped where they stand, secrets in headers and bodies only.
func TestRequest(t *testing.T) {
	u := serve(t, ClientConfig{UserAgent: "agent/1"}, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			if r.URL.EscapedPath() != "/api/a%20b%2F..%2Fc/tokens/17%2F18" {
				t.Error(r.URL.EscapedPath())
			}
			w.WriteHeader(404)
			return
		}
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		if r.URL.EscapedPath() != "/api/a%20b%2F..%2Fc/tokens" || r.URL.RawQuery != "level=7" {
			t.Error(r.URL.EscapedPath(), r.URL.RawQuery)
		}
		if r.Header.Get("Authorization") != "Bearer top/secret" || r.Header.Get("User-Agent") != "agent/1" || r.Header.Get("Content-Type") != "application/json" {
			t.Error(r.Header)
		}
		// The end is half a minute after the lease's.
		if fmt.Sprint(body) != "map[expires:1.80000363e+09 name:vault-x scopes:[read]]" {
			t.Error(body)
		}
		fmt.Fprint(w, `{"id": 9007199254740993, "token": "t", "expires": "2027-01-15T09:00:00Z"}`)
	})
	c, err := u.create(t.Context())
	if err != nil || c.ID != "9007199254740993" || c.Text != "t" || c.ExpiresAt.Unix() != 1_800_003_600 {
		t.Fatalf("%+v, %v", c, err)
	}
	if err := u.Revoke(t.Context(), &Token{ID: "17/18"}); !errors.Is(err, ErrGone) {
		t.Errorf("%v, want that it is gone", err)
	}
	for _, id := range []string{"", ".", ".."} {
		if err := u.Revoke(t.Context(), &Token{ID: id}); err == nil || !strings.Contains(err.Error(), "cannot be a segment of a path") {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// Answers of a server that means harm are bounded, and their errors fit for a terminal.
func TestHostileAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		want  string
	}{
		"huge": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(make([]byte, maxAnswer+1))
		}, "the answer is longer than 4194304 bytes"},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 1<<16))
			}
		}, "the answer is longer than"},
		"slow": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}, "the answer broke off: no answer within the connection's timeout"},
		"deep": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, strings.Repeat("[", 100_000))
		}, "the answer is nested deeper than 64"},
		"no JSON":  {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"id": `) }, "the answer is not JSON"},
		"no token": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"id": 1}`) }, "no such key: expires"},
		"empty":    {func(http.ResponseWriter, *http.Request) {}, "the answer is not what provider"},
		"control": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			fmt.Fprint(w, `{"message": "\u001b[2Jbad\r\n\u0000 top/secret `+strings.Repeat("x", 1000)+`"}`)
		}, "status 400 Bad Request: [2Jbad [secret] xxx"},
		"page": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(403)
			fmt.Fprint(w, "<html>")
		}, "status 403 Forbidden (the connection's credential"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				t.Error("the redirect was followed")
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, "redirects are not followed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := serve(t, ClientConfig{Timeout: 500 * time.Millisecond}, c.serve).create(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 600 || strings.ContainsAny(err.Error(), "\x00\x1b\r\n") {
				t.Errorf("%q, want %q", err, c.want)
			}
		})
	}
}

// A create is repeated only where it was surely not done; anything else as often as it takes.
func TestRetries(t *testing.T) {
	for _, c := range []struct {
		status      int
		header      string
		creates     int32
		unsure      bool
		revocations int32
	}{
		{429, "", 2, false, 2}, {503, "0", 2, false, 2}, {503, "", 1, true, 2}, {502, "", 1, true, 2}, {504, "", 1, true, 2},
		{500, "", 1, true, 1}, {400, "", 1, false, 1}, {429, "3600", 1, false, 1}, {408, "", 1, true, 1}, {303, "", 1, true, 1},
	} {
		var calls atomic.Int32
		u := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) {
			if calls.Add(1) == 1 {
				if c.header != "" {
					w.Header().Set("Retry-After", c.header)
				}
				w.WriteHeader(c.status)
				return
			}
			fmt.Fprint(w, `{"id": 1, "token": "t", "expires": null}`)
		})
		_, err := u.create(t.Context())
		var e *Error
		if errors.As(err, &e); calls.Load() != c.creates || (err == nil) != (c.creates > 1) || err != nil && e.Unsure != c.unsure {
			t.Errorf("%d %s: %d calls, %v", c.status, c.header, calls.Load(), err)
		}
		if c.header == "3600" && !strings.Contains(err.Error(), "it asks to come back in 1h0m0s") {
			t.Error(err)
		}
		calls.Store(0)
		if err := u.Revoke(t.Context(), &Token{ID: "1"}); calls.Load() != c.revocations || (err == nil) != (c.revocations > 1) {
			t.Errorf("%d %s: %d revocations, %v", c.status, c.header, calls.Load(), err)
		}
	}
}

// A status that says that it was done, if not in the way that was expected, may have done it.
func TestUnexpectedSuccess(t *testing.T) {
	u := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"id": 1, "token": "t"}`) })
	p, err := Compile([]byte(strings.Replace(small, "        query: {level", "        ok: [201]\n        query: {level", 1)))
	if err != nil {
		t.Fatal(err)
	}
	u.Provider = p
	var e *Error
	if _, err := u.create(t.Context()); !errors.As(err, &e) || !e.Unsure {
		t.Errorf("%v", err)
	}
}

func TestLimits(t *testing.T) {
	var running, most, total atomic.Int32
	u := serve(t, ClientConfig{MaxConcurrent: 3}, func(http.ResponseWriter, *http.Request) {
		n := running.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(10 * time.Millisecond)
		running.Add(-1)
		total.Add(1)
	})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := u.Revoke(t.Context(), &Token{ID: "1"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() > 3 || total.Load() != 20 {
		t.Errorf("%d at once, %d in all", most.Load(), total.Load())
	}

	u = serve(t, ClientConfig{RateLimit: 1, Timeout: 100 * time.Millisecond}, func(http.ResponseWriter, *http.Request) {})
	if err := u.Revoke(t.Context(), &Token{ID: "1"}); err != nil {
		t.Error(err)
	}
	if err := u.Revoke(t.Context(), &Token{ID: "1"}); err == nil || !strings.Contains(err.Error(), "the connection's rate_limit leaves no time for the request") {
		t.Error(err)
	}
}

func TestTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"name": "me"}`) }))
	t.Cleanup(server.Close)
	server.Config.ErrorLog = nil
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	u := serve(t, ClientConfig{URL: server.URL, CACert: ca}, nil)
	if who, err := u.Check(t.Context()); err != nil || who["who"] != "me" {
		t.Errorf("%v, %v", who, err)
	}
	_, err := serve(t, ClientConfig{URL: server.URL}, nil).Check(t.Context())
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v", err)
	}
	var e *Error
	if _, err := serve(t, ClientConfig{URL: server.URL}, nil).create(t.Context()); !errors.As(err, &e) || e.Unsure {
		t.Errorf("%v: nothing was sent", err)
	}

	// Through a proxy, which sees a CONNECT.
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(proxy.Close)
	if _, err := serve(t, ClientConfig{URL: server.URL, CACert: ca, ProxyURL: proxy.URL}, nil).Check(t.Context()); err == nil || asked.Load() == 0 {
		t.Errorf("%v, %d", err, asked.Load())
	}
}

// Expressions cannot run away.
func TestCostLimit(t *testing.T) {
	text := strings.Replace(small, `data: '{"who": response.body.name}'`,
		`data: '{"who": [1,2,3,4,5,6,7,8,9,10].map(a, [1,2,3,4,5,6,7,8,9,10].map(b, [1,2,3,4,5,6,7,8,9,10].map(c, [1,2,3,4,5,6,7,8,9,10].map(d, [1,2,3,4,5,6,7,8,9,10].map(e, [1,2,3,4,5,6,7,8,9,10].map(f, [1,2,3,4,5,6,7,8,9,10].map(g, response.body.name)))))))}'`, 1)
	p, err := Compile([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"name": "me"}`) })
	u.Provider = p
	if _, err := u.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "the expression makes more than 8388608 bytes") {
		t.Errorf("%v", err)
	}
}

// What the two grants send (RFC 6749 section 4.4.2, RFC 8693 section 2.1).
func TestOAuthGrants(t *testing.T) {
	providers, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for grant, want := range map[string]string{
		"client_credentials": "grant_type=client_credentials&scope=a+b",
		"token_exchange":     "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&scope=a+b&subject_token=mine&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token",
	} {
		u := serve(t, ClientConfig{}, func(w http.ResponseWriter, r *http.Request) {
			if err := r.ParseForm(); err != nil || r.PostForm.Encode() != want || r.URL.Path != "/oauth/token" {
				t.Errorf("%s %s, want %s (%v)", r.URL.Path, r.PostForm.Encode(), want, err)
			}
			if user, password, _ := r.BasicAuth(); user != "c%3A1" || password != "s" {
				t.Errorf("%s %s", user, password)
			}
			fmt.Fprint(w, `{"access_token": "t", "token_type": "Bearer", "expires_in": 60, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}`)
		})
		u.Provider = providers["oauth2"]
		if u.Credential, err = Values(u.Provider.Credential, map[string]any{"client_id": "c:1", "client_secret": "s", "subject_token": "mine"}); err != nil {
			t.Fatal(err)
		}
		if u.Settings, err = Values(u.Provider.Settings, nil); err != nil {
			t.Fatal(err)
		}
		params, err := Values(u.Provider.Params, map[string]any{"grant": grant, "scopes": "a,b"})
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		c, err := u.Create(t.Context(), "name", "role", params, now, now.Add(time.Hour))
		if err != nil || c.Text != "t" || c.ExpiresAt.Sub(now).Round(time.Second) != time.Minute {
			t.Errorf("%+v, %v", c, err)
		}
	}
}

func TestFindPages(t *testing.T) {
	u := serve(t, ClientConfig{}, func(w http.ResponseWriter, r *http.Request) {
		pages := map[string]string{"1": `[{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]`, "2": `[{"id": 3, "name": "a"}]`}
		fmt.Fprint(w, pages[r.URL.Query().Get("page")])
	})
	found, err := u.Find(t.Context(), []string{"a"}, nil)
	if err != nil || len(found) != 2 || found[0].ID != "1" || found[1].ID != "3" {
		t.Errorf("%v, %v", found, err)
	}
}

// A token that is ended while pages are read moves others up, to pages that have been read.
func TestFindWhileTokensEnd(t *testing.T) {
	var mu sync.Mutex
	tokens := []string{"1", "2", "3", "4"}
	var ending sync.WaitGroup
	var u *Service
	u = serve(t, ClientConfig{}, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodDelete {
			tokens = slices.DeleteFunc(tokens, func(id string) bool { return strings.HasSuffix(r.URL.Path, "/"+id) })
			return
		}
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		listed := []map[string]string{}
		for _, id := range tokens[min(2*page-2, len(tokens)):min(2*page, len(tokens))] {
			listed = append(listed, map[string]string{"id": id, "name": "token " + id})
		}
		_ = json.NewEncoder(w).Encode(listed)
		if page == 1 {
			mu.Unlock()
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if err := u.Revoke(ctx, &Token{ID: "2"}); err == nil {
				t.Error("revoked while tokens are listed")
			}
			ending.Go(func() {
				if err := u.Revoke(t.Context(), &Token{ID: "1"}); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(50 * time.Millisecond) // in which it would be done
			mu.Lock()
		}
	})
	found, err := u.Find(t.Context(), []string{"token 3"}, nil)
	if err != nil || len(found) != 1 {
		t.Errorf("%v, %v", found, err)
	}
	ending.Wait()
	if len(tokens) != 3 {
		t.Errorf("%q", tokens)
	}
}

func TestNewClientRefuses(t *testing.T) {
	for _, cfg := range []ClientConfig{{}, {URL: "x"}, {URL: "ftp://x"}, {URL: "https://a:b@x"}, {URL: "https://x?y"}, {URL: "https://x", ProxyURL: ":"}, {URL: "https://x", RateLimit: -1}} {
		if _, err := NewClient(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}
