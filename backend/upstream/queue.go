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

// Timings are the times that the queue waits.
type Timings struct {
	// Settle is how long to keep searching for a token after its create call timed out.
	Settle time.Duration

	// Grace is how long the queue waits after a lease's end before it revokes the token without a request from Vault.
	// If the plugin is killed after storing the token and before answering, Vault has no lease and never asks.
	Grace time.Duration

	// Interval is the shortest time between two runs: tokens that become due within Interval are processed together.
	// Longest is the longest time between two runs. Longest bounds the delay after the clock was set.
	Interval, Longest time.Duration

	// Sync is how often the tokens are listed in storage. A change by an old process is read within syncParts times Sync.
	Sync time.Duration

	// FirstBackoff and LongestBackoff bound how long the queue waits after a failure. The first failure is often
	// short; a service that is down for a day is called every five minutes.
	FirstBackoff, LongestBackoff time.Duration
}

// DefaultTimings are the timings in production.
var DefaultTimings = Timings{
	Settle: time.Minute, Grace: 30 * time.Second,
	Interval: time.Second, Longest: time.Minute, Sync: 5 * time.Minute, FirstBackoff: time.Second, LongestBackoff: 5 * time.Minute,
}

const (
	workers   = 4               // parallel revocations at one connection
	batch     = 1000            // most tokens in a batch
	checkLife = 5 * time.Second // how long the result of a connection check is reused
)

// Attempt counts failures and schedules the next try. The zero Attempt has no failures.
type Attempt struct {
	failures int
	Next     time.Time
}

// After returns the attempt after a failed one. The wait doubles with each failure, has a random part, and is at least
// least.
func (ts *Timings) After(a Attempt, now time.Time, least time.Duration) Attempt {
	wait := min(ts.LongestBackoff, ts.FirstBackoff<<min(a.failures, 16))
	wait += time.Duration(rand.Int64N(int64(wait)/4 + 1)) //nolint:gosec // only spreads retries
	return Attempt{failures: a.failures + 1, Next: now.Add(max(wait, least))}
}

// queue is the state of the connections whose tokens must be revoked. The tokens are in storage; the number of tries is
// only in memory.
type queue struct {
	wake    func()
	begun   atomic.Bool  // begin has completed what an earlier process left undone
	begins  Attempt      // after a failure of begin; only Run uses it
	sleeps  atomic.Int64 // when the next run is due, in nanoseconds of Unix time
	running sync.WaitGroup

	mu      sync.Mutex
	lines   map[string]*lineState // by connection id
	synced  time.Time             // when Sync last ran; zero: memory was loaded just now
	part    int                   // the part that the next sync reads; only the running sync changes it
	syncing bool
}

// lineState is the queue's state of one connection.
type lineState struct {
	Attempt             // after a failure of the connection
	root        Attempt // after a failure to settle a rotation of the credential
	rootError   error
	searchedFor string    // name of a credential that the service may have made
	searched    time.Time // when this process first searched for searchedFor
	running     bool
	ready       time.Time // Interval after the last run
	lastError   string
}

// soon wakes the queue if the next run is due later than at.
func (q *queue) soon(at time.Time) {
	if at.UnixNano() < q.sleeps.Load() {
		q.wake()
	}
}

// line returns the state of a connection. The caller holds mu.
func (q *queue) line(connectionID string) *lineState {
	l := q.lines[connectionID]
	if l == nil {
		l = new(lineState)
		q.lines[connectionID] = l
	}
	return l
}

// down reports whether the queue waits after a failure of a connection.
func (q *queue) down(connectionID string, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[connectionID]
	return l != nil && now.Before(l.Next)
}

// Retry makes the queue try a connection again at once.
func (k *Keeper) Retry(connectionID string) {
	k.queue.mu.Lock()
	if l := k.queue.lines[connectionID]; l != nil {
		l.Attempt, l.root, l.ready = Attempt{}, Attempt{}, time.Time{}
	}
	k.queue.mu.Unlock()
	k.Tokens.wakeAll(connectionID)
	k.queue.wake()
}

