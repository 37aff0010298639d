// Command dev runs a Vault server with the plugin on loopback. The arguments are a command to run against the server; dev
// exits after the command. Without arguments dev runs until Ctrl-C.
//
// The flag -then names a command that also needs a Gitea server. That command runs after the first command, so that the
// first command does not wait for the build of Gitea.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/vault/api"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/giteaserver"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/process"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/vaultserver"
)

func main() {
	then := flag.String("then", "", "second command to run, with a Gitea server beside Vault")
	mount := flag.Bool("mount", true, "register the plugin and enable it at apitoken/")
	binary := flag.Bool("binary", false, "only find or build the binaries, and print their paths")
	withGitea := flag.Bool("gitea", false, "with -binary: also the binary of Gitea")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *binary {
		err = printBinaries(ctx, *withGitea)
	} else {
		err = run(ctx, *mount, *then, flag.Args())
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func printBinaries(ctx context.Context, withGitea bool) error {
	root, err := vaultserver.Root()
	if err != nil {
		return err
	}
	binary, err := vaultserver.Binary(ctx, root, os.Stdout)
	if err != nil {
		return err
	}
	fmt.Println("Vault:", binary)
	if !withGitea {
		return nil
	}
	if binary, err = giteaserver.Binary(ctx, root, os.Stdout); errors.Is(err, giteaserver.ErrNoCompiler) {
		fmt.Println("Gitea: none.", err)
		return nil
	} else if err != nil {
		return err
	}
	fmt.Println("Gitea:", binary)
	return nil
}

func run(ctx context.Context, mount bool, then string, command []string) error {
	root, err := vaultserver.Root()
	if err != nil {
		return err
	}
	binary, err := vaultserver.Binary(ctx, root, os.Stdout)
	if err != nil {
		return err
	}
	fmt.Println("Building the plugin.")
	plugin, err := vaultserver.BuildPlugin(ctx, root, "./cmd/"+vaultserver.PluginName)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vault-apitoken-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Println("Starting a Vault server.")
	server, err := vaultserver.Start(ctx, vaultserver.Config{Binary: binary, Dir: dir, PluginDir: filepath.Dir(plugin)})
	if err != nil {
		return err
	}
	defer server.Stop()

	audit := auditLog(dir)
	if err := enable(ctx, server, audit, mount); err != nil {
		return err
	}
	env := append(os.Environ(),
		"VAULT_ADDR="+server.Addr,
		"VAULT_TOKEN="+server.Token,
		"PATH="+filepath.Dir(binary)+string(os.PathListSeparator)+os.Getenv("PATH"),
		"PLUGIN="+plugin,
		"AUDIT_LOG="+audit,
	)
	if len(command) > 0 {
		if err := runWith(ctx, env, command[0], command[1:]...); err != nil || then == "" {
			return err
		}
		return runWithGitea(ctx, root, dir, env, then)
	}

	return hold(ctx, server, root, dir, binary)
}

// hold runs the console beside the server until ctx is done.
func hold(ctx context.Context, server *vaultserver.Server, root, dir, binary string) error {
	console, stop, err := startConsole(ctx, root, dir, server)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Printf(`
A Vault server is running, with the plugin at apitoken/. In another terminal:

  export VAULT_ADDR=%s
  export VAULT_TOKEN=%s
  export PATH=%s:$PATH

  vault write apitoken/roles/billing-reader scopes=invoices:read ttl=1h max_ttl=24h
  vault read apitoken/creds/billing-reader
  vault path-help apitoken

The console is at %s: sign in with the Vault token above.

The log of Vault is %s, the audit log %s.
Ctrl-C stops it and deletes everything.
`, server.Addr, server.Token, filepath.Dir(binary), console, server.Log, auditLog(dir))
	<-ctx.Done()
	fmt.Println("\nStopping.")
	return nil
}

// auditLog returns the path of the audit log.
func auditLog(dir string) string { return filepath.Join(dir, "audit.log") }

// enable enables an audit log, and mounts the plugin.
func enable(ctx context.Context, server *vaultserver.Server, audit string, mount bool) error {
	sys := server.Client().Sys()
	if err := sys.EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": audit},
	}); err != nil || !mount {
		return err
	}
	if err := server.Register(ctx, vaultserver.PluginName); err != nil {
		return err
	}
	return sys.MountWithContext(ctx, "apitoken", &api.MountInput{Type: vaultserver.PluginName})
}

// startConsole runs the console of the mount until stop is called, and returns the address of the console.
func startConsole(ctx context.Context, root, dir string, server *vaultserver.Server) (address string, stop func(), err error) {
	binary, err := vaultserver.BuildPlugin(ctx, root, "./cmd/apitoken")
	if err != nil {
		return "", nil, err
	}
	ports, err := process.FreePorts(1)
	if err != nil {
		return "", nil, err
	}
	listen := "127.0.0.1:" + ports[0]
	cmd := exec.Command(binary, "console", "-listen", listen)
	cmd.Env = append(os.Environ(), "VAULT_ADDR="+server.Addr)
	console, err := process.Start("console", cmd, filepath.Join(dir, "console.log"))
	if err != nil {
		return "", nil, err
	}
	address = "http://" + listen + "/"
	err = console.Wait(ctx, func() bool {
		resp, err := http.Get(address + "sign-in")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	if err != nil {
		console.Stop()
		return "", nil, err
	}
	return address, console.Stop, nil
}

// runWith runs a command with an environment on the terminal.
func runWith(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = env
	return cmd.Run()
}

// runWithGitea runs a command beside a Gitea server.
func runWithGitea(ctx context.Context, root, dir string, env []string, name string) error {
	fmt.Println("\nNow for tokens of another service: a Gitea server.")
	more, stop, err := startGitea(ctx, root, dir)
	if err != nil {
		return err
	}
	defer stop()
	return runWith(ctx, append(env, more...), name)
}

// startGitea runs a Gitea server until stop is called. env holds the URL of the server, or the reason for its absence.
func startGitea(ctx context.Context, root, dir string) (env []string, stop func(), err error) {
	binary, err := giteaserver.Binary(ctx, root, os.Stdout)
	if errors.Is(err, giteaserver.ErrNoCompiler) {
		return []string{"NO_GITEA=" + err.Error()}, func() {}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	fmt.Println("Starting a Gitea server.")
	server, err := giteaserver.Start(ctx, root, binary, filepath.Join(dir, "gitea"))
	if err != nil {
		return nil, nil, err
	}
	if err := server.AddUser(ctx, "ci-bot", "ci-bot-of-the-demo", false); err != nil {
		server.Stop()
		return nil, nil, err
	}
	return []string{"GITEA_URL=" + server.URL, "GITEA_PASSWORD=" + server.Password}, server.Stop, nil
}
