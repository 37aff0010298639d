package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/process"
)

// gatewayConnections is how many connections a gateway has to an authorizer in the benchmarks.
const gatewayConnections = 64

// forwardAuth measures the time of decisions at several rates, beside a server in a process of its own that allows everything.
func (b *bench) forwardAuth(ctx context.Context) error {
	all, stop, err := b.authorizers(ctx, 1, b.addr)
	defer stop()
	if err != nil {
		return err
	}
	empty, err := b.startEmpty(ctx)
	if err != nil {
		return err
	}
	defer empty.Stop()
	token, _, err := b.gatewayToken(ctx, gatewayRoles["opaque"])
	if err != nil {
		return err
	}
	fmt.Printf("\nforward-auth as nginx asks, %d connections, with access log; a request that is late counts from when it was due\n", gatewayConnections)
	fmt.Printf("%-12s %14s %22s %10s %14s %22s %10s\n", "rate", "authorizer", "p50 / p99", "CPU each", "empty server", "p50 / p99", "CPU each")
	for _, rate := range []int{1000, 2000, 5000, 10_000, 20_000} {
		var results [2]result
		var used [2]time.Duration
		for range 2 { // rounds of both alternate
			for i, server := range []*authorizer{all[0], empty} {
				before := server.cpu()
				r, err := steady(ctx, server.addr, rate, token, *forwardTime/2)
				used[i] += server.cpu() - before
				if err != nil {
					return err
				}
				if r.refused > 0 {
					return fmt.Errorf("%d requests with a good token were refused", r.refused)
				}
				results[i].times = append(results[i].times, r.times...)
				results[i].rate += r.rate / 2
			}
		}
		each := func(i int) time.Duration { return used[i] / time.Duration(max(1, len(results[i].times))) }
		fmt.Printf("%-12s %12.0f/s %22s %10s %12.0f/s %22s %10s\n", fmt.Sprintf("%d/s", rate),
			results[0].rate, &results[0], each(0).Round(100*time.Nanosecond), results[1].rate, &results[1], each(1).Round(100*time.Nanosecond))
	}
	return nil
}

// steady shows one token to a server at a rate.
func steady(ctx context.Context, addr string, rate int, token string, length time.Duration) (*result, error) {
	links, closeAll, err := dialAll(addr, gatewayConnections)
	defer closeAll()
	if err != nil {
		return nil, err
	}
	l := load{links: links, rate: rate, next: func(int) (string, string) { return token, "192.0.2.1" }}
	return l.run(ctx, length)
}

// startEmpty starts this command as a server that allows everything.
func (b *bench) startEmpty(ctx context.Context) (*authorizer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ports, err := process.FreePorts(1)
	if err != nil {
		return nil, err
	}
	a := &authorizer{addr: "127.0.0.1:" + ports[0]}
	if a.Process, err = process.Start("empty server", exec.Command(self, "-serve-empty", a.addr), filepath.Join(b.dir, "empty.log")); err != nil {
		return nil, err
	}
	return a, a.Wait(ctx, func() bool {
		l, err := dial(a.addr)
		if err != nil {
			return false
		}
		return l.conn.Close() == nil
	})
}

// serveEmpty allows every request.
func serveEmpty(addr string) error {
	server := &http.Server{Addr: addr, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(allowed)
	})}
	return server.ListenAndServe()
}
