// Package reconcile compares the tokens at upstream services with the tokens that the engine has made there. It finds tokens
// of the engine that the engine does not know, tokens that are gone at the service, and long-lived tokens that somebody has
// made without the engine. A reconciliation changes nothing.
package reconcile

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/worker"
)

const (
	// MaxItems is the maximum number of items that are kept of a connection. Further items are counted.
	MaxItems = 1000

	// LongLife is the life of a foreign token that is worth a report. Tokens with a shorter life are not listed.
	LongLife = 24 * time.Hour

	// old is the age of a token that a service surely lists, whatever the clock of the process that has made the token.
	old = 10 * time.Minute

	// clocks is how far the clock of a service may be ahead: the service drops expired tokens.
	clocks = 5 * time.Minute

	// longest is the time limit of a reconciliation.
	longest = 30 * time.Minute

	// maxWait is how long a request waits for a reconciliation. The reconciliation goes on afterwards.
	maxWait = 45 * time.Second

	// firstDelay is how long after the start of this process the first reconciliation by itself begins.
	firstDelay = 2 * time.Minute

	// interval is the longest time between two looks at the schedule.
	interval = time.Minute
)

// Reason is why a token is reported.
type Reason string

// The reasons.
const (
	UnknownHere Reason = "unknown_here" // a token of the engine by its name that the engine does not know
	GoneThere   Reason = "gone_there"   // a Live token of the engine that does not exist at the service
	Foreign     Reason = "foreign"      // a long-lived token that was made without the engine
)

// Item is a token that is reported. Of a token that is gone, the times are those of the engine.
type Item struct {
	connector.Item
	Reason Reason
	Token  token.ID // of a token that is gone
}

// States of a Result.
const (
	StateNever   = "never" // not since this process became active
	StateRunning = "running"
	StateDone    = "done"
	StateFailed  = "failed"
)

// Result is the outcome of the last reconciliation of a connection. After a failure, the numbers are those of the last
// reconciliation that succeeded.
type Result struct {
	State       string    `json:"state"`
	StartedAt   time.Time `json:"started_at"`  // of the last reconciliation
	ComparedAt  time.Time `json:"compared_at"` // when the last reconciliation that succeeded began; zero: none
	NextAt      time.Time `json:"next_at"`     // of the next reconciliation by itself; zero: none
	Listed      int       `json:"listed"`      // tokens at the service
	Unknown     int       `json:"unknown_here"`
	Gone        int       `json:"gone_there"`
	Foreign     int       `json:"foreign"`
	Unconfirmed int       `json:"unconfirmed"` // tokens that were not listed, and that may be gone or too young to be listed
	Kept        int       `json:"kept"`        // items in the report
	Complete    bool      `json:"complete"`    // whether all tokens of the service were listed
	Error       string    `json:"error"`       // of the last reconciliation; empty: none
}

// Config has the dependencies of a Reconciler. All fields are required.
type Config struct {
	Now       func() time.Time
	Log       hclog.Logger
	Upstreams *upstream.Keeper
	Active    func(context.Context) bool // whether this process is the active node and has read storage
	Pause     time.Duration              // between two looks at a service
}

// DefaultPause is the pause between two looks in production.
const DefaultPause = 5 * time.Second

// Reconciler reconciles the connections of a mount, on demand and by itself. Results are in memory: a result is a picture of
// the service that another process takes anew. Storage would show an old picture as if it were current.
type Reconciler struct {
	*worker.Worker
	Config

	base  context.Context // of all reconciliations
	stop  context.CancelFunc
	jobs  sync.WaitGroup
	began time.Time

	mu     sync.Mutex
	closed bool
	of     map[string]*connection // by connection ID
}

// connection is what is known of a connection.
type connection struct {
	result  Result
	items   []Item        // sorted by ID
	running chan struct{} // closed at the end of the reconciliation; nil: none is running

	// missing are young tokens that a service has not listed -> when they were missing first. Only the reconciliation that is
	// running uses missing.
	missing map[token.ID]time.Time
}

// New returns a Reconciler. The caller starts the worker with Run.
func New(c Config) *Reconciler {
	r := &Reconciler{Worker: worker.New(), Config: c, began: c.Now(), of: make(map[string]*connection)}
	r.base, r.stop = context.WithCancel(context.Background())
	return r
}

