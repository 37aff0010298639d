package vaultserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/gobuild"
)

// oldest is the oldest supported version of Vault.
var oldest = [2]int{1, 18}

// Root returns the root of the repository around the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "bootstrap", "vault", "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("the working folder is not in the repository")
		}
		dir = parent
	}
}

// Binary returns the path of a vault binary: $VAULT_BINARY, else a recent vault on PATH, else bin/vault. Binary builds a
// missing bin/vault, and writes progress to log.
func Binary(ctx context.Context, root string, log io.Writer) (string, error) {
	if path := os.Getenv("VAULT_BINARY"); path != "" {
		return exec.LookPath(path)
	}
	if path, err := exec.LookPath("vault"); err == nil {
		if major, minor, err := version(ctx, path); err == nil && (major > oldest[0] || major == oldest[0] && minor >= oldest[1]) {
			return path, nil
		}
	}
	path := filepath.Join(root, "bin", "vault")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, build(ctx, root, path, log)
}

var versionLine = regexp.MustCompile(`Vault v(\d+)\.(\d+)\.`)

func version(ctx context.Context, path string) (major, minor int, err error) {
	out, err := exec.CommandContext(ctx, path, "version").Output()
	if err != nil {
		return 0, 0, err
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return 0, 0, fmt.Errorf("%s does not tell its version", path)
	}
	major, _ = strconv.Atoi(string(m[1]))
	minor, _ = strconv.Atoi(string(m[2]))
	return major, minor, nil
}

// build compiles the version of Vault that bootstrap/vault pins.
func build(ctx context.Context, root, path string, log io.Writer) error {
	fmt.Fprintln(log, "There is no vault on PATH (and VAULT_BINARY is not set), so the Vault server is built once from its source.")
	fmt.Fprintln(log, "This takes about 5 minutes on two cores, and some more while its modules are downloaded. Later runs use bin/vault.")
	return gobuild.Build(ctx, gobuild.Program{
		Module: filepath.Join(root, "bootstrap", "vault"), Package: "github.com/hashicorp/vault", Tags: "minimal", Output: path,
	}, log)
}

func buildEnv() []string { return append(os.Environ(), "CGO_ENABLED=0") }

// BuildTool compiles a tool of bootstrap/tools into bin/, and returns the path of the binary.
func BuildTool(ctx context.Context, root, name string) (string, error) {
	module := filepath.Join(root, "bootstrap", "tools")
	list := exec.CommandContext(ctx, "go", "list", "-f", "{{.ImportPath}}", "tool")
	list.Dir, list.Env = module, buildEnv()
	out, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("listing the tools: %w", err)
	}
	for pkg := range strings.Lines(string(out)) {
		// The name of a binary leaves out the major version at the end of a path, as in the go command.
		if pkg = strings.TrimSpace(pkg); path.Base(strings.TrimSuffix(pkg, "/v8")) != name {
			continue
		}
		file := filepath.Join(root, "bin", name)
		cmd := exec.CommandContext(ctx, "go", "build", "-o", file, pkg)
		cmd.Dir, cmd.Env = module, buildEnv()
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
		return file, nil
	}
	return "", fmt.Errorf("bootstrap/tools has no %q", name)
}

// BuildPlugin compiles a main package of this repository into bin/, and returns the path of the binary.
func BuildPlugin(ctx context.Context, root, pkg string) (string, error) {
	path := filepath.Join(root, "bin", filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, pkg)
	cmd.Dir, cmd.Env = root, buildEnv()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}
