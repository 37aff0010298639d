package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/process"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/vaultserver"
)

var (
	updateConsole = flag.Bool("update-console", false, "write the screenshots of docs/console.md")
	consoleTokens = flag.Int("console-tokens", 3000, "tokens on the mount of TestConsoleScale, which holds the bar from 100,000")
)

// consoleBar is how long a page of a mount with 100,000 tokens may take.
const consoleBar = 300 * time.Millisecond

// desk is a Vault server with the engine, users, tokens and findings, and a console.
type desk struct {
	*testing.T
	*api.Client
	server  *vaultserver.Server
	url     string // of the console, without a slash at the end
	audit   string
	process *process.Process
	texts   []string // of tokens: no page may have them
	token   string   // token_id of a live token
	finding string   // id of an open finding
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	server := mounted(t)
	d := &desk{T: t, Client: server.Client(), server: server, audit: filepath.Join(t.TempDir(), "audit.log")}
	d.SetMaxRetries(0)
	ctx := t.Context()
	policy, err := os.ReadFile(filepath.Join(root, "bootstrap", "console", "policy.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		d.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
			Type: "file", Options: map[string]string{"file_path": d.audit},
		}),
		d.Sys().PutPolicyWithContext(ctx, "console", string(policy)),
		d.Sys().EnableAuthWithOptionsWithContext(ctx, "userpass", &api.EnableAuthOptions{Type: "userpass"}),
	)
	if err != nil {
		t.Fatal(err)
	}
	d.write("auth/userpass/users/ann", map[string]any{"password": "ann-of-the-tests", "policies": "console"})
	d.write("auth/userpass/users/bob", map[string]any{"password": "bob-of-the-tests", "policies": "default"})
	d.write("apitoken/roles/billing", map[string]any{
		"scopes": "invoices:read,invoices:write", "ttl": "1h", "description": `<script>alert("x")</script>`, "owner": "team-billing",
	})
	d.write("apitoken/roles/reports", map[string]any{"scopes": "*", "allow_privileged": true, "ttl": "2h", "max_ttl": "1000h"})
	d.write("apitoken/connections/sso", map[string]any{
		"provider": "oauth2", "url": "https://sso.example.com",
		"credential": map[string]any{"client_id": "vault", "client_secret": "secret-of-the-tests"},
	})
	d.write("apitoken/connections/vault", map[string]any{
		"provider": "vault", "url": d.Address(), "credential": map[string]any{"token": d.Token()}, "owner": "team-vault",
	})
	d.texts = append(d.texts, "secret-of-the-tests", d.Token())
	d.issue()
	d.url = d.console()
	return d
}

func (d *desk) write(path string, data map[string]any) *api.Secret {
	d.Helper()
	secret, err := d.Logical().WriteWithContext(d.Context(), path, data)
	if err != nil {
		d.Fatal(err)
	}
	return secret
}

