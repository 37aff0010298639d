package main

import (
	"context"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	noiseRate  = 10_000 // tokens a second
	goodRate   = 200    // requests a second with good tokens, beside the noise
	goodTokens = 100
	goodLinks  = 16 // connections of good tokens: a late answer must not delay the next request
)

// noise shows random tokens with good checksums to an authorizer, and measures the calls to Vault and what becomes of good
// tokens. The same load of good tokens shows how much of the waiting time is due to the load alone.
func (b *bench) noise(ctx context.Context) error {
	proxy, counter, err := b.countingProxy()
	if err != nil {
		return err
	}
	defer proxy.Close()
	all, stop, err := b.authorizers(ctx, 1, proxy.URL, "log: {access: none}")
	defer stop()
	if err != nil {
		return err
	}
	tokens := make([]string, goodTokens)
	for i := range tokens {
		if tokens[i], _, err = b.gatewayToken(ctx, []string{gatewayRoles["opaque"], gatewayRoles["JWT"]}[i%2]); err != nil {
			return err
		}
	}
	if _, err := b.besides(ctx, all[0].addr, tokens, 2*time.Second, nil); err != nil { // every token is seen
		return err
	}
	good := func(int) (string, string) { return tokens[rand.IntN(len(tokens))], "192.0.2.1" }
	random := func(int) (string, string) { return randomToken(tokens[0]), randomAddress() }
	fmt.Printf("\n%d/s random tokens with good checksums from 1,000 addresses; beside them %d/s with %d good tokens that were seen before\n", noiseRate, goodRate, goodTokens)
	fmt.Printf("%-14s %10s %12s %22s %14s %14s %12s\n", "load", "answered", "good refused", "good p50 / p99", "calls to Vault", "worst second", "cores used")
	for _, phase := range []struct {
		name   string
		length time.Duration
		next   func(int) (string, string)
	}{{"none", 10 * time.Second, nil}, {"good tokens", 20 * time.Second, good}, {"random tokens", *noiseTime, random}} {
		count, computed, start := counter.watch(), all[0].cpu(), time.Now()
		r, err := b.besides(ctx, all[0].addr, tokens, phase.length, phase.next)
		called := count()
		share := float64(all[0].cpu()-computed) / float64(time.Since(start))
		if err != nil {
			return err
		}
		fmt.Printf("%-14s %8.0f/s %12s %22s %12.1f/s %14d %12.2f\n", phase.name, r.load.rate,
			fmt.Sprintf("%d of %d", r.good.refused, len(r.good.times)), &r.good, called.mean, called.worst, share)
		fmt.Printf("  calls to Vault:%s\n", called.paths)
		if phase.next != nil && r.load.refused > 0 {
			fmt.Printf("  of the load, %d of %d were refused\n", r.load.refused, len(r.load.times))
		}
		for i, who := range []string{"an address that has shown a good token", "new addresses"} {
			if f := &r.first[i]; len(f.times) > 0 || f.never > 0 {
				fmt.Printf("  tokens never seen before, of %s: %d of %d allowed at the first try; with a try every 100 ms allowed after p50 / p99 %s; %d not within 10 s\n",
					who, f.atOnce, len(f.times)+f.never, &f.sample, f.never)
			}
		}
	}
	return nil
}

// beside is what became of good tokens beside a load.
type beside struct {
	load, good result
	first      [2]firstUses // of an address that has shown a good token, and of new addresses
}

// firstUses is what became of tokens that were never seen before.
type firstUses struct {
	sample     // the time until a token was allowed
	atOnce int // tokens that were allowed at the first try
	never  int // tokens that were not allowed in ten seconds
}

