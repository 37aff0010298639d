package acceptance

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/geoip/geoiptest"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/process"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/vaultserver"
)

// revocationBar is how soon every gateway refuses a revoked token.
const revocationBar = 2 * time.Second

// gateway is a real gateway with a configuration of bootstrap/authz.
type gateway struct {
	name    string
	kind    string   // of the authorizer's configuration
	binary  string   // on PATH, or in bin/
	files   []string // of bootstrap/authz; the first is the main one
	command func(binary, dir string) *exec.Cmd
	alias   int // status of a request with another spelling of an identity header: 200 if the gateway drops the header itself
}

func caddy(file string) func(binary, dir string) *exec.Cmd {
	return func(binary, dir string) *exec.Cmd {
		return exec.Command(binary, "run", "--adapter", "caddyfile", "--config", filepath.Join(dir, file))
	}
}

func traefik(file string) func(binary, dir string) *exec.Cmd {
	return func(binary, dir string) *exec.Cmd {
		return exec.Command(binary, "--configFile="+filepath.Join(dir, file))
	}
}

func nginx(file string) func(binary, dir string) *exec.Cmd {
	return func(binary, dir string) *exec.Cmd {
		return exec.Command(binary, "-c", filepath.Join(dir, file), "-p", dir, "-e", filepath.Join(dir, "error.log"), "-g", "daemon off; pid "+filepath.Join(dir, "nginx.pid")+";")
	}
}

var gateways = []gateway{
	{"nginx", "nginx", "nginx", []string{"nginx.conf"}, nginx("nginx.conf"), 200},
	{"nginx with headers", "nginx_headers", "nginx", []string{"nginx-headers.conf"}, nginx("nginx-headers.conf"), 200},
	{"Caddy on PATH", "caddy", "caddy", []string{"Caddyfile"}, caddy("Caddyfile"), 400},
	{"Caddy of bootstrap", "caddy", "bin/caddy", []string{"Caddyfile"}, caddy("Caddyfile"), 200},
	{"Traefik", "traefik", "traefik", []string{"traefik.yaml", "traefik-api.yaml"}, traefik("traefik.yaml"), 200},
}

// find returns the path of a gateway's binary.
func (g *gateway) find() (string, error) {
	if strings.HasPrefix(g.binary, "bin/") {
		path := filepath.Join(root, g.binary)
		_, err := os.Stat(path)
		return path, err
	}
	if path, err := exec.LookPath(g.binary); err == nil {
		return path, nil
	}
	path := filepath.Join(root, "bin", g.binary)
	_, err := os.Stat(path)
	return path, err
}

// require returns the path of a gateway's binary, or skips the test.
func (g *gateway) require(t *testing.T) string {
	t.Helper()
	binary, err := g.find()
	if err != nil && os.Getenv("REQUIRE_GATEWAYS") != "" {
		t.Fatal(err)
	} else if err != nil {
		fmt.Fprintf(os.Stderr, "The tests with the gateway %s are skipped: %v\n", g.name, err)
		t.Skipf("SKIPPED: there is no %s, neither on PATH nor in bin/ (bootstrap/gateways/build.sh builds Caddy and Traefik): %v", g.binary, err)
	}
	return binary
}

// shop is a Vault server with the engine, an authorizer, and an API behind gateways.
type shop struct {
	*api.Client
	server   *vaultserver.Server
	api      *orders
	authz    string // address of the authorizer
	admin    string // address of its /readyz
	authzLog string
}

// orders is the API. It answers with the request's headers, and remembers the paths that it was asked for.
type orders struct {
	*httptest.Server
	mu    sync.Mutex
	paths []string
}

func newOrders(t *testing.T) *orders {
	o := &orders{}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		o.paths = append(o.paths, r.RequestURI)
		o.mu.Unlock()
		_ = json.NewEncoder(w).Encode(r.Header)
	}))
	t.Cleanup(o.Close)
	return o
}

func (o *orders) seen() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.paths, "\n")
}

