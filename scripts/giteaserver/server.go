// Package giteaserver runs Gitea servers on loopback. The demo and the tests mint tokens at Gitea.
package giteaserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/gobuild"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/process"
)

const pkg = "code.gitea.io/gitea"

// ErrNoCompiler is returned if there is neither a gitea binary nor a compiler to build gitea.
var ErrNoCompiler = errors.New("building Gitea takes a C compiler (for its SQLite), and there is none: install gcc, or set GITEA_BINARY")

// Binary returns the path of a gitea binary: $GITEA_BINARY, else bin/gitea. Binary builds a missing bin/gitea, and writes
// progress to log.
func Binary(ctx context.Context, root string, log io.Writer) (string, error) {
	if path := os.Getenv("GITEA_BINARY"); path != "" {
		return exec.LookPath(path)
	}
	path := filepath.Join(root, "bin", "gitea")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		return "", ErrNoCompiler
	}
	fmt.Fprintln(log, "A Gitea server, which is the upstream service here, is built once from its source (and GITEA_BINARY is not set).")
	fmt.Fprintln(log, "This takes about 5 minutes on two cores, and some more while its modules are downloaded. Later runs use bin/gitea.")
	return path, gobuild.Build(ctx, gobuild.Program{
		Module: filepath.Join(root, "bootstrap", "upstreams"), Package: pkg, Tags: "sqlite,sqlite_unlock_notify", CGO: true, Output: path,
	}, log)
}

// Server is a running Gitea with an administrator.
type Server struct {
	URL      string // "http://127.0.0.1:<port>"
	Username string // name of the administrator
	Password string
	Log      string // path of the log
	binary   string
	config   string
	env      []string
	*process.Process
}

// Start starts a server with its data in dir, and waits until the server answers.
func Start(ctx context.Context, root, binary, dir string) (*Server, error) {
	ports, err := process.FreePorts(1)
	if err != nil {
		return nil, err
	}
	// Gitea reads its templates and locales from the module.
	find := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", pkg)
	find.Dir = filepath.Join(root, "bootstrap", "upstreams")
	static, err := find.Output()
	if err != nil {
		return nil, fmt.Errorf("finding the module of Gitea: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &Server{
		URL: "http://127.0.0.1:" + ports[0], Username: "admin", Password: "admin-of-the-tests",
		Log: filepath.Join(dir, "gitea.log"), binary: binary, config: filepath.Join(dir, "app.ini"),
		env: append(os.Environ(), "GITEA_I_AM_BEING_UNSAFE_RUNNING_AS_ROOT=true", "HOME="+dir, "GITEA_WORK_DIR="+dir),
	}
	ini := fmt.Sprintf(`RUN_MODE = prod
WORK_PATH = %[1]s
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = %[2]s
ROOT_URL = %[3]s/
STATIC_ROOT_PATH = %[4]s
DISABLE_SSH = true
OFFLINE_MODE = true
[database]
DB_TYPE = sqlite3
PATH = %[1]s/gitea.db
SQLITE_JOURNAL_MODE = WAL
[repository]
ROOT = %[1]s/repositories
[security]
INSTALL_LOCK = true
SECRET_KEY = of-a-server-that-lives-for-minutes
PASSWORD_HASH_ALGO = pbkdf2$1000$50
[log]
MODE = console
LEVEL = Warn
[cron]
ENABLED = false
[other]
SHOW_FOOTER_VERSION = false
`, dir, ports[0], s.URL, strings.TrimSpace(string(static)))
	if err := os.WriteFile(s.config, []byte(ini), 0o600); err != nil {
		return nil, err
	}
	if err := s.command(ctx, "migrate"); err != nil {
		return nil, err
	}
	if err := s.AddUser(ctx, s.Username, s.Password, true); err != nil {
		return nil, err
	}
	return s, s.Restart(ctx)
}

// Restart starts a stopped server again.
func (s *Server) Restart(ctx context.Context) error {
	cmd := exec.Command(s.binary, "web", "--config", s.config)
	cmd.Env = s.env
	var err error
	if s.Process, err = process.Start("gitea", cmd, s.Log); err != nil {
		return err
	}
	if err := s.Wait(ctx, func() bool {
		resp, err := http.Get(s.URL + "/api/v1/version")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}); err != nil {
		s.Stop()
		return err
	}
	return nil
}

// Stop stops the current process of the server.
func (s *Server) Stop() { s.Process.Stop() }

// AddUser creates a user.
func (s *Server) AddUser(ctx context.Context, name, password string, admin bool) error {
	args := []string{"admin", "user", "create", "--username", name, "--password", password, "--email", name + "@example.com", "--must-change-password=false"}
	if admin {
		args = append(args, "--admin")
	}
	return s.command(ctx, args...)
}

func (s *Server) command(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, s.binary, append([]string{"--config", s.config}, args...)...)
	cmd.Env = s.env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("gitea %s: %w\n%s", args[0], err, out)
	}
	return nil
}
