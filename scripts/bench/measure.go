package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxClients is the maximum number of concurrent clients.
const maxClients = 32

// operation makes one call of one client.
type operation func(ctx context.Context, client int) error

type measurement struct {
	name          string
	engine, floor operation
}

// measurements sets up the mount, and returns the operations to measure.
//
//nolint:funlen // a list of writes and of operations
func (b *bench) measurements(ctx context.Context) ([]measurement, error) {
	opaque := map[string]any{"scopes": "invoices:read,invoices:list", "ttl": "24h"}
	signed := map[string]any{"scopes": "invoices:read,invoices:list", "ttl": "24h", "token_format": "jwt", "audience": "https://api.example.com"}
	leaseless := map[string]any{
		"scopes": "invoices:read,invoices:list", "ttl": "15m", "token_format": "jwt", "audience": "https://api.example.com", "generate_lease": false,
	}
	refresh := map[string]any{"scopes": "invoices:read,invoices:list", "ttl": "24h", "refresh": true, "access_ttl": "5m"}
	for _, write := range []struct {
		path string
		data map[string]any
	}{
		{"config", map[string]any{"issuer": b.addr + "/v1/apitoken"}},
		{"roles/bench", opaque}, {"roles/jwt", signed}, {"roles/leaseless", leaseless}, {"roles/refresh", refresh},
	} {
		if err := b.call(ctx, "POST", "apitoken/"+write.path, write.data, nil); err != nil {
			return nil, err
		}
	}
	var creds struct {
		Data struct {
			Token        string
			RefreshToken string `json:"refresh_token"`
		}
	}
	var newest [maxClients]string // refresh tokens
	for c := range newest {
		if err := b.call(ctx, "GET", "apitoken/creds/refresh", nil, &creds); err != nil {
			return nil, err
		}
		newest[c] = creds.Data.RefreshToken
	}
	if err := b.call(ctx, "GET", "apitoken/creds/bench", nil, &creds); err != nil {
		return nil, err
	}
	token := creds.Data.Token

	if err := b.call(ctx, "GET", "apitoken/creds/jwt", nil, nil); err != nil {
		return nil, err
	}
	var published struct {
		Lists []string `json:"status_lists"`
	}
	if err := b.call(ctx, "GET", "apitoken/oauth/status", nil, &published); err != nil {
		return nil, err
	}
	_, list, found := strings.Cut(published.Lists[0], "/v1/")
	if !found {
		return nil, fmt.Errorf("the status list %q is not a path of Vault", published.Lists[0])
	}

	get := func(path string) operation {
		return func(ctx context.Context, _ int) error { return b.call(ctx, "GET", path, nil, nil) }
	}
	introspection := map[string]any{"token": token, "required_scopes": "invoices:read"}
	leased := get("floor/leased/bench")
	unleased := func(ctx context.Context, _ int) error {
		return b.call(ctx, "POST", "floor/unleased", introspection, nil)
	}
	service := newService()
	b.service = service
	if err := b.connect(ctx); err != nil {
		return nil, err
	}
	return []measurement{
		{"creds-upstream", get("apitoken/creds/upstream"), func(ctx context.Context, _ int) error {
			if err := b.direct(ctx); err != nil {
				return err
			}
			return b.call(ctx, "GET", "floor/leased-stored/bench", nil, nil)
		}},
		{"creds", get("apitoken/creds/bench"), leased},
		{"creds-jwt", get("apitoken/creds/jwt"), leased},
		{"creds-leaseless", get("apitoken/creds/leaseless"), unleased},
		{"introspect", func(ctx context.Context, _ int) error {
			return b.call(ctx, "POST", "apitoken/introspect", introspection, nil)
		}, unleased},
		{"oauth-introspect", func(ctx context.Context, _ int) error {
			return b.post(ctx, "apitoken/oauth/introspect", url.Values{"token": {token}, "scope": {"invoices:read"}}, nil)
		}, unleased},
		{"refresh", func(ctx context.Context, client int) error {
			var next struct {
				RefreshToken string `json:"refresh_token"`
			}
			form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {newest[client]}}
			err := b.post(ctx, "apitoken/oauth/token", form, &next)
			newest[client] = next.RefreshToken
			return err
		}, func(ctx context.Context, client int) error {
			return b.post(ctx, "floor/stored", url.Values{"token": {token}, "key": {strconv.Itoa(client)}}, nil)
		}},
		{"status-list", get(list), unleased},
	}, nil
}

