package alert

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

const (
	// firstPause and longestBackoff bound how long an alert waits after a failure. The wait doubles with each failure. A
	// receiver that is down for a day is called every five minutes: findings are to arrive soon after the receiver is back.
	firstPause     = 5 * time.Second
	longestBackoff = 5 * time.Minute

	// longestPause is the maximum time that an alert waits because the receiver asks to.
	longestPause = time.Hour

	// patience is the number of failures of a notice after which a success of another notice no longer has the notice tried
	// at once: the receiver may refuse this one.
	patience = 5

	// syncEvery is how often the queue is listed: a process that was replaced may have stored notices.
	syncEvery = 5 * time.Minute

	// storagePause is how long nothing is sent after storage has failed: what is delivered could not be noted.
	storagePause = 10 * time.Second
)

// failed returns the attempt after a failed one. least is how long to wait at least.
func (a attempt) failed(now time.Time, least time.Duration) attempt {
	wait := min(longestBackoff, firstPause<<min(a.failures, 16))
	wait += time.Duration(rand.Int64N(int64(wait)/4 + 1)) //nolint:gosec // only spreads retries
	return attempt{failures: a.failures + 1, next: now.Add(max(wait, least))}
}

// Run starts the deliveries that are due, one at a time for each alert, and returns how long to wait before the next Run.
func (as *Alerts) Run(ctx context.Context) time.Duration {
	q := &as.queue
	if !as.Active() || !q.loaded.Load() {
		return time.Minute
	}
	now := as.Now()
	q.mu.Lock()
	paused := q.paused.Sub(now)
	q.mu.Unlock()
	if paused > 0 && paused <= storagePause {
		return paused
	}
	if err := errors.Join(as.sync(ctx, now), as.tidy(ctx, now)); err != nil {
		as.pause(ctx, err)
		return storagePause
	}
	wait := syncEvery
	for _, a := range as.Entries.All() {
		m, due := q.next(a.ID, now)
		switch {
		case m == nil:
		case due > 0:
			wait = min(wait, due)
		default:
			as.Go(func() { as.deliver(ctx, a, m) })
		}
	}
	return wait
}

// next returns the notice that an alert delivers next, and how long to wait; nil if there is none, or a delivery is running.
// If there is nothing to wait for, the delivery counts as running. Of the notices that are due, the one with the fewest
// failures comes first, then the oldest: a notice that the receiver refuses delays no other.
func (q *queue) next(id string, now time.Time) (*waiting, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.line(id)
	if l.running {
		return nil, 0
	}
	var next *waiting
	var best time.Duration
	for _, m := range q.byID {
		try := m.tries[id]
		if try == nil {
			continue
		}
		wait := max(l.next.Sub(now), try.next.Sub(now), 0)
		if wait > 2*longestPause { // the clock was set back
			wait = 0
		}
		if next == nil || cmp.Or(cmp.Compare(wait, best), cmp.Compare(try.failures, next.tries[id].failures), older(m, next)) < 0 {
			next, best = m, wait
		}
	}
	l.running = next != nil && best == 0
	return next, best
}

// older compares messages by their age.
func older(a, b *waiting) int {
	return cmp.Or(a.Queued.Compare(b.Queued), cmp.Compare(a.Notice.ID, b.Notice.ID))
}

// sync reads what other processes have put into the queue.
func (as *Alerts) sync(ctx context.Context, now time.Time) error {
	q := &as.queue
	q.mu.Lock()
	if q.synced.IsZero() {
		q.synced = now // Load has just read the queue
	}
	age := now.Sub(q.synced)
	q.mu.Unlock()
	if age >= 0 && age < syncEvery || len(as.Entries.Names()) == 0 {
		return nil
	}
	if err := as.loadQueue(ctx, as.Storage); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.synced = now
	return nil
}

