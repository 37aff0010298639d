package backend

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// timings are those of the reaper; tests shorten them.
type timings struct {
	// settle is how long after a call has timed out a token that it may have created is looked for in vain.
	settle time.Duration

	// leaseGrace is how long after the end of a lease its token is ended although Vault has not asked for
	// it. It never will where the plugin was killed between writing the token down and answering with it:
	// then there is no lease, and whether Vault has got the answer is nothing that storage can tell.
	leaseGrace time.Duration

	interval       time.Duration
	firstBackoff   time.Duration
	longestBackoff time.Duration
}

var defaultTimings = timings{
	settle: time.Minute, leaseGrace: 30 * time.Second,
	interval: time.Second, firstBackoff: time.Second, longestBackoff: 5 * time.Minute,
}

const (
	reapParallel = 4 // tokens of a connection that are ended at once
	reapGiveUp   = 4 // failures in a row after which the upstream counts as down
)

// reaper ends tokens at upstreams that nothing holds any more: those whose revocation could not be
// delivered, those whose creation was cut short, and those whose time is over. What it has to do is in
// storage; how often it has tried is not.
type reaper struct {
	*worker
	b *backend
	timings
	begun     bool        // what an earlier process has left undone is done
	unwatched atomic.Bool // there was nothing to watch: it sleeps until it is woken

	mu       sync.Mutex
	creating map[token.ID]bool // by requests of this process, not to be looked for
	queues   map[string]*queue // connection id -> what is known of its queue
}

// queue is the queue of one connection.
type queue struct {
	attempt
	pending   attempt              // to settle a rotation of the credential that was cut short
	resting   map[token.ID]attempt // tokens that the upstream would not end, or does not know yet
	running   bool
	lastError string
}

// attempt is when something is tried again.
type attempt struct {
	failures int
	next     time.Time
}

func newReaper(b *backend) *reaper {
	return &reaper{
		worker: newWorker(), b: b, timings: defaultTimings,
		creating: make(map[token.ID]bool), queues: make(map[string]*queue),
	}
}

// after gives the attempt after one that failed: twice as late each time, and not all at once.
func (r *reaper) after(a attempt, now time.Time, least time.Duration) attempt {
	wait := min(r.longestBackoff, r.firstBackoff<<min(a.failures, 16))
	wait += time.Duration(rand.Int64N(int64(wait)/4 + 1))
	return attempt{failures: a.failures + 1, next: now.Add(max(wait, least))}
}

// begin tells that a request is creating a token; done, that it has come to an end.
func (r *reaper) begin(id token.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.creating[id] = true
}

func (r *reaper) done(id token.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.creating, id)
}

// watch has the reaper look at tokens that are new to it. It looks at all of them each time, so that one more
// is no reason while it does so anyway.
func (r *reaper) watch() {
	if r.unwatched.Load() {
		r.kick()
	}
}

// retry has a connection tried again at once.
func (r *reaper) retry(connectionID string) {
	r.mu.Lock()
	if q := r.queues[connectionID]; q != nil {
		q.attempt, q.pending = attempt{}, attempt{}
		clear(q.resting)
	}
	r.mu.Unlock()
	r.kick()
}

// down tells whether a connection could not be reached, and is not to be tried yet.
func (r *reaper) down(connectionID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.queues[connectionID]
	return q != nil && r.b.now().Before(q.next)
}