// compare prints a line of the table.
func compare(ctx context.Context, name string, clients int, engine, floor operation) error {
	var e, f sample
	for i := range *rounds {
		first, second := func() error { return e.round(ctx, clients, engine) }, func() error { return f.round(ctx, clients, floor) }
		if i%2 == 1 {
			first, second = second, first
		}
		if err := errors.Join(first(), second()); err != nil {
			return err
		}
	}
	fmt.Printf("%-18s %8d %10.0f/s %10.0f/s %7.2f %22s %22s\n",
		name, clients, median(e.rates), median(f.rates), median(e.rates)/median(f.rates), &e, &f)
	return nil
}

// sample holds the measurements of some rounds.
type sample struct {
	rates []float64 // requests a second, of each round
	times []time.Duration
}

func (s *sample) String() string { return fmt.Sprintf("%s / %s", s.at(0.50), s.at(0.99)) }

// at returns a quantile of the times.
func (s *sample) at(q float64) time.Duration {
	if len(s.times) == 0 {
		return 0
	}
	slices.Sort(s.times)
	return s.times[int(q*float64(len(s.times)-1))].Round(10 * time.Microsecond)
}

func median(v []float64) float64 {
	sorted := slices.Sorted(slices.Values(v))
	return sorted[len(sorted)/2]
}

// round runs clients that call f in a loop for the duration of a round.
func (s *sample) round(ctx context.Context, clients int, f operation) error {
	var wg sync.WaitGroup
	times := make([][]time.Duration, clients)
	errs := make([]error, clients)
	start := time.Now()
	for c := range clients {
		wg.Go(func() {
			for time.Since(start) < *length {
				began := time.Now()
				if errs[c] = f(ctx, c); errs[c] != nil {
					return
				}
				times[c] = append(times[c], time.Since(began))
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	n := 0
	for c := range clients {
		if errs[c] != nil {
			return errs[c]
		}
		n += len(times[c])
		s.times = append(s.times, times[c]...)
	}
	s.rates = append(s.rates, float64(n)/took.Seconds())
	return nil
}

// revocation compares the revocation of many leases at once.
func (b *bench) revocation(ctx context.Context) error {
	fmt.Printf("\nlease revoke -prefix -sync of %d leases\n", *leases)
	var engine, floor []float64
	for round := range *purges {
		for _, m := range []struct {
			prefix string
			rates  *[]float64
		}{{"apitoken/creds/bench", &engine}, {"floor/leased/bench", &floor}} {
			// The measurement must not include work left over from earlier rounds.
			if err := b.call(ctx, "POST", "sys/leases/revoke-prefix/"+m.prefix, map[string]any{"sync": true}, nil); err != nil {
				return err
			}
			if err := b.issue(ctx, m.prefix, *leases); err != nil {
				return err
			}
			start := time.Now()
			if err := b.call(ctx, "POST", "sys/leases/revoke-prefix/"+m.prefix, map[string]any{"sync": true}, nil); err != nil {
				return err
			}
			*m.rates = append(*m.rates, float64(*leases)/time.Since(start).Seconds())
		}
		fmt.Printf("  round %d: engine %.0f/s, floor %.0f/s, ratio %.2f\n", round+1, engine[round], floor[round], engine[round]/floor[round])
	}
	fmt.Printf("%-18s %8d %10.0f/s %10.0f/s %7.2f\n", "revoke", 1, median(engine), median(floor), median(engine)/median(floor))
	return nil
}

// issue issues the leases to revoke.
func (b *bench) issue(ctx context.Context, path string, leases int) error {
	const clients = 16
	var wg sync.WaitGroup
	errs := make([]error, clients)
	for c := range clients {
		wg.Go(func() {
			for range leases / clients {
				if errs[c] = b.call(ctx, "GET", path, nil, nil); errs[c] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
