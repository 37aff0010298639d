package console

import (
	"context"
	"crypto/rand"
	"encoding/csv"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// mint returns the text of an API token.
func mint(t *testing.T) string {
	t.Helper()
	now := time.Now()
	key, err := token.NewKey(rand.Reader, now)
	if err != nil {
		t.Fatal(err)
	}
	id, err := token.NewID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := token.Mint(token.NewRing([]token.Key{key}), "apt", &token.Claims{ID: id, Grant: id, IssuedAt: now, ExpiresAt: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The form offers every rule of the engine.
func TestRules(t *testing.T) {
	var all []string
	for _, r := range detect.Rules {
		all = append(all, string(r.Rule))
	}
	if !slices.Equal(rules, all) {
		t.Errorf("the form has %q, the engine %q", rules, all)
	}
}

// A finding of a leaked token says where the token was found. The place is of a stranger, and no link.
func TestLeakedFinding(t *testing.T) {
	w := newWorld(t)
	w.vault.set("apitoken/findings/"+id(7), map[string]any{
		"id": id(7), "rule": "leaked", "severity": "high", "state": "open", "count": 1, "numbers": map[string]any{},
		"evidence": []any{map[string]any{"at": "2026-03-01T00:00:00Z", "url": "https://forge.example.com/o/r#L5" + hostile, "source": "content"}},
	})
	a := w.browser().signIn("good").get("/findings/" + id(7))
	a.has(t, "https://forge.example.com/o/r#L5&#34;&#39;&gt;&lt;script&gt;", "content</td>")
	if strings.Contains(a.text, `href="https://forge`) {
		t.Error("the place is a link")
	}
}

// No page and no download has the text of an API token, whatever the person searches for and whatever Vault answers. A search
// for a token does not stay in the history of the browser.
func TestTokenTexts(t *testing.T) {
	w := newWorld(t)
	w.vault.furnish()
	b := w.browser().signIn("good")
	text := mint(t)
	w.vault.set("apitoken/report/stale", map[string]any{"items": []any{map[string]any{"kind": "role", "name": "r", "owner": "see " + text}}})
	for _, path := range []string{
		"/tokens?q=" + text, "/tokens?role=" + text, "/findings?role=" + text, "/" + text, "/tokens/" + text, "/roles/" + text, "/roles?after=" + text,
		"/reports/stale", "/reports/stale/csv", "/reports/stale?kind=" + text, "/findings?rule=" + text,
	} {
		a := b.get(path)
		if strings.Contains(a.text, text[8:60]) || strings.Contains(a.Header.Get("Location"), text) {
			t.Errorf("%s: %d has the token", path, a.StatusCode)
		}
	}
	if a := b.get("/tokens?q=x+" + text); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/tokens" {
		t.Errorf("%d %s", a.StatusCode, a.Header.Get("Location"))
	}
	b.get("/tokens").has(t, "Do not search for the text of a token")
}

// A value stays a text in a spreadsheet that separates cells by semicolons or tabs, or that takes wide signs for signs.
func TestCSVSeparators(t *testing.T) {
	w := newWorld(t)
	b := w.browser().signIn("good")
	for given, want := range map[string]string{
		"team;=1+1": "team;'=1+1", "a\t@b": "a\t'@b", "a\n-b": "a\n'-b", "＝1+1": "'＝1+1", "＠x": "'＠x", " =1": "' =1", "a; =1": "a;' =1",
		"a=b;c-d e+f": "a=b;c-d e+f", "": "", "ä": "ä", "x:=1": "x:=1",
	} {
		w.vault.set("apitoken/report/unowned", map[string]any{"items": []any{map[string]any{"kind": "role", "name": "r", "owner": given}}})
		rows, err := csv.NewReader(strings.NewReader(b.get("/reports/unowned/csv").text)).ReadAll()
		if err != nil || len(rows) != 2 {
			t.Fatal(rows, err)
		}
		if got := rows[1][slices.Index(csvHeader, "owner")]; got != want {
			t.Errorf("%q is %q, want %q", given, got, want)
		}
	}
}

// A login that ends while the console stops is over too: its Vault token is revoked.
func TestStopDuringLogin(t *testing.T) {
	w := newWorld(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			once.Do(func() { close(begun) })
			<-goOn
		}
		w.Server.ServeHTTP(rw, r)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, w.Server, &http.Server{Handler: slow, ReadHeaderTimeout: time.Second}, listener)
	}()
	w.web.URL = "http://" + listener.Addr().String()
	b := w.browser()
	got := make(chan int, 1)
	go func() {
		got <- b.try(url.Values{"method": {"password"}, "username": {"ann"}, "password": {"right"}}).StatusCode
	}()
	<-begun
	cancel()
	time.Sleep(100 * time.Millisecond)
	close(goOn)
	if code := <-got; code != http.StatusSeeOther {
		t.Error(code)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	w.revoking.Wait()
	if n := len(w.vault.to("auth/token/revoke-self")); n != 1 {
		t.Errorf("%d tokens revoked", n)
	}
}

// Pages that are asked for at once see the end of their Vault token together.
func TestTokenEndsOnce(t *testing.T) {
	w := newWorld(t)
	w.vault.furnish()
	b := w.browser().signInByName()
	w.vault.mu.Lock()
	delete(w.vault.tokens, "of-userpass")
	w.vault.mu.Unlock()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if a := b.get("/roles"); a.StatusCode != http.StatusSeeOther {
				t.Errorf("%d", a.StatusCode)
			}
		})
	}
	all.Wait()
	w.revoking.Wait()
	if n := len(w.vault.to("auth/token/revoke-self")); n != 0 {
		t.Errorf("%d tokens revoked that had ended", n)
	}
}

// Who is not signed in learns nothing of the network behind the console.
func TestSignInProblem(t *testing.T) {
	w := newWorld(t)
	address := strings.TrimPrefix(w.vault.URL, "http://")
	w.vault.Close()
	for _, form := range []url.Values{
		{"method": {"token"}, "token": {"good"}}, {"method": {"password"}, "username": {"ann"}, "password": {"right"}},
	} {
		a := w.browser().try(form)
		if a.StatusCode != http.StatusBadGateway || strings.Contains(a.text, address) || !strings.Contains(a.text, "Vault does not answer") {
			t.Errorf("%d %s", a.StatusCode, a.text)
		}
	}
}