// issue issues tokens, uses them, and misuses one.
func (d *desk) issue() {
	d.Helper()
	var shared string
	for i := range 12 {
		role := "billing"
		if i%4 == 3 {
			role = "reports"
		}
		secret := d.write("apitoken/creds/"+role, nil)
		text := secret.Data["token"].(string)
		d.texts = append(d.texts, text)
		if i == 0 {
			d.token, shared = secret.Data["token_id"].(string), text
		}
		for n := range i % 5 {
			d.write("apitoken/introspect", map[string]any{
				"token": text, "client_ip": "192.0.2.7", "required_scopes": []string{"invoices:read", "users:delete"}[n%2],
			})
		}
	}
	for i := range 8 {
		d.write("apitoken/introspect", map[string]any{
			"token": shared, "client_ip": fmt.Sprintf("10.1.%d.7", i), "required_scopes": "invoices:read",
		})
	}
	d.write("apitoken/introspect", map[string]any{"token": shared, "client_ip": "10.1.7.7", "required_scopes": "users:delete"})
	for range 100 {
		list, err := d.Logical().ReadWithDataWithContext(d.Context(), "apitoken/findings", map[string][]string{
			"list": {"true"}, "rule": {"shared"},
		})
		if err == nil && list != nil && len(list.Data["keys"].([]any)) > 0 {
			d.finding = list.Data["keys"].([]any)[0].(string)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	d.Fatal("there is no finding")
}

// console starts a console, and returns its URL.
func (d *desk) console(args ...string) string {
	d.Helper()
	binary, err := vaultserver.BuildPlugin(d.Context(), root, "./cmd/apitoken")
	if err != nil {
		d.Fatal(err)
	}
	log := filepath.Join(d.TempDir(), "console.log")
	cmd := exec.Command(binary, append([]string{"console", "-listen", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), "VAULT_ADDR="+d.server.Addr, "VAULT_TOKEN=must-not-be-used")
	if d.process, err = process.Start("console", cmd, log); err != nil {
		d.Fatal(err)
	}
	d.Cleanup(d.process.Stop)
	var at string
	err = d.process.Wait(d.Context(), func() bool {
		text, _ := os.ReadFile(log)
		if m := regexp.MustCompile(`is at (http://\S+)/`).FindSubmatch(text); m != nil {
			at = string(m[1])
		}
		return at != ""
	})
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() {
		text, _ := os.ReadFile(log)
		for _, secret := range append(d.texts, "ann-of-the-tests") {
			if strings.Contains(string(text), secret) {
				d.Errorf("the log has a secret: %s", text)
			}
		}
	})
	return at
}

// visitor is a browser without scripts and styles.
type visitor struct {
	*desk
	http *http.Client
	csrf string
}

func (d *desk) visitor() *visitor {
	jar, err := cookiejar.New(nil)
	if err != nil {
		d.Fatal(err)
	}
	return &visitor{desk: d, http: &http.Client{Jar: jar}}
}

func (v *visitor) do(method, path string, form url.Values) (*http.Response, string) {
	v.Helper()
	r, err := http.NewRequestWithContext(v.Context(), method, v.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		v.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := v.http.Do(r)
	if err != nil {
		v.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		v.Fatal(err)
	}
	for _, secret := range v.texts {
		if strings.Contains(string(text), secret) {
			v.Errorf("%s has the text of a token, or a credential", path)
		}
	}
	return resp, string(text)
}

func (v *visitor) get(path string, want ...string) string {
	v.Helper()
	resp, text := v.do(http.MethodGet, path, nil)
	if resp.StatusCode != http.StatusOK {
		v.Errorf("%s: %s", path, resp.Status)
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			v.Errorf("%s has no %q:\n%s", path, w, text)
		}
	}
	return text
}

func (v *visitor) hidden(text, name string) string {
	v.Helper()
	m := regexp.MustCompile(`name="` + name + `" value="([^"]+)"`).FindStringSubmatch(text)
	if m == nil {
		v.Fatalf("the page has no %s:\n%s", name, text)
	}
	return m[1]
}

// signIn signs in, and leads to the first page.
func (v *visitor) signIn(form url.Values) *visitor {
	v.Helper()
	form.Set("key", v.hidden(v.get("/sign-in"), "key"))
	resp, text := v.do(http.MethodPost, "/sign-in", form)
	if resp.StatusCode != http.StatusOK || resp.Request.URL.Path != "/" {
		v.Fatalf("%s at %s: %s", resp.Status, resp.Request.URL, text)
	}
	v.csrf = v.hidden(text, "csrf")
	return v
}

func (v *visitor) as(name string) *visitor {
	v.Helper()
	return v.signIn(url.Values{"method": {"password"}, "username": {name}, "password": {name + "-of-the-tests"}})
}

// accessors returns the number of Vault tokens.
func (d *desk) accessors() int {
	d.Helper()
	list, err := d.Logical().ListWithContext(d.Context(), "auth/token/accessors")
	if err != nil {
		d.Fatal(err)
	}
	return len(list.Data["keys"].([]any))
}

// TestConsole has the console work on a real Vault: policies decide, audit devices record, the console revokes its logins.
func TestConsole(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	before := d.accessors()
	ann := d.visitor().as("ann")
	ann.get("/", "live tokens", "shared", "userpass-ann")
	ann.get("/tokens?sort=uses", d.token, "root", "10.1.7.7")
	ann.get("/tokens?q="+url.QueryEscape("10.1.7"), d.token)
	ann.get("/tokens/"+d.token, "Finding: shared", "<strong>Issued</strong>", "Last use", "insufficient scope")
	ann.get("/roles?watched_for=0", "vault write apitoken/roles/billing")
	ann.get("/roles/billing?watched_for=0",
		"&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;", "vault write apitoken/roles/billing", "invoices:write")
	ann.get("/connections", "sso.example.com", "oauth2", "empty", "/connections/vault")
	ann.get("/connections/vault", d.Address(), "never", "Compare now", "There are no items.")
	ann.get("/findings", "/findings/"+d.finding)
	ann.get("/findings/"+d.finding, "10.1.5.7", "vault write apitoken/revoke token_id="+d.token)
	for began := time.Now(); time.Since(began) < 5*time.Second; time.Sleep(100 * time.Millisecond) { // until the uses are a second old
		if strings.Contains(ann.get("/reports/stale?unused_for=1s"), "vault write apitoken/revoke token_id=") {
			break
		}
	}
	ann.get("/reports/stale?unused_for=1s", "vault write apitoken/revoke token_id=")
	ann.get("/reports/broad", "reports", "command")
	ann.get("/reports/right-size?watched_for=0", "billing")
	ann.get("/reports/orphans", "no items")
	ann.get("/reports/unowned", "sso")
	if text := ann.get("/reports/unowned/csv", "connection,sso,"); !strings.HasPrefix(text, "kind,name,") {
		t.Error(text)
	}

	// Actions, with what the engine answers.
	act := func(path string, form url.Values, want string) {
		t.Helper()
		form.Set("csrf", ann.csrf)
		if _, text := ann.do(http.MethodPost, path, form); !strings.Contains(text, want) {
			t.Errorf("%s has no %q:\n%s", path, want, text)
		}
	}
	state := func() string {
		t.Helper()
		secret, err := d.Logical().ReadWithContext(t.Context(), "apitoken/tokens/"+d.token)
		if err != nil {
			t.Fatal(err)
		}
		return secret.Data["state"].(string)
	}
	act("/tokens/"+d.token+"/suspend", url.Values{"note": {"odd places"}}, "was suspended")
	if state() != "suspended" {
		t.Error(state())
	}
	ann.get("/tokens/"+d.token, "odd places", "<strong>Suspended</strong>")
	act("/tokens/"+d.token+"/suspend", url.Values{"note": {strings.Repeat("x", 300)}}, "Vault refused the request: note")
	act("/tokens/"+d.token+"/resume", url.Values{}, "was resumed")
	act("/tokens/"+d.token+"/revoke", url.Values{}, "was revoked")
	if state() != "revoked" {
		t.Error(state())
	}
	act("/tokens/"+d.token+"/resume", url.Values{}, "Vault refused the request")
	act("/findings/"+d.finding, url.Values{"note": {"a load test"}}, "a load test")
	ann.get("/findings?state=acknowledged", d.finding)

	// The service is this Vault server: the token of the tests was made without the engine.
	act("/connections/sso/reconcile", url.Values{}, "Vault refused the request: name: provider &#34;oauth2&#34; cannot list the tokens")
	act("/connections/vault/reconcile", url.Values{}, "The tokens of the connection vault were compared.")
	ann.get("/connections/vault", "done", "all tokens that the credential can see", "foreign</span>", "made without the engine",
		"vault write apitoken/roles/... connection=vault")
	ann.get("/connections/sso", "There are no items.")
	ann.get("/reports/orphans?kind=upstream_token", `<a href="/connections/vault">vault</a>`, "auth/token/root")

	// Vault's policies decide.
	bob := d.visitor().as("bob")
	bob.get("/", "Your Vault policies do not allow you to read apitoken/report/summary.",
		"Your Vault policies do not allow you to list apitoken/tokens.")
	resp, text := bob.do(http.MethodPost, "/tokens/"+d.token+"/revoke", url.Values{"csrf": {bob.csrf}})
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(text, "do not allow you to write to apitoken/revoke.") {
		t.Error(resp.Status, text)
	}

	resp, text = bob.do(http.MethodPost, "/connections/vault/reconcile", url.Values{"csrf": {bob.csrf}})
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(text, "do not allow you to write to apitoken/connections/vault/reconcile.") {
		t.Error(resp.Status, text)
	}

	// Vault's audit log has each request under the name of the session.
	audit, err := os.ReadFile(d.audit)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"apitoken/revoke", "apitoken/suspend", "apitoken/report/summary", "apitoken/findings/" + d.finding, "apitoken/roles/billing",
		"apitoken/connections/vault/reconcile",
	} {
		found := false
		for line := range strings.Lines(string(audit)) {
			found = found || strings.Contains(line, `"path":"`+path+`"`) && strings.Contains(line, `"display_name":"userpass-ann"`)
		}
		if !found {
			t.Errorf("the audit log has no request of ann to %s", path)
		}
	}

	// A sign-out revokes the console's login; a stop revokes all of them; a pasted token stays.
	child := d.write("auth/token/create", map[string]any{"policies": "console"}).Auth.ClientToken
	pasted := d.visitor().signIn(url.Values{"method": {"token"}, "token": {child}})
	if n := d.accessors(); n != before+3 {
		t.Errorf("%d tokens, of which %d were there before", n, before)
	}
	ann.do(http.MethodPost, "/sign-out", url.Values{"csrf": {ann.csrf}})
	d.until("the login of ann is revoked", func() bool { return d.accessors() == before+2 })
	pasted.get("/reports", "token")
	if err := d.Auth().Token().RevokeTreeWithContext(t.Context(), child); err != nil {
		t.Fatal(err)
	}
	pasted.get("/", "Your Vault token has expired or was revoked.")
	form := url.Values{"method": {"token"}, "token": {child}, "key": {pasted.hidden(pasted.get("/sign-in"), "key")}}
	if resp, text := pasted.do(http.MethodPost, "/sign-in", form); resp.StatusCode != http.StatusUnauthorized {
		t.Error(resp.Status, text)
	}
	d.process.Stop()
	d.until("the login of bob is revoked", func() bool { return d.accessors() == before })
}

func (d *desk) until(what string, done func() bool) {
	d.Helper()
	for range 100 {
		if done() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	d.Errorf("%s: not within ten seconds", what)
}

// TestConsoleOIDC signs in by OIDC through Vault. Vault is the identity provider, too.
func TestConsoleOIDC(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	ctx := t.Context()
	callback := d.url + "/oidc/callback"
	if err := d.Sys().EnableAuthWithOptionsWithContext(ctx, "oidc", &api.EnableAuthOptions{Type: "oidc"}); err != nil {
		t.Fatal(err)
	}
	d.write("identity/oidc/client/console", map[string]any{"redirect_uris": callback, "assignments": "allow_all"})
	client, err := d.Logical().ReadWithContext(ctx, "identity/oidc/client/console")
	if err != nil {
		t.Fatal(err)
	}
	d.write("auth/oidc/config", map[string]any{
		"oidc_discovery_url": d.server.Addr + "/v1/identity/oidc/provider/default", "oidc_client_id": client.Data["client_id"],
		"oidc_client_secret": client.Data["client_secret"], "default_role": "console",
	})
	role := map[string]any{
		"role_type": "oidc", "user_claim": "sub", "allowed_redirect_uris": "http://127.0.0.1:1/elsewhere", "token_policies": "console",
	}
	d.write("auth/oidc/role/console", role)
	v := d.visitor()
	start := func() (*http.Response, string) {
		t.Helper()
		return v.do(http.MethodPost, "/sign-in/oidc", url.Values{"key": {v.hidden(v.get("/sign-in"), "key")}})
	}
	resp, text := start()
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(text, "allowed_redirect_uris of the role") {
		t.Error(resp.Status, text)
	}
	role["allowed_redirect_uris"] = callback
	d.write("auth/oidc/role/console", role)
	resp, _ = start()
	to, err := url.Parse(strings.TrimPrefix(resp.Header.Get("Refresh"), "0; url="))
	if err != nil || to.Query().Get("redirect_uri") != callback {
		t.Fatal(resp.Status, to, err)
	}

	// The person signs in at the identity provider.
	login := d.write("auth/userpass/login/ann", map[string]any{"password": "ann-of-the-tests"})
	person, err := d.CloneWithHeaders()
	if err != nil {
		t.Fatal(err)
	}
	person.SetToken(login.Auth.ClientToken)
	answer, err := person.Logical().ReadRawWithDataWithContext(ctx, "identity/oidc/provider/default/authorize", to.Query())
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var code struct{ Code, State string }
	if err := json.NewDecoder(answer.Body).Decode(&code); err != nil || code.Code == "" {
		t.Fatal(code, err)
	}
	back := "/oidc/callback?" + url.Values{"code": {code.Code}, "state": {code.State}}.Encode()
	stranger := d.visitor()
	if resp, _ := stranger.do(http.MethodGet, back, nil); resp.StatusCode != http.StatusForbidden {
		t.Errorf("another browser: %s", resp.Status)
	}
	v.get(back, "Continue to the console")
	v.get("/", "live tokens", "oidc-")
}

// TestConsoleBrowser has Chromium use the console.
func TestConsoleBrowser(t *testing.T) {
	t.Parallel()
	chromium, noChromium := exec.LookPath("chromium")
	_, noNPM := exec.LookPath("npm")
	if err := errors.Join(noChromium, noNPM); err != nil {
		if os.Getenv("REQUIRE_CHROMIUM") != "" {
			t.Fatal(err)
		}
		fmt.Fprintln(os.Stderr, "The test of the console in a browser is skipped:", err)
		t.Skipf("SKIPPED: needs chromium, node and npm: %v", err)
	}
	d := newDesk(t)
	d.write("apitoken/connections/vault/reconcile", nil)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, "cmd", "apitoken", "internal", "console", "e2e"))); err != nil {
		t.Fatal(err)
	}
	run := func(extra []string, name string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), extra...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		t.Logf("%s", out)
	}
	run(nil, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	env := []string{
		"CONSOLE=" + d.url, "PASSWORD=ann-of-the-tests", "TOKEN_ID=" + d.token, "FINDING_ID=" + d.finding, "CHROMIUM=" + chromium,
	}
	if *updateConsole {
		env = append(env, "SCREENSHOTS="+filepath.Join(root, "docs", "console"))
	}
	run(env, "node", "console.mjs")
}