// Run starts the work that is due, and returns how long to wait before the next Run.
func (k *Keeper) Run(ctx context.Context) time.Duration {
	if !k.mount.Active(ctx) {
		return k.Timings.Longest
	}
	now := k.now()
	next := now.Add(k.Timings.Longest)
	if at := k.beginAgain(ctx, now); !at.IsZero() && at.Before(next) {
		next = at
	}
	k.sync(ctx, now)
	if at := k.nextSync(); at.Before(next) {
		next = at
	}
	k.queue.sleeps.Store(next.UnixNano()) // a token that becomes due from here on is seen below, or wakes the queue
	for _, connection := range k.Connections.All() {
		c := k.Connections.ready(connection)
		at, some := k.Tokens.next(c.ID)
		k.queue.mu.Lock()
		l := k.queue.line(c.ID)
		_, rotating := k.rotating.Load(c.ID) // the end of a rotation wakes the queue
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

// beginAgain calls begin unless an earlier call has completed everything. It returns when the next call is due; zero: none
// is. After a failure beginAgain waits, however often the queue is woken: where storage rejects all writes, each failure has
// memory read again, and the reading wakes the queue.
func (k *Keeper) beginAgain(ctx context.Context, now time.Time) (next time.Time) {
	if now.Before(k.queue.begins.Next) {
		return k.queue.begins.Next
	}
	if k.queue.begun.Swap(true) {
		return time.Time{}
	}
	err := k.begin(ctx)
	if err == nil {
		k.queue.begins = Attempt{}
		return time.Time{}
	}
	k.queue.begun.Store(false)
	k.queue.begins = k.Timings.After(k.queue.begins, now, 0)
	if ctx.Err() == nil {
		k.log.Warn("interrupted deletions not completed; retry scheduled", "error", err)
	}
	return k.queue.begins.Next
}

// sync reads every Timings.Sync what other processes have stored.
func (k *Keeper) sync(ctx context.Context, now time.Time) {
	k.queue.mu.Lock()
	defer k.queue.mu.Unlock()
	if k.queue.synced.IsZero() {
		k.queue.synced = now // the tokens were loaded before the first run
	}
	if k.queue.syncing || now.Before(k.queue.synced.Add(k.Timings.Sync)) {
		return
	}
	k.queue.syncing, k.queue.synced = true, now
	k.queue.running.Go(func() {
		err := k.Tokens.syncPart(ctx, k.queue.part)
		if err == nil {
			k.queue.part++
			err = k.begin(ctx) // another process may have stored tokens of a deleted role or connection
		}
		k.queue.mu.Lock()
		defer k.queue.mu.Unlock()
		k.queue.syncing = false
		if err != nil && ctx.Err() == nil {
			k.log.Warn("upstream tokens of other processes not read; retry scheduled", "error", err)
		}
	})
}

// nextSync returns when the next sync is due.
func (k *Keeper) nextSync() time.Time {
	k.queue.mu.Lock()
	defer k.queue.mu.Unlock()
	return k.queue.synced.Add(k.Timings.Sync)
}

// Wait waits until all work that Run has started is done. The caller has cancelled the context of Run.
func (k *Keeper) Wait() { k.queue.running.Wait() }

// begin completes interrupted deletions of connections, roles and tokens.
func (k *Keeper) begin(ctx context.Context) error {
	ownerless := func(t *Token) bool { return k.Connections.deleted(t.ConnectionID) }
	roleless := func(t *Token) bool { return t.State == Live && k.roleDeleted(t.RoleID) }
	if len(k.Tokens.Where(ownerless))+len(k.Tokens.Where(roleless)) > 0 { // memory may be behind storage
		if err := k.reload(ctx); err != nil {
			return err
		}
	}
	for _, t := range k.Tokens.Where(ownerless) {
		if err := k.Tokens.Forget(ctx, t.ID); err != nil {
			return err
		}
		k.log.Warn("token of a deleted connection not revoked", "connection", t.Connection, "name", t.Name)
	}
	if err := k.revokeAll(ctx, k.Tokens.Where(roleless)); err != nil {
		return err
	}
	return k.Tokens.dropOrphans(ctx)
}

// drain processes the due tokens of a connection, oldest first, until none is left or the connection fails.
func (k *Keeper) drain(ctx context.Context, c *Ready) {
	c = k.settleRoot(ctx, c)
	r := &run{Keeper: k, c: c, turn: make(chan struct{}, 1)}
	more, err := true, error(nil)
	for more && err == nil && ctx.Err() == nil {
		more, err = r.batch(ctx)
	}
	if ctx.Err() != nil {
		return // the mount shuts down
	}
	k.queue.mu.Lock()
	defer k.queue.mu.Unlock()
	l := k.queue.line(c.ID)
	if err == nil || r.progress.Load() { // the wait must not grow for a service that fails only now and then
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
	k.log.Warn("upstream tokens not revoked; retry scheduled", "connection", c.Name(), "in", fmt.Sprint(wait), "error", err)
}

// Describe returns the state of a connection's queue, as the path of the connection shows it.
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