// configuration copies files of bootstrap/authz into a folder, with other addresses. The files are those of docs/gateway.md.
func configuration(t *testing.T, dir string, files []string, replace ...string) {
	t.Helper()
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(root, "bootstrap", "authz", name))
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.NewReplacer(replace...).Replace(string(text))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// newShop starts Vault, an API and the authorizer. The authorizer's configuration has more settings, a line each.
func newShop(t *testing.T, settings ...string) *shop {
	server := mounted(t)
	s := &shop{Client: server.Client(), server: server, api: newOrders(t)}
	s.write(t, "apitoken/config", map[string]any{"issuer": server.Addr + "/v1/apitoken", "jwks_max_age": "1s", "status_list_ttl": "1m"})
	time.Sleep(1100 * time.Millisecond) // until the first signing key may sign
	for name, more := range map[string]map[string]any{
		"reader":    {},
		"jwt":       {"token_format": "jwt"},
		"far":       {"token_bound_cidrs": "192.0.2.0/24"},
		"elsewhere": {"bound_hosts": "other.example.com"},
		"here":      {"bound_regions": "EU"},
		"abroad":    {"bound_regions": "US"},
		"slow":      {"rate_limit": "2/1h"},
	} {
		role := map[string]any{"scopes": "orders:read", "audience": "https://orders.example.com", "ttl": "1h"}
		for k, v := range more {
			role[k] = v
		}
		s.write(t, "apitoken/roles/"+name, role)
	}
	s.startAuthorizer(t, settings)
	return s
}