// cpu returns the CPU time that Vault, the plugin and the console have used: on a busy machine the times of answers say little.
func (d *desk) cpu() (used time.Duration) {
	d.Helper()
	for _, pid := range append(children(d.server.PID(), vaultserver.PluginName), d.server.PID(), d.process.PID()) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			d.Fatal(err)
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		for _, field := range fields[11:13] { // utime and stime, in hundredths of a second
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				d.Fatal(err)
			}
			used += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return used
}

// TestConsoleScale measures the pages of a mount with many tokens.
func TestConsoleScale(t *testing.T) {
	if *consoleTokens < 100_000 {
		t.Parallel()
	}
	d := newDesk(t)
	var group errgroup.Group
	group.SetLimit(32)
	for range *consoleTokens {
		group.Go(func() error {
			_, err := d.Logical().ReadWithContext(t.Context(), "apitoken/creds/billing")
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	ann := d.visitor().as("ann")
	for _, path := range []string{
		"/", "/tokens", "/tokens?role=billing&use=unused&for=1s", "/tokens?q=nothing-has-this", "/tokens?sort=uses",
		"/tokens/" + d.token, "/roles?watched_for=0", "/roles/billing?watched_for=0", "/connections", "/findings",
		"/findings/" + d.finding, "/reports/stale?unused_for=1s&kind=token",
		"/reports/broad", "/reports/right-size?watched_for=0", "/reports/orphans", "/reports/unowned",
	} {
		var took []time.Duration
		before := d.cpu()
		for range 9 {
			began := time.Now()
			ann.do(http.MethodGet, path, nil)
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		cpu := (d.cpu() - before) / time.Duration(len(took))
		t.Logf("%-42s median %s, fastest %s, CPU time %s", path, took[len(took)/2].Round(time.Millisecond),
			took[0].Round(time.Millisecond), cpu.Round(time.Millisecond))
		if *consoleTokens >= 100_000 && took[len(took)/2] > consoleBar {
			t.Errorf("%s takes %s, more than %s", path, took[len(took)/2], consoleBar)
		}
	}
}
