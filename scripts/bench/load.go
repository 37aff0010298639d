package main

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"
)

// load sends requests at a rate, on connections that take turns.
type load struct {
	links []*link
	rate  int                                   // requests a second, of all connections
	next  func(link int) (token, client string) // what a connection shows next
}

// result is what came of a load.
type result struct {
	sample
	rate    float64 // requests a second that were answered
	refused int     // answers that did not allow
}

// run sends requests for a time. If a connection is late, since the answer before was late, the time of a request counts from
// when the request was due.
func (l *load) run(ctx context.Context, length time.Duration) (*result, error) {
	var group sync.WaitGroup
	results, errs := make([]result, len(l.links)), make([]error, len(l.links))
	every := time.Duration(len(l.links)) * time.Second / time.Duration(l.rate)
	start := time.Now()
	for i, conn := range l.links {
		group.Go(func() {
			r := &results[i]
			due := start.Add(every * time.Duration(i) / time.Duration(len(l.links)))
			for ; due.Sub(start) < length && ctx.Err() == nil; due = due.Add(every) {
				began := due
				if wait := time.Until(due); wait > 0 {
					time.Sleep(wait)
					began = time.Now()
				}
				if time.Since(start) > length+length/10 {
					return // the machine's limit is below the rate
				}
				token, client := l.next(i)
				status, err := conn.ask(token, client)
				if err != nil {
					errs[i] = err
					return
				}
				r.times = append(r.times, time.Since(began))
				if status != allowed {
					r.refused++
				}
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	all := &result{}
	for i := range results {
		all.times = append(all.times, results[i].times...)
		all.refused += results[i].refused
	}
	all.rate = float64(len(all.times)) / took.Seconds()
	return all, cmp.Or(errors.Join(errs...), ctx.Err())
}