func (s *shop) startAuthorizer(t *testing.T, settings []string) {
	t.Helper()
	ctx := t.Context()
	binary, err := vaultserver.BuildPlugin(ctx, root, "./cmd/apitoken-authz")
	if err != nil {
		t.Fatal(err)
	}
	policy, err := os.ReadFile(filepath.Join(root, "bootstrap", "authz", "policy.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Sys().PutPolicyWithContext(ctx, "apitoken-authz", string(policy)); err != nil {
		t.Fatal(err)
	}
	login, err := s.Auth().Token().CreateWithContext(ctx, &api.TokenCreateRequest{Policies: []string{"apitoken-authz"}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	tokenFile := filepath.Join(dir, "vault-token")
	if err := os.WriteFile(tokenFile, []byte(login.Auth.ClientToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ports, err := process.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	regions := filepath.Join(dir, "regions.mmdb")
	geoiptest.Write(t, regions, map[string]string{"127.0.0.0/8": "DE"})
	s.authz, s.admin, s.authzLog = "127.0.0.1:"+ports[0], "127.0.0.1:"+ports[1], filepath.Join(dir, "authz.log")
	configuration(t, dir, []string{"authz.yaml"}, "127.0.0.1:9191", s.authz, "127.0.0.1:9190", s.admin,
		"gateways: [nginx]", "gateways: [nginx, nginx_headers, caddy, traefik]\ngeoip_database: "+regions+"\n"+strings.Join(settings, "\n"),
		"https://vault.example.com:8200", s.server.Addr, "/run/apitoken-authz/vault-token", tokenFile)
	p, err := process.Start("apitoken-authz", exec.Command(binary, "-config", filepath.Join(dir, "authz.yaml")), s.authzLog)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	if err := p.Wait(ctx, func() bool {
		resp, err := http.Get("http://" + s.admin + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}); err != nil {
		t.Fatal(err)
	}
}

func (s *shop) write(t *testing.T, path string, data map[string]any) *api.Secret {
	t.Helper()
	secret, err := s.Logical().WriteWithContext(t.Context(), path, data)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func (s *shop) token(t *testing.T, role string) (text, lease string) {
	t.Helper()
	secret, err := s.Logical().ReadWithContext(t.Context(), "apitoken/creds/"+role)
	if err != nil {
		t.Fatal(err)
	}
	return secret.Data["token"].(string), secret.LeaseID
}

// start runs a gateway in front of the API, and returns its address.
func (g *gateway) start(t *testing.T, s *shop, binary string) string {
	t.Helper()
	return g.startWith(t, s, binary, t.TempDir(), func(address string) (int, error) {
		status, _, err := send(address, "GET", "/status")
		return status, err
	})
}

// startWith runs a gateway like start, in a folder whose files the configuration names. ask asks the gateway for /status.
func (g *gateway) startWith(t *testing.T, s *shop, binary, dir string, ask func(address string) (int, error)) string {
	t.Helper()
	ports, err := process.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:" + ports[0]
	configuration(t, dir, g.files, "127.0.0.1:8000", address, "http://:8000", "http://:"+ports[0], "orders.example.com:8000", "orders.example.com:"+ports[0], "127.0.0.1:8080", s.api.Listener.Addr().String(),
		"127.0.0.1:9191", s.authz, "traefik-api.yaml", filepath.Join(dir, "traefik-api.yaml"),
		"traefik-certificates-api.yaml", filepath.Join(dir, "traefik-certificates-api.yaml"), "/etc/nginx/tls", dir, "/etc/caddy/tls", dir, "/etc/traefik/tls", dir)
	cmd := g.command(binary, dir)
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	p, err := process.Start(g.name, cmd, filepath.Join(dir, "gateway.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	if err := p.Wait(t.Context(), func() bool {
		status, err := ask(address)
		return err == nil && status == http.StatusOK
	}); err != nil {
		log, _ := os.ReadFile(s.authzLog)
		t.Fatalf("%v\n%s", err, log[max(0, len(log)-2000):])
	}
	return address
}

// send sends a request byte by byte: a client library would change targets. The headers follow "Host: orders.example.com".
func send(address, method, target string, header ...string) (status int, seen http.Header, err error) {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return 0, nil, err
	}
	return exchange(conn, method, target, header)
}

// exchange sends a request like send, and closes the connection.
func exchange(conn net.Conn, method, target string, header []string) (status int, seen http.Header, err error) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	lines := append([]string{method + " " + target + " HTTP/1.1", "Host: orders.example.com"}, header...)
	if !strings.Contains(strings.Join(header, "\n"), "Connection:") {
		lines = append(lines, "Connection: close")
	}
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		return 0, nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && method != "HEAD" {
		err = json.NewDecoder(resp.Body).Decode(&seen)
	} else {
		seen = resp.Header
	}
	return resp.StatusCode, seen, err
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// TestGateways puts the authorizer behind real gateways, with the files that docs/gateway.md shows.
func TestGateways(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for _, g := range gateways {
		t.Run(g.name, func(t *testing.T) {
			binary := g.require(t)
			address := g.start(t, s, binary)
			t.Run("decisions", func(t *testing.T) { s.decisions(t, &g, address) })
			t.Run("identity", func(t *testing.T) { s.identity(t, &g, address) })
			t.Run("paths", func(t *testing.T) { s.paths(t, address) })
			for _, role := range []string{"reader", "jwt"} {
				t.Run("revocation of "+role, func(t *testing.T) { s.revocation(t, g.name, address, role) })
			}
		})
	}
	log, err := os.ReadFile(s.authzLog)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), "apt_") || strings.Contains(string(log), "eyJ") {
		t.Error("a token is in the authorizer's log")
	}
}

func (s *shop) decisions(t *testing.T, g *gateway, address string) {
	tooMany := http.StatusTooManyRequests
	if strings.HasPrefix(g.kind, "nginx") {
		tooMany = http.StatusForbidden // auth_request makes 500 of 429
	}
	tokens := map[string]string{"": "", "noise": "noise"}
	for _, role := range []string{"reader", "jwt", "far", "elsewhere", "here", "abroad", "slow"} {
		tokens[role], _ = s.token(t, role)
	}
	for _, c := range []struct {
		method, target, token string
		status                int
	}{
		{"GET", "/status", "", 200},
		{"GET", "/orders", "reader", 200},
		{"GET", "/orders/7/lines?page=2", "reader", 200},
		{"HEAD", "/orders", "reader", 200},
		{"GET", "/orders", "jwt", 200},
		{"GET", "/orders", "", 401},
		{"GET", "/orders", "noise", 401},
		{"POST", "/orders", "reader", 403},
		{"POST", "/orders", "jwt", 403},
		{"GET", "/admin/users", "reader", 403},
		{"GET", "/orders", "far", 403},
		{"GET", "/orders", "elsewhere", 403},
		{"GET", "/orders", "here", 200},
		{"GET", "/orders", "abroad", 403},
		{"GET", "/orders", "slow", 200},
		{"GET", "/orders", "slow", 200},
		{"GET", "/orders", "slow", tooMany},
		{"GET", "/other", "reader", 403},
		{"PATCH", "/orders", "reader", 403},
	} {
		var header []string
		if c.method == "POST" || c.method == "PATCH" {
			header = append(header, "Content-Length: 0")
		}
		if c.token != "" {
			header = append(header, bearer(tokens[c.token]))
		}
		status, seen, err := send(address, c.method, c.target, header...)
		if err != nil || status != c.status {
			t.Errorf("%s %s with %q: %d, %v, want %d", c.method, c.target, c.token, status, err, c.status)
		}
		if status == 401 && !strings.Contains(seen.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s %s with %q: challenge %q", c.method, c.target, c.token, seen.Get("WWW-Authenticate"))
		}
	}
}

// identity checks that the API sees who asks, and never what the client says of itself.
func (s *shop) identity(t *testing.T, g *gateway, address string) {
	token, _ := s.token(t, "reader")
	spoofed := []string{"X-Token-Id: admin", "X-Token-Subject: admin", "X-Token-Role: admin", "X-Token-Scope: admin"}
	for _, c := range []struct{ target, role, scope string }{{"/orders", "reader", "orders:read"}, {"/status", "-", "-"}} {
		status, seen, err := send(address, "GET", c.target, append(spoofed, bearer(token))...)
		if err != nil || status != 200 {
			t.Fatalf("%d, %v", status, err)
		}
		if seen.Get("X-Token-Role") != c.role || seen.Get("X-Token-Scope") != c.scope {
			t.Errorf("%s: the API sees %v", c.target, seen)
		}
		for name, values := range seen {
			if strings.HasPrefix(name, "X-Token") && (len(values) != 1 || values[0] == "" || strings.Contains(values[0], "admin")) {
				t.Errorf("%s: the API sees %s: %q", c.target, name, values)
			}
		}
	}
	for _, alias := range []string{"X_Token_Subject: admin", "X-Token_Role: admin"} {
		status, seen, err := send(address, "GET", "/orders", alias, bearer(token))
		if err != nil || status != g.alias {
			t.Errorf("%s: %d, %v, want %d", alias, status, err, g.alias)
		}
		if strings.Contains(fmt.Sprint(seen), "admin") {
			t.Errorf("%s: the API sees %v", alias, seen)
		}
	}
	// A proxy that drops what Connection lists would drop the identity.
	status, seen, err := send(address, "GET", "/orders", "Connection: close, X-Token-Subject, X-Token-Role", bearer(token))
	if err != nil || status == 200 && seen.Get("X-Token-Role") != "reader" {
		t.Errorf("Connection: %d, %v, %v", status, seen, err)
	}
	// Nor can the client say that it asks for something else.
	for _, header := range []string{
		"X-Forwarded-Uri: /status", "X-Forwarded-Method: HEAD", "X-Original-URI: /status", "X-Original-Method: GET", "X-Forwarded-Host: other", "X-Forwarded-Prefix: /status",
		"X-Original-URL: /status", "X-Rewrite-URL: /status", "User-Agent: kube-probe/1.30",
	} {
		if status, _, err := send(address, "GET", "/orders", header); err != nil || status == 200 {
			t.Errorf("%s: %d, %v", header, status, err)
		}
	}
	far, _ := s.token(t, "far")
	for _, header := range []string{"X-Forwarded-For: 192.0.2.1", "X-Real-IP: 192.0.2.1", "X-Original-Addr: 192.0.2.1", "Forwarded: for=192.0.2.1"} {
		if status, _, err := send(address, "GET", "/orders", header, bearer(far)); err != nil || status == 200 {
			t.Errorf("%s: %d, %v", header, status, err)
		}
	}
}

// paths checks that no spelling of a path leads a reader or nobody to the administration.
func (s *shop) paths(t *testing.T, address string) {
	token, _ := s.token(t, "reader")
	for _, target := range []string{
		"/status/../admin/users", "/status/%2e%2e/admin/users", "/orders/..%2fadmin/users", "/orders/%2e%2e%2fadmin", "/orders/..;/admin/users", "//admin/users",
		"/orders//../admin/users", "/%61dmin/users", "/admin%2fusers", `/orders\..\admin\users`, "/orders/..%5cadmin%5cusers", "/orders/%252e%252e/admin/users",
		"/admin/users?/status", "/status?/../admin/users", "/status%3f/../admin/users", "/status#/../admin/users", "/admin/users#/status", "/./admin/users",
		"/orders/%c0%ae%c0%ae/admin/users", "http://orders.example.com/admin/users", "http://other.example.com/admin/users", "/admin/users%00", "/admin/users;/status",
	} {
		for _, header := range [][]string{nil, {bearer(token)}} {
			status, _, err := send(address, "GET", target, header...)
			// A gateway may answer a request by itself, or close the connection.
			if err == nil && status == 200 && target != "/status?/../admin/users" {
				t.Errorf("%s: %d", target, status)
			}
		}
	}
	for path := range strings.Lines(s.api.seen()) {
		before, _, _ := strings.Cut(path, "?")
		if strings.Contains(before, "admin") || strings.Contains(before, "..") {
			t.Errorf("the API was asked for %s", path)
		}
	}
}

// revocation measures how soon a gateway refuses a token after its lease is revoked.
func (s *shop) revocation(t *testing.T, name, address, role string) {
	token, lease := s.token(t, role)
	for range 3 {
		if status, _, err := send(address, "GET", "/orders", bearer(token)); err != nil || status != 200 {
			t.Fatalf("%d, %v", status, err)
		}
	}
	start := time.Now()
	if err := s.Sys().RevokeWithOptionsWithContext(context.WithoutCancel(t.Context()), &api.RevokeOptions{LeaseID: lease, Sync: true}); err != nil {
		t.Fatal(err)
	}
	for {
		status, _, err := send(address, "GET", "/orders", bearer(token))
		took := time.Since(start)
		if err == nil && status == 401 {
			t.Logf("%s refused a revoked token of role %s after %s", name, role, took.Round(time.Millisecond))
			if took > revocationBar {
				t.Errorf("that is more than %s", revocationBar)
			}
			return
		}
		if err != nil || status != 200 || took > 10*revocationBar {
			t.Fatalf("after %s: %d, %v", took, status, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// anyGateway returns the first gateway that there is, and its binary.
func anyGateway(t *testing.T) (*gateway, string) {
	t.Helper()
	for i := range gateways {
		if path, err := gateways[i].find(); err == nil {
			return &gateways[i], path
		}
	}
	if os.Getenv("REQUIRE_GATEWAYS") != "" {
		t.Fatal("there is no gateway")
	}
	t.Skip("SKIPPED: there is no gateway, neither on PATH nor in bin/")
	return nil, ""
}

// TestGatewayWithoutVault stops Vault: tokens that were seen stay good for a while, and then nothing that cannot be checked may
// pass. When Vault is back, the tokens are good again, and revocations are seen.
func TestGatewayWithoutVault(t *testing.T) {
	t.Parallel()
	g, binary := anyGateway(t)
	s := newShop(t)
	address := g.start(t, s, binary)
	opaque, _ := s.token(t, "reader")
	unseen, _ := s.token(t, "reader")
	jwt, _ := s.token(t, "jwt")
	status := func(token string) int {
		t.Helper()
		got, _, err := send(address, "GET", "/orders", bearer(token))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	ready := func() bool {
		resp, err := http.Get("http://" + s.admin + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	if status(opaque) != 200 || status(jwt) != 200 {
		t.Fatal("the tokens are not good")
	}

	s.server.Stop()
	stopped := time.Now()
	if status(opaque) != 200 || status(jwt) != 200 {
		t.Error("tokens that were seen are refused at once")
	}
	if got := status(unseen); got == 200 {
		t.Error("a token that was never seen may pass")
	}
	for status(opaque) == 200 {
		if time.Since(stopped) > 20*time.Second {
			t.Fatal("an opaque token may still pass")
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("an opaque token was refused %s after Vault stopped", time.Since(stopped).Round(100*time.Millisecond))
	if time.Since(stopped) < 8*time.Second {
		t.Error("that is too soon: a restart of Vault takes seconds")
	}
	if got, _, err := send(address, "GET", "/status"); err != nil || got != 200 || status(jwt) != 200 || ready() {
		t.Errorf("/status %d, %v; the JWT %d; ready %t", got, err, status(jwt), ready())
	}

	if err := s.server.Restart(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	for status(opaque) != 200 || status(unseen) != 200 || status(jwt) != 200 || !ready() {
		if time.Since(back) > 20*time.Second {
			t.Fatalf("opaque %d, unseen %d, JWT %d, ready %t", status(opaque), status(unseen), status(jwt), ready())
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("all tokens were good %s after Vault was back", time.Since(back).Round(100*time.Millisecond))
	for _, role := range []string{"reader", "jwt"} {
		s.revocation(t, g.name, address, role)
	}
}