// describe tells of the queue of a connection.
func (r *reaper) describe(st *state, c *connection) map[string]any {
	waiting := st.upstreams.Of(c.ID, r.waiting)
	about := map[string]any{"count": len(waiting)}
	if len(waiting) > 0 {
		oldest := waiting[0].CreatedAt
		if waiting[0].State == ledger.Ending {
			oldest = waiting[0].EndingSince
		}
		about["oldest"] = oldest.UTC().Format(time.RFC3339)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if q := r.queues[c.ID]; q != nil && len(waiting) > 0 && q.lastError != "" {
		about["last_error"] = q.lastError
		if r.b.now().Before(q.next) {
			about["next_try"] = q.next.UTC().Format(time.RFC3339)
		}
	}
	return about
}

// waiting tells whether a token is to be ended.
func (r *reaper) waiting(u *ledger.Upstream) bool {
	switch u.State {
	case ledger.Ending:
		return true
	case ledger.Creating:
		r.mu.Lock()
		defer r.mu.Unlock()
		return !r.creating[u.ID]
	}
	end := u.EndsAt.Add(r.leaseGrace)
	switch {
	case u.StaticRole != "" && !r.b.staticHolds(u.StaticRole, u.ID, r.b.now()):
		end = u.CreatedAt.Add(r.leaseGrace) // written, and then its static role was not
	case u.Leaseless:
		end = u.EndsAt
	}
	return !r.b.now().Before(end)
}

// look has the queues drained in which something is due.
func (r *reaper) look(ctx context.Context) time.Duration {
	st := r.b.state.Load()
	if st == nil || !r.b.WriteSafeReplicationState() {
		return 0
	}
	if !r.begun {
		r.begun = r.forget(ctx, st) == nil
	}
	idle := true
	r.unwatched.Store(true) // before looking: what comes meanwhile wakes it
	for _, c := range st.connections.all() {
		idle = idle && c.Pending == nil && st.upstreams.Count(c.ID) == nil
		if !r.due(st, c) {
			continue
		}
		r.jobs.Go(func() {
			r.drain(ctx, st, c)
			r.mu.Lock()
			r.queues[c.ID].running = false
			r.mu.Unlock()
		})
	}
	if idle {
		return 0
	}
	r.unwatched.Store(false)
	return r.interval
}

// forget drops the tokens of connections whose deletion was cut short.
func (r *reaper) forget(ctx context.Context, st *state) error {
	for _, u := range st.upstreams.Without(func(id string) bool {
		return st.connections.byID(id) != nil || st.connections.brokenID(id) != nil
	}) {
		if err := st.upstreams.Delete(ctx, r.b.storage, u.ID); err != nil {
			return err
		}
		r.b.Logger().Warn("a token is left behind at an upstream whose connection was deleted", "connection", u.Connection, "name", u.Name)
	}
	return nil
}

// due tells whether there is something to do for a connection that nobody does yet, and claims it.
func (r *reaper) due(st *state, c *connection) bool {
	if c.Pending == nil && !st.upstreams.Any(c.ID, r.waiting) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.queues[c.ID]
	if q == nil {
		q = &queue{resting: make(map[token.ID]attempt)}
		r.queues[c.ID] = q
	}
	if q.running || r.b.now().Before(q.next) {
		return false
	}
	q.running = true
	return true
}

// drain ends what is waiting at a connection, the oldest first, until nothing is left or the upstream cannot
// be reached.
func (r *reaper) drain(ctx context.Context, st *state, c *connection) {
	c, err := r.settlePending(ctx, st, c)
	if err != nil {
		r.failed(ctx, c, err)
		return
	}
	up, err := st.connections.upstream(c.name, c)
	if err != nil {
		r.failed(ctx, c, err)
		return
	}
	var progress atomic.Bool
	var failures atomic.Int32 // in a row
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(reapParallel)
	for _, u := range st.upstreams.Of(c.ID, r.waiting) {
		if working.Err() != nil {
			break
		}
		if r.b.now().Before(r.rest(&u).next) {
			continue
		}
		group.Go(func() error {
			err := r.settle(working, st, up, u)
			if err == nil {
				progress.Store(true)
				failures.Store(0)
				r.mu.Lock()
				delete(r.queues[c.ID].resting, u.ID)
				r.mu.Unlock()
				return nil
			}
			e := (*connector.Error)(nil)
			told := errors.As(err, &e) && e.RetryAfter > 0
			if !unavailable(err) || failures.Add(1) < reapGiveUp && !told {
				r.later(&u, err)
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		if progress.Load() { // a service that fails now and then must not be waited for ever longer
			r.mu.Lock()
			r.queues[c.ID].attempt = attempt{}
			r.mu.Unlock()
		}
		r.failed(ctx, c, err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queues[c.ID].attempt = attempt{}
}

// settlePending finds out which credential is good, where a rotation was cut short. Until that is sure the one
// before goes on.
func (r *reaper) settlePending(ctx context.Context, st *state, c *connection) (*connection, error) {
	if _, rotating := r.b.rotating.Load(c.ID); c.Pending == nil || rotating {
		return c, nil
	}
	r.mu.Lock()
	q := r.queues[c.ID]
	wait := r.b.now().Before(q.pending.next)
	r.mu.Unlock()
	if wait {
		return c, nil
	}
	c, err := r.b.settlePending(ctx, st, c)
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(err, errUndecided) {
		q.pending = r.after(q.pending, r.b.now(), 0)
		return c, nil
	}
	q.pending = attempt{}
	return c, err
}

// settle ends one token.
func (r *reaper) settle(ctx context.Context, st *state, up *connector.Upstream, u ledger.Upstream) error {
	now := r.b.now()
	if u.State == ledger.Live {
		if err := st.upstreams.End(ctx, r.b.storage, u.ID, now); err != nil {
			return err
		}
	}
	if u.State != ledger.Creating {
		if err := settled(up.Revoke(ctx, tokenAt(&u))); err != nil {
			return err
		}
		return st.upstreams.Delete(ctx, r.b.storage, u.ID)
	}

	if !up.Provider.CanFind() {
		// The upstream ends it by itself.
		if now.Before(u.EndsAt.Add(r.leaseGrace)) {
			return errWait
		}
		return st.upstreams.Delete(ctx, r.b.storage, u.ID)
	}
	found, err := up.Find(ctx, u.Name, u.Params)
	if err != nil {
		return err
	}
	for i := range found {
		if err := settled(up.Revoke(ctx, &found[i])); err != nil {
			return err
		}
		r.b.Logger().Info("ended a token whose creation was cut short", "connection", u.Connection, "name", u.Name)
	}
	// A call that was cut short may still be on its way. And one look may miss what is there, where somebody
	// else ends tokens meanwhile.
	if len(found) == 0 && (now.Sub(u.CreatedAt) < r.timings.settle+up.Client.Timeout() || r.rest(&u).failures == 0) {
		return errWait
	}
	return st.upstreams.Delete(ctx, r.b.storage, u.ID)
}

// errWait says that it is too early to tell.
var errWait = errors.New("it is not known yet whether the token was created")

// settled drops the errors of a revocation that no further try can mend.
func settled(err error) error {
	if errors.Is(err, connector.ErrGone) || errors.Is(err, connector.ErrCannotRevoke) {
		return nil
	}
	return err
}

func tokenAt(u *ledger.Upstream) *connector.Token {
	return &connector.Token{Name: u.Name, ID: u.UpstreamID, Text: u.Text, Params: u.Params, Record: u.Record}
}

// unavailable tells whether an error is about the upstream, and not about one token.
func unavailable(err error) bool {
	e := (*connector.Error)(nil)
	if !errors.As(err, &e) {
		return !errors.Is(err, errWait) // storage
	}
	return e.Status == 0 || e.Status == 429 || e.Status >= 500 || e.Denied
}

// rest tells how often a token has been tried in vain, and when it is tried again.
func (r *reaper) rest(u *ledger.Upstream) attempt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queues[u.ConnectionID].resting[u.ID]
}

// later has one token tried again.
func (r *reaper) later(u *ledger.Upstream, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.queues[u.ConnectionID]
	q.resting[u.ID] = r.after(q.resting[u.ID], r.b.now(), 0)
	if !errors.Is(err, errWait) {
		q.lastError = err.Error()
	}
}

// failed has a connection tried again later.
func (r *reaper) failed(ctx context.Context, c *connection, err error) {
	if ctx.Err() != nil {
		return // the mount goes away
	}
	var least time.Duration
	if e := (*connector.Error)(nil); errors.As(err, &e) {
		least = min(e.RetryAfter, r.longestBackoff)
	}
	r.mu.Lock()
	q := r.queues[c.ID]
	q.attempt = r.after(q.attempt, r.b.now(), least)
	q.lastError = err.Error()
	wait := q.next.Sub(r.b.now()).Round(time.Second)
	r.mu.Unlock()
	r.b.Logger().Warn("tokens at an upstream could not be ended, they are tried again", "connection", c.name, "in", fmt.Sprint(wait), "error", err)
}
