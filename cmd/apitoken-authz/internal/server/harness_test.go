package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
)

const configuration = `listen: {http: 127.0.0.1:0, grpc: 127.0.0.1:0, admin: 127.0.0.1:0}
gateways: [nginx, nginx_headers, caddy, traefik, envoy]
vault: {token_file: /none}
audience: api
rules:
  - {name: status, hosts: ["*"], methods: [GET], paths: [/status, /public/**], public: true}
  - {name: admin, hosts: ["*"], methods: ["*"], paths: [/admin/**], scopes: [admin]}
  - {name: slow, hosts: ["*"], methods: [GET], paths: [/slow], any_token: true, rate: 2/1h}
  - {name: slow public, hosts: ["*"], methods: [GET], paths: [/slow-public], public: true, rate: 2/1h}
  - {name: other, hosts: ["*"], methods: [GET], paths: [/other], any_token: true, audience: other}
  - {name: files, hosts: ["*"], methods: [GET], paths: [/files/*], any_token: true, allow_encoded_slash: true}
  - {name: read, hosts: [api.example.com, "*.example.org"], methods: [GET, HEAD], paths: ["/*", "/*/*"], scopes: ["orders:read"]}
  - {name: write, hosts: [api.example.com], methods: [POST, DELETE], paths: [/orders, "/orders/*"], scopes: ["orders:write"]}
`

// fake is a Checker over a few tokens. It decides as the engine does.
type fake struct {
	mu     sync.Mutex
	tokens map[string]*known
	err    error
	panics bool
	uses   []verify.Use // all questions
	state  verify.State
}

type known struct {
	decision    verify.Decision
	permissions access.Permissions
	state       access.State
}

func newFake(t testing.TB) *fake {
	t.Helper()
	tenNet, err := access.ParseAddresses([]string{"10.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	expires := time.Now().Add(time.Hour)
	one := func(id string, p access.Permissions) *known {
		return &known{
			decision:    verify.Decision{TokenID: id, GrantID: id, Role: "reader", Subject: "entity-1", Scopes: p.Scopes, ExpiresAt: expires},
			permissions: p, state: access.State{ExpiresAt: expires},
		}
	}
	f := &fake{state: verify.State{Ready: true}, tokens: map[string]*known{
		"good":    one("id-good", access.Permissions{Scopes: access.Scopes{"orders:*"}, Audience: []string{"api"}}),
		"reader":  one("id-reader", access.Permissions{Scopes: access.Scopes{"orders:read"}, Audience: []string{"api"}}),
		"tennet":  one("id-tennet", access.Permissions{Scopes: access.Scopes{"orders:*"}, Audience: []string{"api"}, Addresses: []access.Addresses{tenNet}}),
		"hosted":  one("id-hosted", access.Permissions{Scopes: access.Scopes{"orders:*"}, Audience: []string{"api"}, Hosts: []access.Hosts{{"api.example.com"}}}),
		"revoked": one("id-revoked", access.Permissions{Scopes: access.Scopes{"orders:*"}, Audience: []string{"api"}}),
		"strange": one("id-strange", access.Permissions{Scopes: access.Scopes{"orders:*"}, Audience: []string{"api"}}),
	}}
	f.tokens["revoked"].state.Revoked = true
	f.tokens["strange"].decision.Subject = "a\r\nX-Token-Role: admin\x00 é\"%"
	f.tokens["strange"].decision.Role = ""
	return f
}

func (f *fake) State() verify.State { return f.state }

func (f *fake) Check(_ context.Context, text string, use *verify.Use) (verify.Decision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.uses = append(f.uses, *use)
	if f.panics {
		panic("the checker failed")
	}
	if f.err != nil {
		return verify.Decision{}, f.err
	}
	k, ok := f.tokens[text]
	if !ok {
		return verify.Decision{Reason: access.Unknown, Detail: "no such token"}, nil
	}
	audience := use.Audience
	if audience == "" {
		audience = "api"
	}
	d := k.decision
	u := &access.Use{Scopes: use.Scopes, Audience: audience, ClientIP: use.Client, Host: use.Host}
	d.Reason = access.Decide(time.Now(), k.state, &k.permissions, u)
	d.Detail = access.Explain(d.Reason, &k.permissions, u)
	d.Allowed = d.Reason == access.Good
	return d, nil
}

func (f *fake) asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.uses)
}

