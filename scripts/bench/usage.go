package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	reportEvery = 30 * time.Second // as verifiers do by default
	reportRows  = 10_000           // of a batch: what the engine takes
)

// reporter is an authorizer as the path usage sees it.
type reporter struct {
	name     string
	sequence int64
}

// schedule are the batches that are sent in reportEvery.
type schedule struct {
	reporters []*reporter
	tokens    []json.RawMessage // rows of batches
	rows      int               // in each of tokens
	next      int               // number of the next batch
}

// newSchedule has each token reported by as many authorizers as reportedBy says.
func newSchedule(ids []string) (*schedule, error) {
	s := &schedule{rows: min(reportRows, len(ids) / *authorizerCount)}
	for i := range *authorizerCount {
		s.reporters = append(s.reporters, &reporter{name: fmt.Sprintf("bench-%d", i)})
	}
	for start := 0; start+s.rows <= len(ids); start += s.rows {
		list := make([]map[string]any, s.rows)
		for i, id := range ids[start : start+s.rows] {
			list[i] = map[string]any{
				"token_id": id, "uses": 7, "last_used_at": time.Now().UTC().Format(time.RFC3339), "last_ip": "192.0.2.1", "last_region": "DE",
				"scopes": []string{"invoices:read"},
			}
		}
		text, err := json.Marshal(list)
		if err != nil {
			return nil, err
		}
		s.tokens = append(s.tokens, text)
	}
	return s, nil
}

// pace returns the time between two batches.
func (s *schedule) pace() time.Duration {
	return reportEvery / time.Duration(len(s.tokens)**reportedBy)
}

// usageCost measures what reports of many active tokens cost: creds and introspect without and with them, and writes to
// storage.
func (b *bench) usageCost(ctx context.Context) error {
	began := time.Now()
	ids, err := b.activeTokens(ctx)
	if err != nil {
		return err
	}
	token, _, err := b.gatewayToken(ctx, "bench")
	if err != nil {
		return err
	}
	s, err := newSchedule(ids)
	if err != nil {
		return err
	}
	fmt.Printf("\nusage of %d active tokens (issued in %s), %d authorizers, each token reported each %s by %d of them\n",
		len(ids), time.Since(began).Round(time.Second), len(s.reporters), reportEvery, *reportedBy)
	introspection := map[string]any{"token": token, "required_scopes": "invoices:read"}
	for _, m := range []struct {
		name string
		op   operation
	}{
		{"creds", func(ctx context.Context, _ int) error { return b.call(ctx, "GET", "apitoken/creds/bench", nil, nil) }},
		{"introspect", func(ctx context.Context, _ int) error {
			return b.call(ctx, "POST", "apitoken/introspect", introspection, nil)
		}},
	} {
		var without, with sample
		var rows int
		count := max(1, *rounds/2)
		for range count {
			if err := without.round(ctx, maxClients, m.op); err != nil {
				return err
			}
			stop := b.report(ctx, s)
			err := with.round(ctx, maxClients, m.op)
			r, failed := stop()
			if err := errors.Join(err, failed); err != nil {
				return err
			}
			rows += r.rows
		}
		fmt.Printf("%-12s %d clients: %.0f/s without reports, %.0f/s with them, ratio %.2f; p50 / p99 %s, %s; %.0f rows/s were reported\n", m.name, maxClients,
			median(without.rates), median(with.rates), median(with.rates)/median(without.rates), &without, &with,
			float64(rows)/(float64(count)*length.Seconds()))
	}
	return b.usageWrites(ctx, s)
}

// usageWrites counts the entries of the raft log, which has every write to storage, without and with reports.
func (b *bench) usageWrites(ctx context.Context, s *schedule) error {
	if err := b.settle(ctx); err != nil {
		return err
	}
	for _, with := range []bool{true, false} {
		before, err := b.raftIndex(ctx)
		if err != nil {
			return err
		}
		start := time.Now()
		var r reports
		if with {
			stop := b.report(ctx, s)
			time.Sleep(*usageTime)
			r, err = stop()
		} else {
			time.Sleep(*usageTime / 3)
		}
		if err != nil {
			return err
		}
		took := time.Since(start)
		after, err := b.raftIndex(ctx)
		if err != nil {
			return err
		}
		name := "after the reports"
		if with {
			name = "with reports"
		}
		fmt.Printf("%-18s %.2f writes to storage a second, of everything in Vault, over %s; %d batches, %d rows, batch p50 / p99 %s\n",
			name, float64(after-before)/took.Seconds(), took.Round(time.Second), r.batches, r.rows, &r.sample)
	}
	return nil
}

// settle waits until Vault has no more writes of what was before.
func (b *bench) settle(ctx context.Context) error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		before, err := b.raftIndex(ctx)
		if err != nil {
			return err
		}
		time.Sleep(2 * time.Second)
		after, err := b.raftIndex(ctx)
		if err != nil {
			return err
		}
		if after-before <= 2 {
			return nil
		}
	}
	return nil
}

// raftIndex returns the number of entries of Vault's raft log.
func (b *bench) raftIndex(ctx context.Context) (int64, error) {
	state, err := b.server.Client().Sys().RaftAutopilotStateWithContext(ctx)
	if err != nil {
		return 0, err
	}
	for _, server := range state.Servers {
		return int64(server.LastIndex), nil
	}
	return 0, errors.New("raft has no servers")
}

// activeTokens issues tokens that the inventory has, and returns their IDs.
func (b *bench) activeTokens(ctx context.Context) ([]string, error) {
	ids := make([]string, 0, *activeTokenCount)
	var group sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for c := range maxClients {
		group.Go(func() {
			for range (*activeTokenCount + c) / maxClients {
				var answer struct {
					Data struct {
						ID string `json:"token_id"`
					}
				}
				err := b.call(ctx, "GET", "apitoken/creds/bench", nil, &answer)
				mu.Lock()
				ids, failed = append(ids, answer.Data.ID), errors.Join(failed, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	group.Wait()
	return ids, failed
}

// reports are what was reported.
type reports struct {
	sample
	batches, rows int
}

// report reports uses as the authorizers do, a batch at each pace, until stop is called.
func (b *bench) report(ctx context.Context, s *schedule) (stop func() (reports, error)) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	var r reports
	var failed error
	go func() {
		defer close(done)
		for due := time.Now().Add(rand.N(s.pace())); ; due = due.Add(s.pace()) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(due)):
			}
			began := time.Now()
			if failed = b.batch(context.WithoutCancel(ctx), s); failed != nil {
				return
			}
			r.times = append(r.times, time.Since(began))
			r.batches++
			r.rows += s.rows
		}
	}()
	return func() (reports, error) {
		cancel()
		<-done
		return r, failed
	}
}

// batch sends the next batch.
func (b *bench) batch(ctx context.Context, s *schedule) error {
	chunk := s.next % len(s.tokens)
	from := s.reporters[(chunk+s.next/len(s.tokens))%len(s.reporters)]
	s.next++
	from.sequence++
	var answer struct {
		Data struct {
			Accepted  int
			Duplicate bool
		}
	}
	body := map[string]any{"reporter": from.name, "sequence": from.sequence, "tokens": s.tokens[chunk], "unknown": []any{}}
	if err := b.call(ctx, "POST", "apitoken/usage", body, &answer); err != nil {
		return err
	}
	if answer.Data.Accepted != s.rows || answer.Data.Duplicate {
		return fmt.Errorf("%d of %d rows of a batch were counted", answer.Data.Accepted, s.rows)
	}
	return nil
}
