package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"
)

// atATime is how many revocations are watched at a time, each at all authorizers.
const atATime = 5

// refusals measures how long after the answer to a revocation the authorizers refuse the token, by the default poll of the
// feed.
func (b *bench) refusals(ctx context.Context) error {
	all, stop, err := b.authorizers(ctx, *authorizerCount, b.addr, "log: {access: none}")
	defer stop()
	if err != nil {
		return err
	}
	fmt.Printf("\nfrom the answer to a revocation to the refusal, %d authorizers that poll once a second\n", len(all))
	fmt.Printf("%-10s %12s %10s %10s %10s %24s\n", "token", "revocations", "p50", "p99", "max", "last authorizer p50 / p99")
	for _, kind := range []string{"opaque", "JWT"} {
		var each, last sample
		if err := b.revokeAll(ctx, all, gatewayRoles[kind], &each, &last); err != nil {
			return err
		}
		fmt.Printf("%-10s %12d %10s %10s %10s %24s\n", kind, len(last.times), each.at(0.50), each.at(0.99), each.at(1), &last)
	}
	return nil
}

// revokeAll revokes tokens of a role, some at a time.
func (b *bench) revokeAll(ctx context.Context, all []*authorizer, role string, each, last *sample) error {
	var group sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for worker := range atATime {
		group.Go(func() {
			err := func() error {
				var links []*link
				for _, a := range all {
					l, err := dial(a.addr)
					if err != nil {
						return err
					}
					defer l.conn.Close()
					links = append(links, l)
				}
				for range (*revocations + worker) / atATime {
					took, err := b.revokeOne(ctx, links, role)
					if err != nil {
						return err
					}
					mu.Lock()
					each.times = append(each.times, took...)
					last.times = append(last.times, slices.Max(took))
					mu.Unlock()
				}
				return nil
			}()
			mu.Lock()
			failed = errors.Join(failed, err)
			mu.Unlock()
		})
	}
	group.Wait()
	return failed
}

// revokeOne shows a token to all authorizers, revokes the token's lease, and returns when each authorizer refused the token.
func (b *bench) revokeOne(ctx context.Context, links []*link, role string) ([]time.Duration, error) {
	const client = "192.0.2.1"
	token, lease, err := b.gatewayToken(ctx, role)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if status, err := l.ask(token, client); err != nil || status != allowed {
			return nil, fmt.Errorf("a token that is not revoked: %d, %w", status, err)
		}
	}
	time.Sleep(rand.N(time.Second)) // so that revocations do not keep step with the polls
	if err := b.call(ctx, "POST", "sys/leases/revoke", map[string]any{"lease_id": lease, "sync": true}, nil); err != nil {
		return nil, err
	}
	answered := time.Now()
	took, errs := make([]time.Duration, len(links)), make([]error, len(links))
	var group sync.WaitGroup
	for i, l := range links {
		group.Go(func() {
			for {
				status, err := l.ask(token, client)
				took[i] = time.Since(answered)
				switch {
				case err != nil || status != allowed && status != http.StatusUnauthorized || took[i] > time.Minute:
					errs[i] = fmt.Errorf("a revoked token, after %s: %d, %w", took[i], status, err)
					return
				case status == http.StatusUnauthorized:
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	group.Wait()
	return took, errors.Join(errs...)
}