func (f *fake) last() verify.Use {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.uses[len(f.uses)-1]
}

// world is a running server, with all kinds of gateways.
type world struct {
	*Server
	*fake
	http, admin string
	envoy       authv3.AuthorizationClient
	log         *lockedBuffer
	registry    *prometheus.Registry
	stop        func() error // stops the server, and returns what Run returned
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// atOnce returns Lines that do not wait.
func atOnce(out io.Writer) *Lines {
	l := NewLines(out)
	_ = l.Close()
	return l
}

// start runs a server. more are lines that are put before the rules of the configuration.
func start(t testing.TB, more ...string) *world {
	t.Helper()
	text := strings.Replace(configuration, "rules:", strings.Join(append(more, "rules:"), "\n"), 1)
	f, err := config.Parse("authz.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{fake: newFake(t), log: &lockedBuffer{}, registry: prometheus.NewRegistry()}
	w.Server = New(w.fake, f, slog.New(slog.NewJSONHandler(w.log, nil)), atOnce(w.log), w.registry)
	l, err := Listen(f)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, l, nil, nil) }()
	w.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = w.stop() })
	w.http, w.admin = l.HTTP.Addr().String(), l.Admin.Addr().String()
	conn, err := grpc.NewClient(l.GRPC.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	w.envoy = authv3.NewAuthorizationClient(conn)
	return w
}

// asked is a client's request as the gateway sees it. The zero values are those of get.
type ask struct {
	method, target, host, scheme, client string
	header                               []string // "Name: value"
}

func get(target, token string) ask {
	a := ask{target: target}
	if token != "" {
		a.header = []string{"Authorization: Bearer " + token}
	}
	return a
}

func (a ask) with(header ...string) ask {
	a.header = append(append([]string{}, a.header...), header...)
	return a
}

func (a ask) filled() ask {
	for _, f := range []struct {
		field *string
		value string
	}{{&a.method, "GET"}, {&a.host, "api.example.com"}, {&a.scheme, "https"}, {&a.client, "10.1.2.3"}} {
		if *f.field == "" {
			*f.field = f.value
		}
	}
	return a
}

// got is what the authorizer answered.
type got struct {
	allowed bool
	status  int
	reason  string // from the log
	header  http.Header
	removed []string
	body    string
}

var modes = []string{"nginx", "nginx_headers", "caddy", "traefik", "envoy"}

// eachMode runs a test in every mode, on a server of its own.
func eachMode(t *testing.T, test func(t *testing.T, w *world, mode string), more ...string) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) { test(t, start(t, more...), mode) })
	}
}

// send asks as a gateway of a mode does, byte by byte.
func (w *world) send(t testing.TB, mode string, a ask) got {
	t.Helper()
	a = a.filled()
	before := len(w.log.String())
	var g got
	if mode == "envoy" {
		g = w.sendEnvoy(t, a)
	} else {
		g = w.sendHTTP(t, mode, a)
	}
	for line := range strings.Lines(w.log.String()[before:]) {
		if _, after, ok := strings.Cut(line, `"reason":"`); ok {
			g.reason, _, _ = strings.Cut(after, `"`)
		}
	}
	return g
}

func (w *world) sendHTTP(t testing.TB, mode string, a ask) got {
	t.Helper()
	var lines []string
	switch mode {
	case "nginx":
		lines = []string{a.method + " /nginx" + a.target + " HTTP/1.0", "Host: " + a.host, "X-Original-Proto: " + a.scheme, "X-Original-Addr: " + a.client}
	case "nginx_headers":
		lines = []string{
			"GET /headers/nginx HTTP/1.0", "Host: authz", "X-Original-Method: " + a.method, "X-Original-URI: " + a.target,
			"X-Original-Host: " + a.host, "X-Original-Proto: " + a.scheme, "X-Original-Addr: " + a.client,
		}
	default:
		lines = []string{
			"GET /" + mode + " HTTP/1.1", "Host: authz", "X-Forwarded-Method: " + a.method, "X-Forwarded-Uri: " + a.target,
			"X-Forwarded-Host: " + a.host, "X-Forwarded-Proto: " + a.scheme, "X-Forwarded-For: " + a.client, "Connection: close",
		}
	}
	return w.raw(t, strings.Join(append(lines, a.header...), "\r\n")+"\r\n\r\n")
}

