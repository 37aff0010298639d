package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// polled compares creds without and with verifiers that poll the feed once a second, with a file audit device on. Rounds
// of both alternate.
func (b *bench) polled(ctx context.Context) error {
	const creds = "apitoken/creds/bench"
	log := filepath.Join(b.dir, "audit.log")
	sys := b.server.Client().Sys()
	device := &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": log}}
	if err := sys.EnableAuditWithOptionsWithContext(ctx, "polls", device); err != nil {
		return err
	}
	defer func() { _ = sys.DisableAuditWithContext(context.WithoutCancel(ctx), "polls") }()
	issue := func(ctx context.Context, _ int) error { return b.call(ctx, "GET", creds, nil, nil) }
	var alone, beside sample
	var answered, late, bytes float64
	var polling time.Duration
	for range *rounds {
		if err := alone.round(ctx, maxClients, issue); err != nil {
			return err
		}
		before, began := size(log), time.Now()
		stop := b.poll(ctx, *pollers)
		err := beside.round(ctx, maxClients, issue)
		polling += time.Since(began)
		a, l := stop()
		if err != nil {
			return err
		}
		answered, late, bytes = answered+a, late+l, bytes+float64(size(log)-before)
	}
	without, with, seconds := median(alone.rates), median(beside.rates), polling.Seconds()
	fmt.Printf("\ncreds with a file audit device, %d clients: %.0f/s; beside %d verifiers that poll once a second: %.0f/s, ratio %.2f\n",
		maxClients, without, *pollers, with, with/without)
	fmt.Printf("polls: %.0f/s answered, %.0f/s not sent since the poll before was not answered; the audit log grows by %.1f MB/s, creds included\n",
		answered/seconds, late/seconds, bytes/seconds/1e6)
	return nil
}

// poll polls the feed as n verifiers do, once a second each, until stop is called. stop returns how many polls were
// answered, and how many were not sent because the poll before was not answered.
func (b *bench) poll(ctx context.Context, n int) (stop func() (answered, late float64)) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	var mu sync.Mutex
	var answered, late float64
	begun := time.Now()
	for i := range n {
		group.Go(func() {
			next := begun.Add(time.Duration(i) * time.Second / time.Duration(n))
			for {
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Until(next)):
				}
				err := b.call(ctx, "GET", "apitoken/feed", nil, nil)
				mu.Lock()
				if err == nil {
					answered++
				}
				for next = next.Add(time.Second); next.Before(time.Now()); next = next.Add(time.Second) {
					late++
				}
				mu.Unlock()
			}
		})
	}
	return func() (float64, float64) {
		cancel()
		group.Wait()
		return answered, late
	}
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