// Close stops the worker and all reconciliations.
func (r *Reconciler) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.Worker.Close()
	r.jobs.Wait()
}

// Reconcile reconciles a connection now, or waits for the reconciliation that is running. If the reconciliation takes longer
// than maxWait, the result has the state running.
func (r *Reconciler) Reconcile(ctx context.Context, name, mountPoint string) (*Result, error) {
	c, err := r.Upstreams.Listable(name)
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	select {
	case <-r.begin(c, mountPoint):
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	result := r.Result(c.Connection)
	if result.State == StateFailed {
		return nil, refusal.New("connection %q: the tokens were not compared: %s", c.Name(), result.Error)
	}
	return result, nil
}

// Result returns the last result of a connection.
func (r *Reconciler) Result(c *upstream.Connection) *Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	result := Result{State: StateNever}
	if known := r.of[c.ID]; known != nil {
		result = known.result
		if known.running != nil {
			result.State = StateRunning
		}
	}
	result.NextAt = r.next(c)
	return &result
}

// Items returns the items of the last result of a connection, sorted by ID. The caller must not change them.
func (r *Reconciler) Items(c *upstream.Connection) []Item {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.of[c.ID]; known != nil {
		return known.items
	}
	return nil
}

// next returns when the next reconciliation of a connection by itself is due. The caller holds mu.
func (r *Reconciler) next(c *upstream.Connection) time.Time {
	if c.ReconcilePeriod == 0 {
		return time.Time{}
	}
	if known := r.of[c.ID]; known != nil {
		return known.result.StartedAt.Add(c.ReconcilePeriod)
	}
	return r.began.Add(firstDelay)
}

// begin begins a reconciliation unless one is running. The channel is closed at its end.
func (r *Reconciler) begin(c *upstream.Ready, mountPoint string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.of[c.ID]
	if known == nil {
		known = &connection{result: Result{State: StateNever}}
		r.of[c.ID] = known
	}
	if known.running != nil {
		return known.running
	}
	done := make(chan struct{})
	if r.closed {
		close(done)
		return done
	}
	known.running, known.result.StartedAt = done, r.Now().UTC()
	r.jobs.Go(func() {
		ctx, cancel := context.WithTimeout(r.base, longest)
		defer cancel()
		result, items, err := r.compare(ctx, c, mountPoint, known)
		r.mu.Lock()
		defer r.mu.Unlock()
		known.running = nil
		close(done)
		if err != nil {
			known.result.State, known.result.Error = StateFailed, err.Error()
			if r.base.Err() == nil {
				r.Log.Warn("upstream tokens not reconciled", "connection", c.Name(), "error", err)
			}
			return
		}
		result.State, result.StartedAt, result.ComparedAt = StateDone, known.result.StartedAt, known.result.StartedAt
		known.result, known.items = *result, items
		r.Log.Info("upstream tokens reconciled", "connection", c.Name(), "listed", result.Listed, "unknown_here", result.Unknown,
			"gone_there", result.Gone, "foreign", result.Foreign)
	})
	return done
}

// Run reconciles the connections that are due, one after the other, and returns when to run again.
func (r *Reconciler) Run(ctx context.Context) time.Duration {
	if !r.Active(ctx) {
		return interval
	}
	r.forget()
	wait := interval
	for _, c := range r.Upstreams.Connections.All() {
		r.mu.Lock()
		at := r.next(c)
		r.mu.Unlock()
		if at.IsZero() {
			continue
		}
		if left := at.Sub(r.Now()); left > 0 {
			wait = min(wait, left)
			continue
		}
		ready, err := r.Upstreams.Listable(c.Name())
		if err != nil {
			continue // check and creds say so
		}
		select {
		case <-r.begin(ready, c.MountPoint):
		case <-ctx.Done():
			return interval
		}
	}
	return max(wait, time.Second)
}

// forget drops the results of deleted connections.
func (r *Reconciler) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, known := range r.of {
		if known.running == nil && r.Upstreams.Connections.ByID(id) == nil {
			delete(r.of, id)
		}
	}
}
