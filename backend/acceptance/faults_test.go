package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/giteaserver"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/vaultserver"
)

// faultProxy stands before a real service, and has a share of the requests go wrong.
type faultProxy struct {
	*httptest.Server
	share atomic.Int64 // of a thousand requests
	only  atomic.Pointer[string]
	count sync.Map // fault -> how often
}

// faults are what can go wrong. Those that end in "after" have the service do what it was asked to.
var faults = []string{"reset before", "reset after", "timeout before", "timeout after", "429", "500", "500 after", "503", "truncated after", "nonsense after"}

func newFaultProxy(t *testing.T, target string) *faultProxy {
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := new(faultProxy)
	forward := httputil.NewSingleHostReverseProxy(u)
	forward.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fault := faults[rand.IntN(len(faults))]
		if only := p.only.Load(); only != nil {
			fault = *only
		}
		if rand.Int64N(1000) >= p.share.Load() {
			forward.ServeHTTP(w, r)
			return
		}
		n, _ := p.count.LoadOrStore(fault, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		do := func() *httptest.ResponseRecorder {
			again := r.Clone(context.WithoutCancel(r.Context()))
			again.Body = io.NopCloser(bytes.NewReader(body))
			recorded := httptest.NewRecorder()
			forward.ServeHTTP(recorded, again)
			return recorded
		}
		hangUp := func() {
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				conn.Close()
			}
		}
		switch fault {
		case "reset before":
			hangUp()
		case "reset after":
			do()
			hangUp()
		case "timeout before":
			<-r.Context().Done()
		case "timeout after":
			<-r.Context().Done() // the client has given up, and then it is done nevertheless
			do()
		case "429":
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		case "500 after":
			do()
			w.WriteHeader(http.StatusInternalServerError)
		case "truncated after":
			answer := do().Body.Bytes()
			w.Header().Set("Content-Length", strconv.Itoa(len(answer)+10))
			_, _ = w.Write(answer[:len(answer)/2])
			hangUp()
		case "nonsense after":
			do()
			_, _ = w.Write([]byte(`{"surprise": [1, 2, {}]}`))
		default:
			status, _ := strconv.Atoi(fault)
			w.WriteHeader(status)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

// TestFaults has creates and revocations at a real Gitea go wrong in every way, and the plugin killed among them.
// Afterwards there is no token at Gitea that nobody knows of, and no lease that Vault has given up. FAULT_CYCLES
// says how many creates; 10,000 take about ten minutes, in which nobody must rebuild the plugin.
func TestFaults(t *testing.T) {
	if gitea == "" {
		t.Skip("needs a Gitea server")
	}
	t.Parallel()
	cycles := 300
	if text := os.Getenv("FAULT_CYCLES"); text != "" {
		var err error
		if cycles, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	server, err := vaultserver.Start(ctx, vaultserver.Config{Binary: vault, Dir: t.TempDir(), PluginDir: filepath.Dir(plugin)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	upstream, err := giteaserver.Start(ctx, root, gitea, filepath.Join(t.TempDir(), "gitea"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Stop)
	const minter = "minter" // whose password is rotated
	if err := upstream.AddUser(ctx, minter, "minter-of-the-tests", true); err != nil {
		t.Fatal(err)
	}
	proxy := newFaultProxy(t, upstream.URL)
	if err := server.Register(ctx, vaultserver.PluginName); err != nil {
		t.Fatal(err)
	}
	c := server.Client()
	if err := c.Sys().MountWithContext(ctx, "apitoken", &api.MountInput{Type: vaultserver.PluginName}); err != nil {
		t.Fatal(err)
	}
	write := func(path string, data map[string]any) {
		t.Helper()
		if _, err := c.Logical().WriteWithContext(ctx, path, data); err != nil {
			t.Fatal(err)
		}
	}
	write("apitoken/connections/gitea", map[string]any{
		"provider": "gitea", "url": proxy.URL, "timeout": "2s",
		"credential": map[string]any{"username": minter, "password": "minter-of-the-tests"},
	})
	write("apitoken/roles/ci", map[string]any{"connection": "gitea", "params": map[string]any{"scopes": "read:user"}, "ttl": "1h"})
	write("apitoken/roles/brief", map[string]any{"connection": "gitea", "params": map[string]any{"scopes": "read:user"}, "ttl": "30s"})

	live := func() (names []string) {
		t.Helper()
		for page := 1; ; page++ {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/api/v1/users/%s/tokens?limit=50&page=%d", upstream.URL, minter, page), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.SetBasicAuth(upstream.Username, upstream.Password)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			var tokens []struct{ Name string }
			err = json.NewDecoder(resp.Body).Decode(&tokens)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			for _, token := range tokens {
				names = append(names, token.Name)
			}
			if len(tokens) < 50 {
				return names
			}
		}
	}
	// settled waits until nothing is left to do, and wants as many tokens at Gitea as are held.
	settled := func(held int) {
		t.Helper()
		for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(250 * time.Millisecond) {
			secret, err := c.Logical().ReadWithContext(ctx, "apitoken/connections/gitea")
			if err != nil {
				t.Fatal(err)
			}
			queue := secret.Data["queue"].(map[string]any)
			if fmt.Sprint(queue["count"]) == "0" && fmt.Sprint(secret.Data["tokens"]) == strconv.Itoa(held) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("not settled: %v tokens, queue %v", secret.Data["tokens"], queue)
			}
		}
		if names := live(); len(names) != held {
			t.Errorf("%d tokens at Gitea, want %d: %.300q", len(names), held, names)
		}
	}
	creds := func(role string) (*api.Secret, error) {
		calm, err := c.Clone()
		if err != nil {
			return nil, err
		}
		calm.SetToken(server.Token)
		calm.SetMaxRetries(0)
		return calm.Logical().ReadWithContext(ctx, "apitoken/creds/"+role)
	}

	// Rotating the password: whatever Gitea has done of it, the engine ends up with the one that works.
	works := func(fault string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
			_, err := c.Logical().WriteWithContext(ctx, "apitoken/connections/gitea/check", nil)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", fault, err)
			}
		}
	}
	for _, fault := range []string{"reset after", "500 after", "truncated after", "nonsense after", "timeout after", "reset before"} {
		proxy.only.Store(&fault)
		proxy.share.Store(1000)
		if _, err := c.Logical().WriteWithContext(ctx, "apitoken/rotate-root/gitea", nil); err == nil {
			t.Errorf("%s: rotated", fault)
		}
		proxy.share.Store(0)
		works(fault)
	}

	// A static role keeps its token where the next one cannot be had.
	write("apitoken/static-roles/box", map[string]any{"role": "ci", "rotation_period": "24h"})
	box, err := c.Logical().ReadWithContext(ctx, "apitoken/static-creds/box")
	if err != nil {
		t.Fatal(err)
	}
	for i := range faults {
		proxy.only.Store(&faults[i])
		proxy.share.Store(1000)
		if _, err := c.Logical().WriteWithContext(ctx, "apitoken/rotate-role/box", nil); err == nil {
			t.Errorf("%s: rotated", faults[i])
		}
		proxy.share.Store(0)
		now, err := c.Logical().ReadWithContext(ctx, "apitoken/static-creds/box")
		if err != nil || now.Data["token"] != box.Data["token"] || !slices.Contains(live(), now.Data["name"].(string)) {
			t.Errorf("%s: %v", faults[i], err)
		}
	}
	write("apitoken/rotate-role/box", nil)
	write("apitoken/connections/gitea/check", nil) // has the queue tried at once
	for deadline := time.Now().Add(time.Minute); slices.Contains(live(), box.Data["name"].(string)); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the token before is still there")
		}
	}
	if _, err := c.Logical().DeleteWithContext(ctx, "apitoken/static-roles/box"); err != nil {
		t.Fatal(err)
	}

	// Each fault by itself, at every request while it lasts: an error for the requester, and no token.
	for i := range faults {
		proxy.only.Store(&faults[i])
		proxy.share.Store(1000)
		if secret, err := creds("ci"); err == nil {
			t.Errorf("%s: %v", faults[i], secret.Data["name"])
		}
		proxy.share.Store(0)
	}
	proxy.only.Store(nil)
	write("apitoken/connections/gitea/check", nil)

	// All at random, one in twenty.
	var failed, held atomic.Int64
	var kept sync.Map
	run := func(role string, cycles int, keep bool) {
		var wg sync.WaitGroup
		var left atomic.Int64
		left.Store(int64(cycles))
		for range 8 {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					secret, err := creds(role)
					if err != nil {
						failed.Add(1)
						continue
					}
					if keep && rand.IntN(100) == 0 {
						held.Add(1)
						kept.Store(secret.LeaseID, secret.Data["name"])
						continue
					}
					for c.Sys().RevokeWithContext(ctx, secret.LeaseID) != nil {
						time.Sleep(50 * time.Millisecond) // the plugin was just killed
					}
				}
			})
		}
		wg.Wait()
	}
	proxy.share.Store(50)
	run("ci", cycles, true)

	// And with the plugin killed again and again. A token whose answer has not reached Vault has no lease; it
	// ends when its lease would have.
	const killEvery = 500 * time.Millisecond
	stop, killed := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				killed <- n
				return
			case <-time.After(killEvery):
				for _, pid := range children(server.PID(), vaultserver.PluginName) {
					_ = syscall.Kill(pid, syscall.SIGKILL)
					n++
				}
			}
		}
	}()
	brief := min(cycles/3, 300)
	run("brief", brief, false)
	close(stop)
	kills := <-killed
	proxy.share.Store(0)
	settled(int(held.Load()))
	there := live()
	kept.Range(func(id, name any) bool {
		if !slices.Contains(there, name.(string)) {
			t.Errorf("the token of lease %s is gone", id)
		}
		if err := c.Sys().RevokeWithContext(ctx, id.(string)); err != nil {
			t.Error(err)
		}
		return true
	})
	settled(0)

	// An upstream that is down for longer than Vault would try.
	secret, err := creds("ci")
	if err != nil {
		t.Fatal(err)
	}
	proxy.share.Store(1000)
	if err := c.Sys().RevokeWithContext(ctx, secret.LeaseID); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, err := c.Sys().LookupWithContext(ctx, secret.LeaseID); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the lease does not end while Gitea is down")
		}
	}
	proxy.share.Store(0)
	write("apitoken/connections/gitea/check", nil)
	settled(0)
	irrevocable, err := c.Logical().ReadWithDataWithContext(ctx, "sys/leases/count", map[string][]string{"type": {"irrevocable"}})
	if err != nil || fmt.Sprint(irrevocable.Data["lease_count"]) != "0" {
		t.Errorf("%v, %v", irrevocable, err)
	}

	total := ""
	proxy.count.Range(func(fault, n any) bool {
		total += fmt.Sprintf(" %s: %d,", fault, n.(*atomic.Int64).Load())
		return true
	})
	t.Logf("%d creates, %d of them refused, %d held for a while, plugin killed %d times; faults:%s", cycles+brief, failed.Load(), held.Load(), kills, total)
}
