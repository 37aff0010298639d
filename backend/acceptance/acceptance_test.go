// Package acceptance tests the engine with a real Vault server, driven by the vault command. Each file in
// testdata is one story, on a server of its own with the engine at apitoken/ and an audit device.
package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/giteaserver"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/process"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/vaultserver"
)

// What the stories use: files in bin/. There may be no gitea.
var root, vault, plugin, gitea, apitoken string

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("the acceptance tests need a Vault server: skipped by -short")
		return
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func prepare() (err error) {
	ctx := context.Background()
	if root, err = vaultserver.Root(); err != nil {
		return err
	}
	if vault, err = vaultserver.Binary(ctx, root, os.Stderr); err != nil {
		return err
	}
	if gitea, err = giteaserver.Binary(ctx, root, os.Stderr); errors.Is(err, giteaserver.ErrNoCompiler) && os.Getenv("REQUIRE_GITEA") == "" {
		fmt.Fprintln(os.Stderr, "The stories with Gitea are skipped:", err)
	} else if err != nil {
		return err
	}
	if plugin, err = vaultserver.BuildPlugin(ctx, root, "./cmd/"+vaultserver.PluginName); err != nil {
		return err
	}
	apitoken, err = vaultserver.BuildPlugin(ctx, root, "./cmd/apitoken")
	return err
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		Setup:               setup,
		RequireExplicitExec: true,
		Condition:           condition,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"vault":  cmdVault,
			"until":  cmdUntil,
			"save":   cmdSave,
			"server": cmdServer,
			"sleep":  cmdSleep,
			"tool":   cmdTool,
			"gitea":  cmdGitea,
			"vault2": cmdVault2,
			"oidc":   cmdOIDC,
		},
	})
}

// condition knows [terraform]: whether there is a terraform, and TERRAFORM_PROVIDER_VAULT names the binary
// of a Vault provider for it; [node]: whether there is Node, and where REQUIRE_NODE is set it has to be; and
// [gitea]: whether there is a Gitea server; [pyjwt]: whether a python3 has PyJWT, and where REQUIRE_PYJWT is set
// it has to be.
func condition(name string) (bool, error) {
	switch name {
	case "gitea":
		return gitea != "", nil
	case "terraform":
		_, err := exec.LookPath("terraform")
		return err == nil && os.Getenv("TERRAFORM_PROVIDER_VAULT") != "", nil
	case "pyjwt":
		if python() == "" && os.Getenv("REQUIRE_PYJWT") != "" {
			return false, errors.New("no python3 has PyJWT and cryptography")
		}
		return python() != "", nil
	case "node":
		_, noNode := exec.LookPath("node")
		_, noNPM := exec.LookPath("npm")
		if err := errors.Join(noNode, noNPM); err != nil {
			if os.Getenv("REQUIRE_NODE") != "" {
				return false, err
			}
			return false, nil
		}
		return true, nil
	}
	return false, fmt.Errorf("there is no condition %q", name)
}

// python finds a Python with PyJWT: that of PATH, or that of the operating system.
var python = sync.OnceValue(func() string {
	for _, p := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(p, "-c", "import jwt, cryptography").Run() == nil {
			return p
		}
	}
	return ""
})

// setup gives a script its server.
func setup(env *testscript.Env) error {
	ctx := context.Background()
	dir := filepath.Join(env.WorkDir, ".vault", "node1")
	server, err := vaultserver.Start(ctx, vaultserver.Config{Binary: vault, Dir: dir, PluginDir: filepath.Dir(plugin)})
	if err != nil {
		return err
	}
	env.Defer(server.Stop)
	audit := filepath.Join(env.WorkDir, "audit.log")
	sys := server.Client().Sys()
	if err := sys.EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": audit},
	}); err != nil {
		return err
	}
	if err := server.Register(ctx, vaultserver.PluginName); err != nil {
		return err
	}
	if err := sys.MountWithContext(ctx, "apitoken", &api.MountInput{Type: vaultserver.PluginName}); err != nil {
		return err
	}
	sum, err := vaultserver.SHA256(plugin)
	if err != nil {
		return err
	}
	env.Values["server"] = server
	env.Values["gitea"] = new(*giteaserver.Server)
	for name, value := range map[string]string{
		"VAULT_ADDR":  server.Addr,
		"VAULT_TOKEN": server.Token,
		"AUDIT_LOG":   audit,
		"VAULT_LOG":   server.Log,
		"SHA256":      sum,
		"ROOT":        root,
		"PYTHON":      python(),
		"PLUGIN":      plugin,
		"APITOKEN":    apitoken,
		"PATH":        filepath.Dir(vault) + string(os.PathListSeparator) + env.Getenv("PATH"),
		"HOME":        env.WorkDir,
		"PROVIDER":    filepath.Dir(os.Getenv("TERRAFORM_PROVIDER_VAULT")),
	} {
		env.Setenv(name, value)
	}
	return nil
}

// vault runs the vault command.
func cmdVault(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, ts.Exec("vault", args...))
}

func check(ts *testscript.TestScript, neg bool, err error) {
	switch {
	case err != nil && !neg:
		ts.Fatalf("%v", err)
	case err == nil && neg:
		ts.Fatalf("succeeded, and should not")
	}
}

// until PATTERN COMMAND... runs a command until what it prints matches, for at most two minutes.
func cmdUntil(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: until PATTERN COMMAND...")
	}
	pattern := regexp.MustCompile("(?m)" + args[0])
	file := ""
	if args[1] == "vault" {
		file = vault
	} else {
		var err error
		file, err = exec.LookPath(args[1])
		ts.Check(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		// Not ts.Exec, which would log every try.
		cmd := exec.Command(file, args[2:]...)
		cmd.Dir = ts.MkAbs(".")
		for _, name := range []string{"PATH", "HOME", "VAULT_ADDR", "VAULT_TOKEN"} {
			cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
		}
		out, err := cmd.CombinedOutput()
		if pattern.Match(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("after two minutes %q has not matched (%v):\n%s", args[0], err, out)
		}
	}
}