// tidy drops what waits for alerts that are gone or disabled, and what has waited too long. It stores what has changed.
func (as *Alerts) tidy(ctx context.Context, now time.Time) error {
	q := &as.queue
	q.mu.Lock()
	var expired, stale []*waiting
	for _, m := range q.byID {
		for id := range m.tries {
			if a := as.Entries.ByID(id); a == nil && as.Entries.BrokenID(id) == nil || a != nil && a.Disabled {
				delete(m.tries, id)
				m.stale = true
			}
		}
		switch {
		case len(m.tries) > 0 && now.Sub(m.Queued) > KeepFor:
			expired = append(expired, m)
		case m.stale:
			stale = append(stale, m)
		}
	}
	for id := range q.lines {
		if as.Entries.ByID(id) == nil && !q.lines[id].running {
			delete(q.lines, id)
		}
	}
	q.mu.Unlock()
	for _, m := range expired {
		as.drop(m, "notice not delivered in time; notice dropped")
	}
	q.writing.Lock()
	defer q.writing.Unlock()
	for _, m := range append(stale, expired...) {
		if err := as.store(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// pause stops deliveries for a while, after storage has failed.
func (as *Alerts) pause(ctx context.Context, err error) {
	as.queue.mu.Lock()
	as.queue.paused = as.Now().Add(storagePause)
	as.queue.mu.Unlock()
	if ctx.Err() == nil {
		as.Log().Warn("queue of alerts not stored; retry scheduled", "error", err)
	}
}

// deliver sends a notice by an alert, and notes what came of the delivery.
func (as *Alerts) deliver(ctx context.Context, a *Alert, m *waiting) {
	q := &as.queue
	defer as.Wake()
	e, err := a.notice(&m.Notice, as.Origin(a.MountPoint))
	status := 0
	if err == nil {
		status, err = a.send(ctx, e, as.UserAgent, as.Now())
	}
	q.mu.Lock()
	l := q.line(a.ID)
	l.running = false
	if err != nil && ctx.Err() != nil { // the mount shuts down
		q.mu.Unlock()
		return
	}
	now := as.Now()
	if err != nil {
		l.lastError, l.lastErrorAt = err.Error(), now
		var least time.Duration
		if f := (*failure)(nil); errors.As(err, &f) {
			least = f.after
		}
		l.attempt = l.failed(now, least)
		if try := m.tries[a.ID]; try != nil {
			*try = try.failed(now, 0)
		}
		wait := l.next.Sub(now).Round(time.Second)
		q.mu.Unlock()
		if status == http.StatusGone {
			as.disable(ctx, a)
			return
		}
		as.Log().Warn("alert not delivered; retry scheduled", "alert", a.name, "receiver", a.url.Host, "notice", m.Notice.ID,
			"in", fmt.Sprint(wait), "error", err)
		return
	}
	l.lastSuccess = now
	if l.failures > 0 {
		q.again(a.ID, patience)
	}
	l.attempt = attempt{}
	delete(m.tries, a.ID)
	m.stale = true
	q.mu.Unlock()
	q.writing.Lock()
	defer q.writing.Unlock()
	if err := as.store(context.WithoutCancel(ctx), m); err != nil {
		as.pause(ctx, err)
	}
}

// again has an alert try its notices at once that have failed fewer times than a number. The caller holds mu.
func (q *queue) again(id string, fewer int) {
	for _, m := range q.byID {
		if try := m.tries[id]; try != nil && try.failures < fewer {
			try.next = time.Time{}
		}
	}
}

// retry has an alert try again at once.
func (as *Alerts) retry(id string) {
	q := &as.queue
	q.mu.Lock()
	q.line(id).attempt = attempt{}
	q.again(id, 1<<30)
	q.mu.Unlock()
	as.Wake()
}

// disable disables an alert whose receiver has answered 410 Gone, unless the alert was changed meanwhile.
func (as *Alerts) disable(ctx context.Context, a *Alert) {
	as.Entries.Writing.Lock()
	defer as.Entries.Writing.Unlock()
	latest, err := as.Entries.Latest(ctx, as.Storage, a.name)
	if err == nil {
		if latest == nil || latest.ID != a.ID || latest.URL != a.URL {
			return
		}
		e := latest.Entry
		e.Disabled, e.DisabledReason, e.DisabledAt = true, "the receiver answered 410 Gone", as.Now().UTC().Truncate(time.Second)
		err = as.put(ctx, as.Storage, a.name, e)
	}
	if err != nil {
		as.pause(ctx, err)
		return
	}
	as.Log().Error("alert disabled: the receiver answered 410 Gone", "alert", a.name, "receiver", a.url.Host)
}

// Test sends a test event at once, past the queue. It returns the ID of the event and the status of the answer.
func (as *Alerts) Test(ctx context.Context, name string) (id string, status int, _ error) {
	a := as.Entries.Get(name)
	if a == nil {
		return "", 0, as.missing(name)
	}
	e, err := a.test(as.Origin(a.MountPoint), as.Now())
	if err != nil {
		return "", 0, err
	}
	if status, err = a.send(ctx, e, as.UserAgent, as.Now()); err != nil {
		return "", 0, refusal.New("the test event %s was not delivered to %s: %w", e.id, a.url.Host, err)
	}
	as.retry(a.ID)
	return e.id, status, nil
}

// Describe returns the state of the queue of an alert, as this process knows the queue.
func (as *Alerts) Describe(a *Alert) map[string]any {
	q := &as.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	count, oldest := 0, time.Time{}
	for _, m := range q.byID {
		if m.tries[a.ID] == nil {
			continue
		}
		if count++; oldest.IsZero() || m.Queued.Before(oldest) {
			oldest = m.Queued
		}
	}
	l := q.line(a.ID)
	about := map[string]any{"count": count, "dropped": l.dropped}
	for member, at := range map[string]time.Time{
		"oldest": oldest, "last_error_at": l.lastErrorAt, "last_success_at": l.lastSuccess,
	} {
		if !at.IsZero() {
			about[member] = at.UTC().Format(time.RFC3339)
		}
	}
	if l.lastError != "" {
		about["last_error"] = l.lastError
	}
	if count > 0 && l.next.After(as.Now()) {
		about["next_try"] = l.next.UTC().Format(time.RFC3339)
	}
	return about
}
