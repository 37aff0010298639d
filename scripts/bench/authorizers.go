package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/process"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/vaultserver"
)

// gatewayRoles are the roles of the tokens that are shown to authorizers, by the kind of the tokens.
var gatewayRoles = map[string]string{"opaque": "gateway", "JWT": "gateway-jwt"}

// authorizer is a process of apitoken-authz.
type authorizer struct {
	*process.Process
	addr string
}

// authorizers starts n processes of apitoken-authz with the configuration of bootstrap/authz, and more settings, a line
// each. They ask the Vault at the address.
func (b *bench) authorizers(ctx context.Context, n int, vault string, settings ...string) (all []*authorizer, stop func(), err error) {
	stop = func() {
		for _, a := range all {
			a.Stop()
		}
	}
	binary, err := vaultserver.BuildPlugin(ctx, b.root, "./cmd/apitoken-authz")
	if err != nil {
		return nil, stop, err
	}
	tokenFile, err := b.authorizerLogin(ctx)
	if err != nil {
		return nil, stop, err
	}
	template, err := os.ReadFile(filepath.Join(b.root, "bootstrap", "authz", "authz.yaml"))
	if err != nil {
		return nil, stop, err
	}
	for range n {
		ports, err := process.FreePorts(2)
		if err != nil {
			return all, stop, err
		}
		a := &authorizer{addr: "127.0.0.1:" + ports[0]}
		admin, name := "127.0.0.1:"+ports[1], filepath.Join(b.dir, "authz-"+ports[0])
		text := strings.NewReplacer("127.0.0.1:9191", a.addr, "127.0.0.1:9190", admin, "https://vault.example.com:8200", vault,
			"/run/apitoken-authz/vault-token", tokenFile, "rules:\n", strings.Join(settings, "\n")+"\nrules:\n").Replace(string(template))
		if err := os.WriteFile(name+".yaml", []byte(text), 0o600); err != nil {
			return all, stop, err
		}
		if a.Process, err = process.Start("apitoken-authz", exec.Command(binary, "-config", name+".yaml"), name+".log"); err != nil {
			return all, stop, err
		}
		all = append(all, a)
		if err := a.Wait(ctx, func() bool { return answers("http://" + admin + "/readyz") }); err != nil {
			return all, stop, err
		}
	}
	return all, stop, nil
}

// cpu returns the time that a process has computed, in steps of 10 ms (proc(5): utime and stime in ticks of 100 Hz); zero
// where there is no /proc.
func (a *authorizer) cpu() time.Duration {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.PID()))
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// authorizerLogin writes the roles and the policy of authorizers, and returns a file with a Vault token of the policy.
func (b *bench) authorizerLogin(ctx context.Context) (file string, err error) {
	role := map[string]any{"scopes": "orders:read", "audience": "https://orders.example.com", "ttl": "1h"}
	if err := b.call(ctx, "POST", "apitoken/roles/"+gatewayRoles["opaque"], role, nil); err != nil {
		return "", err
	}
	role["token_format"] = "jwt"
	if err := b.call(ctx, "POST", "apitoken/roles/"+gatewayRoles["JWT"], role, nil); err != nil {
		return "", err
	}
	policy, err := os.ReadFile(filepath.Join(b.root, "bootstrap", "authz", "policy.hcl"))
	if err != nil {
		return "", err
	}
	c := b.server.Client()
	if err := c.Sys().PutPolicyWithContext(ctx, "apitoken-authz", string(policy)); err != nil {
		return "", err
	}
	login, err := c.Auth().Token().CreateOrphanWithContext(ctx, &api.TokenCreateRequest{Policies: []string{"apitoken-authz"}})
	if err != nil {
		return "", err
	}
	file = filepath.Join(b.dir, "vault-token")
	return file, os.WriteFile(file, []byte(login.Auth.ClientToken), 0o600)
}

// answers reports whether a URL answers 200.
func answers(url string) bool {
	resp, err := http.Get(url)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// gatewayToken issues a token for authorizers.
func (b *bench) gatewayToken(ctx context.Context, role string) (token, lease string, err error) {
	var answer struct {
		LeaseID string `json:"lease_id"`
		Data    struct{ Token string }
	}
	err = b.call(ctx, "GET", "apitoken/creds/"+role, nil, &answer)
	return answer.Data.Token, answer.LeaseID, err
}

// allowed is the status of an answer to nginx that lets a request pass.
const allowed = http.StatusNoContent

// link is a connection on which one caller at a time asks an authorizer, as nginx does.
type link struct {
	conn   net.Conn
	reader *bufio.Reader
}

func dial(addr string) (*link, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &link{conn, bufio.NewReader(conn)}, nil
}

// dialAll opens connections to a server.
func dialAll(addr string, n int) (links []*link, closeAll func(), err error) {
	closeAll = func() {
		for _, l := range links {
			_ = l.conn.Close()
		}
	}
	for range n {
		l, err := dial(addr)
		if err != nil {
			return links, closeAll, err
		}
		links = append(links, l)
	}
	return links, closeAll, nil
}

// ask asks whether a client may read orders with a token, and returns the status of the answer.
func (l *link) ask(token, client string) (status int, err error) {
	_ = l.conn.SetDeadline(time.Now().Add(30 * time.Second))
	request := "GET /nginx/orders HTTP/1.1\r\nHost: orders.example.com\r\nX-Original-Proto: https\r\nX-Original-Addr: " + client +
		"\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\nAuthorization: Bearer " + token + "\r\n\r\n"
	if _, err := io.WriteString(l.conn, request); err != nil {
		return 0, err
	}
	line, err := l.reader.ReadString('\n')
	if err != nil || len(line) < len("HTTP/1.1 200") {
		return 0, fmt.Errorf("status line %q: %w", line, err)
	}
	if status, err = strconv.Atoi(line[9:12]); err != nil {
		return 0, err
	}
	body := 0
	for {
		if line, err = l.reader.ReadString('\n'); err != nil {
			return 0, err
		}
		if line == "\r\n" {
			break
		}
		if length, found := strings.CutPrefix(line, "Content-Length: "); found {
			if body, err = strconv.Atoi(strings.TrimSpace(length)); err != nil {
				return 0, err
			}
		}
	}
	_, err = l.reader.Discard(body)
	return status, err
}