// save NAME PATH keeps a value of the JSON that the last command printed in a variable.
func cmdSave(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: save NAME PATH")
	}
	var value any
	decoder := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	decoder.UseNumber()
	ts.Check(decoder.Decode(&value))
	for step := range strings.SplitSeq(args[1], ".") {
		switch v := value.(type) {
		case map[string]any:
			value = v[step]
		case []any:
			i, err := strconv.Atoi(step)
			ts.Check(err)
			value = v[i]
		default:
			value = nil
		}
	}
	if value == nil {
		ts.Fatalf("there is no %s", args[1])
	}
	ts.Setenv(args[0], fmt.Sprint(value))
}

// server restart|seal|unseal|join NAME|kill-plugin does to the server what happens to servers.
func cmdServer(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	server := ts.Value("server").(*vaultserver.Server)
	switch {
	case len(args) == 1 && args[0] == "restart":
		ts.Check(server.Restart(ctx))
	case len(args) == 1 && args[0] == "seal":
		ts.Check(server.Client().Sys().SealWithContext(ctx))
	case len(args) == 1 && args[0] == "unseal":
		ts.Check(server.Unseal(ctx))
	case len(args) == 2 && args[0] == "join":
		// A second node of the cluster, whose address goes into a variable.
		node, err := vaultserver.Start(ctx, vaultserver.Config{
			Binary: vault, Dir: ts.MkAbs(".vault/node2"), PluginDir: filepath.Dir(plugin), Join: server,
		})
		ts.Check(err)
		ts.Defer(node.Stop)
		ts.Setenv(args[1], node.Addr)
	case len(args) == 1 && args[0] == "kill-plugin":
		pids := children(server.PID(), vaultserver.PluginName)
		if len(pids) == 0 {
			ts.Fatalf("no process of the plugin was found")
		}
		for _, pid := range pids {
			ts.Check(syscall.Kill(pid, syscall.SIGKILL))
		}
	default:
		ts.Fatalf("usage: server restart|seal|unseal|join NAME|kill-plugin")
	}
}

// gitea start|stop runs the Gitea server of a story, with an administrator and a user ci-bot. Started again
// it has the same data and address.
func cmdGitea(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	running, _ := ts.Value("gitea").(**giteaserver.Server)
	switch {
	case len(args) == 1 && args[0] == "start" && *running == nil:
		server, err := giteaserver.Start(ctx, root, gitea, ts.MkAbs(".gitea"))
		ts.Check(err)
		*running = server
		ts.Defer(func() { server.Stop() })
		ts.Check(server.AddUser(ctx, "ci-bot", "ci-bot-of-the-tests", false))
		ts.Setenv("GITEA_URL", server.URL)
		ts.Setenv("GITEA_PASSWORD", server.Password)
	case len(args) == 1 && args[0] == "start":
		ts.Check((*running).Restart(ctx))
	case len(args) == 1 && args[0] == "stop":
		(*running).Stop()
	default:
		ts.Fatalf("usage: gitea start|stop")
	}
}

// vault2 runs another Vault server: VAULT2_ADDR and VAULT2_TOKEN.
func cmdVault2(ts *testscript.TestScript, _ bool, _ []string) {
	server, err := vaultserver.Start(context.Background(), vaultserver.Config{Binary: vault, Dir: ts.MkAbs(".vault/other"), PluginDir: filepath.Dir(plugin)})
	ts.Check(err)
	ts.Defer(server.Stop)
	ts.Setenv("VAULT2_ADDR", server.Addr)
	ts.Setenv("VAULT2_TOKEN", server.Token)
}

// oidc runs the OAuth 2.0 server of node/provider.mjs: OIDC_URL.
func cmdOIDC(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(ts.Exec("cp", "-r", filepath.Join(root, "backend/acceptance/node"), "oidc"))
	dir, log := ts.MkAbs("oidc"), ts.MkAbs("oidc.log")
	install := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	install.Dir = dir
	out, err := install.CombinedOutput()
	if err != nil {
		ts.Fatalf("npm ci: %v\n%s", err, out)
	}
	cmd := exec.Command("node", "provider.mjs")
	cmd.Dir = dir
	server, err := process.Start("oidc-provider", cmd, log)
	ts.Check(err)
	ts.Defer(server.Stop)
	var url string
	ts.Check(server.Wait(context.Background(), func() bool {
		text, _ := os.ReadFile(log)
		url = regexp.MustCompile(`(?m)^http://127\.0\.0\.1:\d+$`).FindString(string(text))
		return url != ""
	}))
	ts.Setenv("OIDC_URL", url)
}

// children finds the processes that a process has started, by their command.
func children(parent int, command string) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		status, _ := os.ReadFile(filepath.Join(dir, "status"))
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if bytes.Contains(status, fmt.Appendf(nil, "PPid:\t%d\n", parent)) && bytes.Contains(cmdline, []byte(command)) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}

// sleep waits: for tokens to end.
func cmdSleep(ts *testscript.TestScript, _ bool, args []string) {
	d, err := time.ParseDuration(strings.Join(args, ""))
	ts.Check(err)
	time.Sleep(d)
}

// tool NAME ARGS... runs one of the tools that bootstrap/tools pins.
func cmdTool(ts *testscript.TestScript, neg bool, args []string) {
	path, err := vaultserver.BuildTool(context.Background(), root, args[0])
	ts.Check(err)
	check(ts, neg, ts.Exec(path, args[1:]...))
}
