// Command bench compares the engine with a plugin that does nothing (floor). Both are mounted in one Vault on raft storage
// on disk. Rounds of both alternate, so that other load of the machine affects both. The result is the ratio.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/vaultserver"
)

var (
	rounds = flag.Int("rounds", 20, "number of rounds of each measurement")
	length = flag.Duration("length", time.Second, "duration of a round")
	leases = flag.Int("leases", 10_000, "number of leases to revoke")
	purges = flag.Int("revoke-rounds", 3, "number of rounds of revoking the leases; a round takes a minute or two")
	only   = flag.String("only", "", "name of the only operation to measure; empty: all")
	atOnce = flag.Int("clients", 0, "number of concurrent clients; 0: 1, 8 and 32")

	authorizerCount = flag.Int("authorizers", 10, "number of authorizers, in the measurements refusals and usage")
	revocations     = flag.Int("revocations", 200, "number of revocations of each kind of token, in the measurement refusals")
	forwardTime     = flag.Duration("forward-time", 10*time.Second, "duration of each rate in the measurement forward-auth")
	empty           = flag.String("serve-empty", "", "address to serve the empty server of the measurement forward-auth on;"+
		" the benchmark starts itself so")
	noiseTime = flag.Duration("noise-time", 75*time.Second, "duration of the random tokens in the measurement noise;"+
		" more than a minute, so that good tokens are asked about again")
	activeTokenCount = flag.Int("active-tokens", 100_000, "number of active tokens in the measurement usage")
	reportedBy       = flag.Int("reported-by", 1, "number of authorizers that report each token in the measurement usage")
	usageTime        = flag.Duration("usage-time", 45*time.Second, "duration of the reports in the measurement usage,"+
		" while writes to storage are counted")

	pollers = flag.Int("pollers", 1000, "number of verifiers that poll the feed once a second, in the measurement polls")
)

func main() {
	flag.Parse()
	if *empty != "" {
		fmt.Fprintln(os.Stderr, serveEmpty(*empty))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// bench is a client of one Vault server.
type bench struct {
	addr, token string
	root, dir   string // of the repository, and of what the benchmark writes
	server      *vaultserver.Server
	http        *http.Client
	service     *httptest.Server // an upstream service that does nothing
}

func run(ctx context.Context) error {
	root, err := vaultserver.Root()
	if err != nil {
		return err
	}
	binary, err := vaultserver.Binary(ctx, root, os.Stdout)
	if err != nil {
		return err
	}
	fmt.Println("Building the plugin and the floor.")
	plugin, err := vaultserver.BuildPlugin(ctx, root, "./cmd/"+vaultserver.PluginName)
	if err != nil {
		return err
	}
	if _, err := vaultserver.BuildPlugin(ctx, root, "./scripts/bench/floor"); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vault-apitoken-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server, err := vaultserver.Start(ctx, vaultserver.Config{Binary: binary, Dir: dir, PluginDir: filepath.Dir(plugin)})
	if err != nil {
		return err
	}
	defer server.Stop()
	sys := server.Client().Sys()
	for path, name := range map[string]string{"apitoken": vaultserver.PluginName, "floor": "floor"} {
		if err := server.Register(ctx, name); err != nil {
			return err
		}
		if err := sys.MountWithContext(ctx, path, &api.MountInput{Type: name}); err != nil {
			return err
		}
	}
	b := &bench{
		addr: server.Addr, token: server.Token, root: root, dir: dir, server: server,
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64 + *pollers}, Timeout: 5 * time.Minute},
	}
	if err := b.measure(ctx); err != nil {
		return err
	}
	return b.verifiers(ctx)
}

// verifiers measures what verifiers see, and what they cost.
func (b *bench) verifiers(ctx context.Context) error {
	for _, m := range []struct {
		name    string
		measure func(context.Context) error
	}{{"polls", b.polled}, {"refusals", b.refusals}, {"forward-auth", b.forwardAuth}, {"noise", b.noise}, {"usage", b.usageCost}} {
		if *only != "" && *only != m.name {
			continue
		}
		if err := m.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// measure measures all operations, and prints a table.
func (b *bench) measure(ctx context.Context) error {
	measurements, err := b.measurements(ctx)
	if err != nil {
		return err
	}
	measurements = slices.DeleteFunc(measurements, func(m measurement) bool { return *only != "" && *only != m.name })
	if len(measurements) > 0 {
		fmt.Printf("\n%-18s %8s %12s %12s %7s %22s %22s\n", "operation", "clients", "engine", "floor", "ratio", "engine p50 / p99", "floor p50 / p99")
	}
	for _, m := range measurements {
		for _, clients := range []int{1, 8, maxClients} {
			if *atOnce != 0 && *atOnce != clients {
				continue
			}
			if err := compare(ctx, m.name, clients, m.engine, m.floor); err != nil {
				return err
			}
		}
	}
	if *only == "" || *only == "revoke-limited" {
		if err := b.limited(ctx); err != nil {
			return err
		}
	}
	if *only == "" || *only == "revoke" {
		return b.revocation(ctx)
	}
	return nil
}

// call sends a request, and decodes the answer into out unless out is nil.
func (b *bench) call(ctx context.Context, method, path string, in map[string]any, out any) error {
	var body io.Reader
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, b.addr+"/v1/"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	return b.do(req, out)
}

// post sends a form, and decodes the answer like call.
func (b *bench) post(ctx context.Context, path string, form url.Values, out any) error {
	req, err := http.NewRequestWithContext(ctx, "POST", b.addr+"/v1/"+path, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(req, out)
}

func (b *bench) do(req *http.Request, out any) error {
	req.Header.Set("X-Vault-Token", b.token)
	resp, err := b.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", req.Method, req.URL.Path, resp.Status, answer)
	}
	if out != nil {
		return json.Unmarshal(answer, out)
	}
	return nil
}
