// Package vaultserver runs Vault servers on loopback, for the dev server, the demo, the benchmarks and
// the acceptance tests: raft storage on disk, one unseal key, TLS off.
package vaultserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/process"
)

// PluginName is the name of the plugin in Vault's catalog, and the name of the plugin's binary.
const PluginName = "vault-plugin-secrets-apitoken"

// Config is the configuration of a server.
type Config struct {
	Binary    string  // path of the vault binary; required
	Dir       string  // directory of data, configuration and log; required
	PluginDir string  // directory of plugin binaries; required
	Join      *Server // a server of the cluster to join; nil: a new cluster
}

// Server is a running Vault server.
type Server struct {
	Addr  string // "http://127.0.0.1:<port>"
	Token string // root token
	Log   string // path of the log
	conf  Config
	key   string // unseal key
	*process.Process
}

// Start starts a server, and waits until the server is active or standing by.
func Start(ctx context.Context, conf Config) (*Server, error) {
	ports, err := process.FreePorts(2)
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: "http://127.0.0.1:" + ports[0], Log: filepath.Join(conf.Dir, "vault.log"), conf: conf}
	if err := os.MkdirAll(filepath.Join(conf.Dir, "raft"), 0o700); err != nil {
		return nil, err
	}
	join := ""
	if conf.Join != nil {
		join = fmt.Sprintf("\n  retry_join {\n    leader_api_addr = %q\n  }", conf.Join.Addr)
	}
	hcl := fmt.Sprintf(`storage "raft" {
  path                   = %q
  node_id                = %q
  performance_multiplier = 1%s
}
listener "tcp" {
  address         = "127.0.0.1:%s"
  cluster_address = "127.0.0.1:%s"
  tls_disable     = true
}
api_addr         = %q
cluster_addr     = "https://127.0.0.1:%s"
plugin_directory = %q
disable_mlock    = true
`, filepath.Join(conf.Dir, "raft"), filepath.Base(conf.Dir), join, ports[0], ports[1], s.Addr, ports[1], conf.PluginDir)
	if err := os.WriteFile(filepath.Join(conf.Dir, "vault.hcl"), []byte(hcl), 0o600); err != nil {
		return nil, err
	}

	if err := s.run(ctx); err != nil {
		return nil, err
	}
	if err := s.bootstrap(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// bootstrap initializes a new server, or joins a cluster, and unseals the server.
func (s *Server) bootstrap(ctx context.Context) error {
	if s.conf.Join != nil {
		s.Token, s.key = s.conf.Join.Token, s.conf.Join.key
		return s.Unseal(ctx)
	}
	answer, err := s.client().Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return err
	}
	s.Token, s.key = answer.RootToken, answer.Keys[0]
	return s.Unseal(ctx)
}

// run starts the process, and waits until the server answers.
func (s *Server) run(ctx context.Context) error {
	cmd := exec.Command(s.conf.Binary, "server", "-config="+filepath.Join(s.conf.Dir, "vault.hcl"))
	cmd.Env = withoutVault(os.Environ())
	var err error
	if s.Process, err = process.Start("vault", cmd, s.Log); err != nil {
		return err
	}
	return s.Wait(ctx, func() bool {
		_, err := s.client().Sys().SealStatusWithContext(ctx)
		return err == nil
	})
}

// withoutVault returns the environment without the VAULT_ settings of clients.
func withoutVault(env []string) []string {
	var kept []string
	for _, v := range env {
		if !strings.HasPrefix(v, "VAULT_") {
			kept = append(kept, v)
		}
	}
	return kept
}

// client sends requests without retries.
func (s *Server) client() *api.Client {
	c := s.Client()
	c.SetMaxRetries(0)
	return c
}

// Client returns a client with the root token.
func (s *Server) Client() *api.Client {
	conf := api.DefaultConfig()
	conf.Address = s.Addr
	c, err := api.NewClient(conf)
	if err != nil {
		panic(err) // the address is ours
	}
	c.SetToken(s.Token)
	return c
}

// Unseal unseals the server, and waits until the server is active or standing by. Unseal sends the key once: a second key
// while the node joins a cluster would start the node twice.
func (s *Server) Unseal(ctx context.Context) error {
	given := false
	return s.Wait(ctx, func() bool {
		if !given {
			_, err := s.client().Sys().UnsealWithContext(ctx, s.key)
			given = err == nil
		}
		health, err := s.client().Sys().HealthWithContext(ctx)
		return err == nil && !health.Sealed && (s.conf.Join != nil || !health.Standby)
	})
}

// Restart stops the process, and starts a new process on the same data.
func (s *Server) Restart(ctx context.Context) error {
	s.Stop()
	if err := s.run(ctx); err != nil {
		return err
	}
	return s.Unseal(ctx)
}

// Stop stops the current process of the server.
func (s *Server) Stop() { s.Process.Stop() }

// Register adds a plugin binary of PluginDir to the catalog.
func (s *Server) Register(ctx context.Context, name string) error {
	sum, err := SHA256(filepath.Join(s.conf.PluginDir, name))
	if err != nil {
		return err
	}
	return s.Client().Sys().RegisterPluginWithContext(ctx, &api.RegisterPluginInput{
		Name: name, Type: api.PluginTypeSecrets, Command: name, SHA256: sum,
	})
}

// SHA256 returns the checksum of a plugin binary for Vault's catalog.
func SHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