// besides shows good tokens, and tokens that were never seen, to an authorizer beside a load; nil: without a load.
func (b *bench) besides(ctx context.Context, addr string, tokens []string, length time.Duration, next func(int) (string, string)) (*beside, error) {
	links, closeAll, err := dialAll(addr, gatewayConnections+2+goodLinks)
	defer closeAll()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &beside{}
	var group sync.WaitGroup
	if next != nil {
		group.Go(func() {
			l := load{links: links[2+goodLinks:], rate: noiseRate, next: next}
			answered, err := l.run(ctx, length)
			if err != nil {
				cancel(err)
			}
			r.load = *answered
		})
		for i, client := range []func() string{func() string { return "198.51.100.7" }, newAddress} {
			group.Go(func() {
				if err := b.showNew(ctx, links[i], length, client, &r.first[i]); err != nil {
					cancel(err)
				}
			})
		}
	}
	var turn atomic.Int64
	l := load{links: links[2 : 2+goodLinks], rate: goodRate, next: func(int) (string, string) {
		return tokens[turn.Add(1)%int64(len(tokens))], "192.0.2.1"
	}}
	answered, err := l.run(ctx, length)
	if err != nil {
		cancel(err)
	}
	group.Wait()
	r.good = *answered
	return r, context.Cause(ctx)
}

// showNew issues tokens, one after another, and shows each until the authorizer allows the token.
func (b *bench) showNew(ctx context.Context, l *link, length time.Duration, client func() string, f *firstUses) error {
	for start := time.Now(); time.Since(start) < length; time.Sleep(time.Second) {
		token, _, err := b.gatewayToken(ctx, gatewayRoles["opaque"])
		if err != nil {
			return err
		}
		address, began := client(), time.Now()
		for try := 0; ; try++ {
			status, err := l.ask(token, address)
			if err != nil {
				return err
			}
			if status == allowed {
				f.times = append(f.times, time.Since(began))
				if try == 0 {
					f.atOnce++
				}
				break
			}
			if time.Since(began) > 10*time.Second {
				f.never++
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// randomToken returns a text with the prefix, the version and the key number of a token, and a good checksum: only the engine
// finds out that the text is no token.
func randomToken(like string) string {
	text := []byte(like[:len(like)-6])
	start := strings.LastIndexByte(like, '_') + 1
	for i := start + 11; i < len(text); i++ {
		digits := 62
		if (i-start)%11 == 0 {
			digits = 21 // eleven digits are eight bytes: they must not exceed 64 bits
		}
		text[i] = base62[rand.IntN(digits)]
	}
	sum := crc32.ChecksumIEEE(text)
	var digits [6]byte
	for i := range digits {
		digits[5-i] = base62[sum%62]
		sum /= 62
	}
	return string(append(text, digits[:]...))
}

func randomAddress() string { return fmt.Sprintf("10.0.%d.%d", rand.IntN(4), 1+rand.IntN(250)) }

// newAddress returns an address that no other client has.
func newAddress() string { return fmt.Sprintf("10.1.%d.%d", rand.IntN(256), rand.IntN(256)) }

// callCounter counts the calls that pass a proxy, by the second and by the path below the mount.
type callCounter struct {
	mu     sync.Mutex
	second map[int64]int
	path   map[string]int
}

// countingProxy starts a proxy before Vault that counts calls.
func (b *bench) countingProxy() (*httptest.Server, *callCounter, error) {
	target, err := url.Parse(b.addr)
	if err != nil {
		return nil, nil, err
	}
	c := &callCounter{second: make(map[int64]int), path: make(map[string]int)}
	forward := httputil.NewSingleHostReverseProxy(target)
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.second[time.Now().Unix()]++
		c.path[strings.TrimPrefix(r.URL.Path, "/v1/apitoken/")]++
		c.mu.Unlock()
		forward.ServeHTTP(w, r)
	})), c, nil
}

// calls are the calls in a time.
type calls struct {
	mean  float64 // a second
	worst int     // in the worst whole second
	paths string
}

// watch begins to count. The returned function returns the calls since.
func (c *callCounter) watch() func() calls {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.second)
	clear(c.path)
	start := time.Now()
	return func() calls {
		c.mu.Lock()
		defer c.mu.Unlock()
		var is calls
		for _, n := range c.second {
			is.worst = max(is.worst, n)
			is.mean += float64(n)
		}
		is.mean /= time.Since(start).Seconds()
		for _, path := range slices.Sorted(maps.Keys(c.path)) {
			is.paths += fmt.Sprintf(" %s %d", path, c.path[path])
		}
		return is
	}
}
