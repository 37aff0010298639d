package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
)

// Timings are those of the queue.
type Timings struct {
	// Settle is how long to keep searching for a token after its create call timed out.
	Settle time.Duration

	// Grace is how long after the end of a lease its token is revoked although Vault has not asked for that. Vault
	// never will where the plugin was killed between storing the token and answering with it: then there is no
	// lease, and storage cannot tell whether Vault has got the answer.
	Grace time.Duration

	// Interval is the shortest time between two runs: what becomes due within Interval is done together. Longest is
	// the longest time between two runs, even if the clock is set.
	Interval, Longest time.Duration

	// Sync is how often storage is asked which tokens there are.
	Sync time.Duration

	// FirstBackoff and LongestBackoff bound how long the queue waits after a failure. The first failure is often a
	// hiccup; a service that is down for a day is asked every five minutes.
	FirstBackoff, LongestBackoff time.Duration
}

// DefaultTimings are those of production.
var DefaultTimings = Timings{
	Settle: time.Minute, Grace: 30 * time.Second,
	Interval: time.Second, Longest: time.Minute, Sync: 5 * time.Minute, FirstBackoff: time.Second, LongestBackoff: 5 * time.Minute,
}

const (
	workers   = 4               // tokens of a connection that are revoked at once
	batch     = 1000            // tokens of a connection that one batch takes
	checkLife = 5 * time.Second // for which the result of a check of a connection is used
)

// Attempt is when something that failed is tried again. The zero Attempt has not failed.
type Attempt struct {
	failures int
	Next     time.Time
}

// After is the attempt after one that failed: twice as late each time, and not all at once.
func (ts *Timings) After(a Attempt, now time.Time, least time.Duration) Attempt {
	wait := min(ts.LongestBackoff, ts.FirstBackoff<<min(a.failures, 16))
	wait += time.Duration(rand.Int64N(int64(wait)/4 + 1)) //nolint:gosec // only spreads retries
	return Attempt{failures: a.failures + 1, Next: now.Add(max(wait, least))}
}

// queue is what is known of the connections whose tokens are to be revoked. What there is to do is in storage; how
// often it has been tried is not.
type queue struct {
	wake    func()
	begun   atomic.Bool  // what an earlier process has left undone is done
	sleeps  atomic.Int64 // until when it sleeps, in nanoseconds
	running sync.WaitGroup

	mu      sync.Mutex
	lines   map[string]*lineState // by connection id
	synced  time.Time             // when Sync last ran; zero: memory was loaded just now
	syncing bool
}

// lineState is what is known of one connection.
type lineState struct {
	Attempt             // after a failure that is the connection's
	root        Attempt // after a failure to settle a rotation of the credential
	rootError   error
	searchedFor string    // name of a credential that may have been made
	searched    time.Time // when this process first searched for it in vain
	running     bool
	ready       time.Time // Interval after it last ran
	lastError   string
}

// soon wakes the queue if it sleeps for longer than until at.
func (q *queue) soon(at time.Time) {
	if at.UnixNano() < q.sleeps.Load() {
		q.wake()
	}
}

// line is the state of a connection. The caller holds mu.
func (q *queue) line(connectionID string) *lineState {
	l := q.lines[connectionID]
	if l == nil {
		l = new(lineState)
		q.lines[connectionID] = l
	}
	return l
}

// down reports whether a connection could not be reached, and is not to be tried yet.
func (q *queue) down(connectionID string, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[connectionID]
	return l != nil && now.Before(l.Next)
}

// Retry has a connection tried again at once.
func (k *Keeper) Retry(connectionID string) {
	k.queue.mu.Lock()
	if l := k.queue.lines[connectionID]; l != nil {
		l.Attempt, l.root, l.ready = Attempt{}, Attempt{}, time.Time{}
	}
	k.queue.mu.Unlock()
	k.Tokens.wakeAll(connectionID)
	k.queue.wake()
}

// Run starts what is due, and returns after how long Run is due again.
func (k *Keeper) Run(ctx context.Context) time.Duration {
	if !k.mount.Active(ctx) {
		return k.Timings.Longest
	}
	if !k.queue.begun.Swap(true) && k.begin(ctx) != nil {
		k.queue.begun.Store(false)
	}
	now := k.now()
	k.sync(ctx, now)
	next := now.Add(k.Timings.Longest)
	k.queue.sleeps.Store(next.UnixNano()) // what falls due from here on is seen, or wakes the queue
	for _, connection := range k.Connections.All() {
		c := k.Connections.ready(connection)
		at, some := k.Tokens.next(c.ID)
		k.queue.mu.Lock()
		l := k.queue.line(c.ID)
		_, rotating := k.rotating.Load(c.ID) // by somebody who wakes the queue at the end
		if root := l.root.Next; c.unsettled() && !rotating && (!some || root.Before(at)) {
			at, some = root, true
		}
		for _, wait := range []time.Time{l.Next, l.ready} {
			if at.Before(wait) {
				at = wait
			}
		}
		start := some && !at.After(now) && !l.running
		if start {
			l.running = true
		} else if some && !l.running && at.Before(next) {
			next = at
		}
		k.queue.mu.Unlock()
		if start {
			k.queue.running.Go(func() {
				k.drain(ctx, c)
				k.queue.mu.Lock()
				l.running, l.ready = false, k.now().Add(k.Timings.Interval)
				k.queue.mu.Unlock()
				k.queue.wake()
			})
		}
	}
	k.queue.sleeps.Store(next.UnixNano())
	return max(k.Timings.Interval, next.Sub(now))
}

