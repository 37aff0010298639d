package acceptance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/vaultserver"
)

// visitors send good tokens to a gateway until stop is called. stop returns how many requests were sent, and what was
// answered to those that were not allowed.
func visitors(address string, tokens map[string]string) (stop func() (requests int, refused []string)) {
	done := make(chan struct{})
	var group sync.WaitGroup
	var mu sync.Mutex
	var requests int
	var refused []string
	for name, token := range tokens {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(20 * time.Millisecond):
				}
				status, _, err := send(address, "GET", "/orders", bearer(token))
				mu.Lock()
				requests++
				if err != nil || status != 200 {
					refused = append(refused, fmt.Sprintf("%s: %d, %v", name, status, err))
				}
				mu.Unlock()
			}
		})
	}
	return func() (int, []string) {
		close(done)
		group.Wait()
		return requests, refused
	}
}

// refusedAfter returns how long after a moment a gateway refused all tokens.
func refusedAfter(t *testing.T, address, when string, since time.Time, tokens map[string]string) {
	t.Helper()
	var group sync.WaitGroup
	for name, token := range tokens {
		group.Go(func() {
			var refused time.Duration
			for {
				status, _, err := send(address, "GET", "/orders", bearer(token))
				took := time.Since(since)
				if refused == 0 && err == nil && status != 200 {
					refused = took
				}
				switch {
				case err != nil || took > 10*revocationBar || refused > 0 && status == 200:
					t.Errorf("revoked %s the failover, %s: after %s: %d, %v", when, name, took, status, err)
					return
				case status == 401:
					t.Logf("revoked %s the failover, %s: refused after %s", when, name, refused.Round(time.Millisecond))
					if refused > revocationBar {
						t.Errorf("%s: that is more than %s", name, revocationBar)
					}
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	group.Wait()
}

// joinShop adds a node to the shop's cluster, and waits until the node may become the active node.
func joinShop(t *testing.T, s *shop) *vaultserver.Server {
	t.Helper()
	ctx := t.Context()
	node, err := vaultserver.Start(ctx, vaultserver.Config{
		Binary: vault, Dir: filepath.Join(t.TempDir(), "node2"), PluginDir: filepath.Dir(plugin), Join: s.server,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Stop)
	if err := node.Wait(ctx, func() bool {
		secret, err := s.Logical().ReadWithContext(ctx, "sys/storage/raft/configuration")
		if err != nil {
			return false
		}
		voters := 0
		for _, one := range secret.Data["config"].(map[string]any)["servers"].([]any) {
			if one.(map[string]any)["voter"] == true {
				voters++
			}
		}
		return voters == 2
	}); err != nil {
		t.Fatal(err)
	}
	return node
}

// stepDown has the active node step down, and waits until the other node is active.
func stepDown(t *testing.T, from, to *vaultserver.Server) {
	t.Helper()
	ctx := t.Context()
	if err := from.Client().Sys().StepDownWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	if err := to.Wait(ctx, func() bool {
		health, err := to.Client().Sys().HealthWithContext(ctx)
		return err == nil && !health.Standby && !health.Sealed
	}); err != nil {
		t.Fatal(err)
	}
}

// TestGatewayFailover has the active node of Vault step down behind a gateway. Tokens that were seen stay good throughout.
// Revocations just before and right after the failover are seen, of both kinds of token, by a lease and by a token's text.
func TestGatewayFailover(t *testing.T) {
	t.Parallel()
	g, binary := anyGateway(t)
	s := newShop(t)
	standby := joinShop(t, s)
	address := g.start(t, s, binary)

	good, before, after, leases := map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}
	for _, role := range []string{"reader", "jwt"} {
		good[role], _ = s.token(t, role)
		for _, way := range []string{"lease", "text"} {
			name := role + " by its " + way
			before[name], leases[name+", before"] = s.token(t, role)
			after[name], leases[name+", after"] = s.token(t, role)
		}
	}
	unseen, _ := s.token(t, "reader")
	for _, token := range slices.Concat(slices.Collect(maps.Values(good)), slices.Collect(maps.Values(before)), slices.Collect(maps.Values(after))) {
		if status, _, err := send(address, "GET", "/orders", bearer(token)); err != nil || status != 200 {
			t.Fatalf("%d, %v", status, err)
		}
	}
	revoke := func(c *api.Client, tokens map[string]string, when string) {
		t.Helper()
		ctx := context.WithoutCancel(t.Context())
		var failed error
		for name, token := range tokens {
			var err error
			if strings.HasSuffix(name, "lease") {
				err = c.Sys().RevokeWithOptionsWithContext(ctx, &api.RevokeOptions{LeaseID: leases[name+", "+when], Sync: true})
			} else {
				_, err = c.Logical().WriteWithContext(ctx, "apitoken/revoke", map[string]any{"token": token})
			}
			failed = errors.Join(failed, err)
		}
		if failed != nil {
			t.Fatal(failed)
		}
	}

	stop := visitors(address, good)
	revoke(s.server.Client(), before, "before")
	began := time.Now()
	stepDown(t, s.server, standby)
	active := time.Now()
	t.Logf("the other node was active after %s", active.Sub(began).Round(time.Millisecond))
	revoke(standby.Client(), after, "after")
	revoked := time.Now()
	var group sync.WaitGroup
	group.Go(func() { refusedAfter(t, address, "before", active, before) })
	group.Go(func() { refusedAfter(t, address, "after", revoked, after) })
	group.Wait()
	for ; ; time.Sleep(50 * time.Millisecond) {
		status, _, err := send(address, "GET", "/orders", bearer(unseen))
		if err == nil && status == 200 {
			break
		}
		if time.Since(active) > 5*revocationBar {
			t.Fatalf("a token that was never seen: %d, %v", status, err)
		}
	}
	requests, refused := stop()
	t.Logf("%d requests with good tokens during the failover", requests)
	if len(refused) > 0 {
		t.Errorf("%d requests with good tokens were refused: %s", len(refused), refused[0])
	}
}