func (w *world) raw(t testing.TB, text string) got {
	t.Helper()
	conn, err := net.Dial("tcp", w.http)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, text)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return got{allowed: resp.StatusCode/100 == 2, status: resp.StatusCode, header: resp.Header, body: string(body)}
}

// request returns the question of Envoy: names in lower case, duplicates joined, the path undecoded and with the query.
func (a ask) request() *authv3.CheckRequest {
	headers := map[string]string{":authority": a.host, ":path": a.target, ":method": a.method}
	for _, line := range a.header {
		name, value, _ := strings.Cut(line, ": ")
		name = strings.ToLower(name)
		if first, ok := headers[name]; ok {
			value = first + "," + value
		}
		headers[name] = value
	}
	addr, _, _ := strings.Cut(a.client, ",")
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
			SocketAddress: &corev3.SocketAddress{Address: addr, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 4711}},
		}}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: a.method, Path: a.target, Host: a.host, Scheme: a.scheme, Headers: headers,
		}},
	}}
}

func (w *world) sendEnvoy(t testing.TB, a ask) got {
	t.Helper()
	answer, err := w.envoy.Check(t.Context(), a.request())
	if err != nil {
		t.Fatalf("ext_authz must answer without an error of gRPC: %v", err)
	}
	return readAnswer(answer)
}

func readAnswer(answer *authv3.CheckResponse) got {
	g := got{header: http.Header{}}
	if ok := answer.GetOkResponse(); ok != nil && answer.GetStatus().GetCode() == 0 {
		g.allowed, g.status, g.removed = true, 200, ok.GetHeadersToRemove()
		for _, h := range append(ok.GetHeaders(), ok.GetResponseHeadersToAdd()...) {
			g.header.Add(h.GetHeader().GetKey(), h.GetHeader().GetValue())
		}
		return g
	}
	no := answer.GetDeniedResponse()
	g.status, g.body = int(no.GetStatus().GetCode()), no.GetBody()
	for _, h := range no.GetHeaders() {
		g.header.Add(h.GetHeader().GetKey(), h.GetHeader().GetValue())
	}
	return g
}

// wantStatus returns the status of a mode: nginx knows 401 and 403 only.
func wantStatus(mode string, status int) int {
	switch {
	case !strings.HasPrefix(mode, "nginx"):
		return status
	case status == 200:
		return 204
	case status == 401:
		return 401
	}
	return 403
}

// refused checks that a request is refused, for this reason and with this status.
func (w *world) refused(t *testing.T, mode string, a ask, status int, reason access.Reason) got {
	t.Helper()
	g := w.send(t, mode, a)
	if g.allowed || g.status != wantStatus(mode, status) || (reason != "" && g.reason != string(reason)) {
		t.Errorf("%s %s %q: allowed %t, status %d, reason %q, want %d and %q", a.method, a.target, a.header, g.allowed, g.status, g.reason, status, reason)
	}
	return g
}

// allows checks that a request may pass, with all identity headers.
func (w *world) allows(t *testing.T, mode string, a ask) got {
	t.Helper()
	g := w.send(t, mode, a)
	if !g.allowed || g.status != wantStatus(mode, 200) {
		t.Errorf("%s %s %q: allowed %t, status %d, reason %q", a.method, a.target, a.header, g.allowed, g.status, g.reason)
	}
	for _, name := range identityHeaders {
		if values := g.header.Values(name); len(values) != 1 || values[0] == "" {
			t.Errorf("%s: %q", name, values)
		}
	}
	return g
}

var errEngine = errors.New("the engine answers 503")

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func quoted(format string, args ...any) string { return fmt.Sprintf(format, args...) }

func metricsOf(t *testing.T, w *world) string {
	t.Helper()
	resp, err := http.Get("http://" + w.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