// sync has what other processes have stored seen, now and then.
func (k *Keeper) sync(ctx context.Context, now time.Time) {
	k.queue.mu.Lock()
	defer k.queue.mu.Unlock()
	if k.queue.synced.IsZero() {
		k.queue.synced = now // with the first run
	}
	if k.queue.syncing || now.Before(k.queue.synced.Add(k.Timings.Sync)) {
		return
	}
	k.queue.syncing = true
	k.queue.running.Go(func() {
		err := k.Tokens.Sync(ctx)
		if err == nil {
			err = k.begin(ctx) // the other process may not have known that a role or a connection was deleted
		}
		k.queue.mu.Lock()
		defer k.queue.mu.Unlock()
		k.queue.syncing, k.queue.synced = false, now
		if err != nil && ctx.Err() == nil {
			k.log.Warn("tokens at services that another process may have stored not read; trying again", "error", err)
		}
	})
}

// Wait waits until nothing runs that Run has started. The context of Run is done.
func (k *Keeper) Wait() { k.queue.running.Wait() }

// begin completes what was cut short: the deletion of a connection or of a role, and that of a token.
func (k *Keeper) begin(ctx context.Context) error {
	ownerless := func(t *Token) bool { return k.Connections.deleted(t.ConnectionID) }
	roleless := func(t *Token) bool { return t.State == Live && k.roleDeleted(t.RoleID) }
	if len(k.Tokens.Where(ownerless))+len(k.Tokens.Where(roleless)) > 0 { // says memory, which may be behind
		if err := k.reload(ctx); err != nil {
			return err
		}
	}
	for _, t := range k.Tokens.Where(ownerless) {
		if err := k.Tokens.Forget(ctx, t.ID); err != nil {
			return err
		}
		k.log.Warn("token left behind at a service whose connection was deleted", "connection", t.Connection, "name", t.Name)
	}
	if err := k.revokeAll(ctx, k.Tokens.Where(roleless)); err != nil {
		return err
	}
	return k.Tokens.dropOrphans(ctx)
}

// drain does what is due at a connection, the oldest first, until nothing is left or the service cannot be reached.
func (k *Keeper) drain(ctx context.Context, c *Ready) {
	c = k.settleRoot(ctx, c)
	r := &run{Keeper: k, c: c, turn: make(chan struct{}, 1)}
	more, err := true, error(nil)
	for more && err == nil && ctx.Err() == nil {
		more, err = r.batch(ctx)
	}
	if ctx.Err() != nil {
		return // the mount goes away
	}
	k.queue.mu.Lock()
	defer k.queue.mu.Unlock()
	l := k.queue.line(c.ID)
	if err == nil || r.progress.Load() { // a service that fails now and then must not be waited for ever longer
		l.Attempt = Attempt{}
	}
	if err == nil {
		return
	}
	var least time.Duration
	if e := (*connector.Error)(nil); errors.As(err, &e) {
		least = min(e.RetryAfter, k.Timings.LongestBackoff)
	}
	l.Attempt = k.Timings.After(l.Attempt, k.now(), least)
	l.lastError = err.Error()
	wait := l.Next.Sub(k.now()).Round(time.Second)
	k.log.Warn("tokens at a service not revoked; trying again", "connection", c.Name(), "in", fmt.Sprint(wait), "error", err)
}

// Describe returns what is known of the queue of a connection.
func (k *Keeper) Describe(c *Connection) map[string]any {
	now := k.now()
	w := k.Tokens.waiting(c.ID, now)
	about := map[string]any{"count": w.count}
	k.queue.mu.Lock()
	defer k.queue.mu.Unlock()
	l := k.queue.line(c.ID)
	if left := c.left(); left != "" {
		if l.rootError != nil {
			left += ": " + l.rootError.Error()
		}
		about["root"] = left
	}
	if w.count == 0 {
		return about
	}
	about["oldest"] = w.oldest.UTC().Format(time.RFC3339)
	if w.unrevocable > 0 {
		about["unrevocable"] = w.unrevocable
		about["unrevocable_until"] = w.until.UTC().Format(time.RFC3339)
	}
	switch {
	case l.failures > 0:
		about["last_error"] = l.lastError
		if now.Before(l.Next) {
			about["next_try"] = l.Next.UTC().Format(time.RFC3339)
		}
	case w.note != nil && !errors.Is(w.note, errWait):
		about["last_error"] = w.note.Error()
	}
	return about
}
