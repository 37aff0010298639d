package metrics

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

// Kinds of tokens.
const (
	Opaque  = "opaque"
	JWT     = "jwt"
	Service = "service" // a token of another service
	Native  = "native"  // an opaque token or a JWT
)

// Kinds of rotations.
const (
	Root       = "root" // of the credential of a connection
	StaticRole = "static_role"
)

// Causes of revocations and suspensions.
const (
	ByLease        = "lease"         // Vault revoked the lease before its end
	ByExpiry       = "expiry"        // the lease of a service's token expired
	ByRequest      = "request"       // revoke or oauth/revoke of a token, or suspend
	BySubject      = "subject"       // revoke of an entity
	ByEntity       = "entity"        // Vault reports the entity as disabled or deleted
	ByRole         = "role_deleted"  // the role was deleted
	ByFinding      = "finding"       // a rule of misuse
	ByRefreshReuse = "refresh_reuse" // a refresh token was used twice
	ByLeak         = "leaked"        // somebody reported the token as leaked
)

// Sources of decisions.
const (
	Introspection = "introspect" // introspect and oauth/introspect
	Reported      = "usage"      // a verifier decided, and reported the use or refusal
)

// Results.
const (
	OK         = "ok"
	Refused    = "refused" // the request was refused
	Failed     = "failed"  // storage, a service or the engine failed
	Success    = "success"
	Failure    = "failure"
	WriteError = "error"  // storage rejected a write
	Start      = "start"  // the reader of the feed had no position
	Resync     = "resync" // events may be missing
	Done       = "counted"
	Duplicate  = "duplicate"
)

// table is the counts of a metric with two labels, one label or none: one for each combination of values. The values are
// fixed, so that every series exists from the start, and their number is bounded.
type table struct {
	metric *Metric
	counts map[[2]string]*atomic.Uint64
}

func newTable(m *Metric, values ...[]string) table {
	t := table{m, make(map[[2]string]*atomic.Uint64)}
	first, second := []string{""}, []string{""}
	if len(values) > 0 {
		first = values[0]
	}
	if len(values) > 1 {
		second = values[1]
	}
	for _, a := range first {
		for _, b := range second {
			t.counts[[2]string{a, b}] = new(atomic.Uint64)
		}
	}
	return t
}

// add counts n. A value that the table does not have counts as Other, where the table has Other.
func (t *table) add(n uint64, first, second string) {
	count := t.counts[[2]string{first, second}]
	if count == nil {
		if count = t.counts[[2]string{first, Other}]; count == nil {
			return
		}
	}
	count.Add(n)
}

func (t *table) emit(emit Emit) {
	for values, count := range t.counts {
		emit(t.metric, float64(count.Load()), values[:len(t.metric.Labels)]...)
	}
}

// Counters are the counts of a process. Counters are safe for concurrent use.
type Counters struct {
	now    func() time.Time
	start  time.Time
	tables []*table

	issued, issueErrors, renewals, refreshes, exchanges, revocations, suspensions table
	decisions, usageReports, rotations, feedReads                                 table

	lag     peak
	rotated map[[2]string]*atomic.Int64 // kind and result -> time of the last rotation, in seconds since 1970
}

// New returns the counters of a process that starts now. reasons are the reasons to refuse the use of a token.
func New(now func() time.Time, reasons []access.Reason) *Counters {
	kinds, sources := []string{Opaque, JWT, Service}, []string{Introspection, Reported}
	rotating, results := []string{Root, StaticRole}, []string{Success, Failure}
	names := []string{OK}
	for _, reason := range reasons {
		names = append(names, string(reason))
	}
	c := &Counters{
		now: now, start: now(), rotated: make(map[[2]string]*atomic.Int64),
		issued:      newTable(issued, kinds),
		issueErrors: newTable(issueErrors, kinds, []string{Refused, Failed}),
		renewals:    newTable(renewals, []string{Native, Service}),
		refreshes:   newTable(refreshes),
		exchanges:   newTable(exchanges),
		revocations: newTable(revocations, []string{
			ByLease, ByExpiry, ByRequest, BySubject, ByEntity, ByRole, ByFinding, ByRefreshReuse, ByLeak,
		}),
		suspensions:  newTable(suspensions, []string{ByRequest, ByFinding}),
		decisions:    newTable(decisions, sources, append(names, Other)),
		usageReports: newTable(usageReports, []string{Done, Duplicate}),
		rotations:    newTable(rotations, rotating, results),
		feedReads:    newTable(feedReads, []string{OK, Start, Resync}),
	}
	c.tables = []*table{
		&c.issued, &c.issueErrors, &c.renewals, &c.refreshes, &c.exchanges, &c.revocations, &c.suspensions, &c.decisions,
		&c.usageReports, &c.rotations, &c.feedReads,
	}
	for _, kind := range rotating {
		for _, result := range results {
			c.rotated[[2]string{kind, result}] = new(atomic.Int64)
		}
	}
	return c
}

// Issued counts a token that creds issued. kind is Opaque, JWT or Service.
func (c *Counters) Issued(kind string) { c.issued.add(1, kind, "") }

// NotIssued counts a request of creds that issued no token. result is Refused or Failed.
func (c *Counters) NotIssued(kind, result string) { c.issueErrors.add(1, kind, result) }

// Renewed counts a renewed lease. kind is Native or Service.
func (c *Counters) Renewed(kind string) { c.renewals.add(1, kind, "") }

// Refreshed counts a use of a refresh token.
func (c *Counters) Refreshed() { c.refreshes.add(1, "", "") }

// Exchanged counts an exchanged token.
func (c *Counters) Exchanged() { c.exchanges.add(1, "", "") }

// Revoked counts n revoked tokens.
func (c *Counters) Revoked(cause string, n int) { c.revocations.add(uint64(max(n, 0)), cause, "") }

// Suspended counts a suspension of a token or an entity.
func (c *Counters) Suspended(cause string) { c.suspensions.add(1, cause, "") }

// Decided counts n decisions on uses of tokens. reason is access.Good for a good use.
func (c *Counters) Decided(source string, reason access.Reason, n uint64) {
	if reason == access.Good {
		reason = OK
	}
	c.decisions.add(n, source, string(reason))
}

// UsageReported counts a batch of a verifier.
func (c *Counters) UsageReported(duplicate bool) {
	result := Done
	if duplicate {
		result = Duplicate
	}
	c.usageReports.add(1, result, "")
}

// Rotated counts a rotation, which failed if err is not nil. kind is Root or StaticRole.
func (c *Counters) Rotated(kind string, err error) {
	result := Success
	if err != nil {
		result = Failure
	}
	c.rotations.add(1, kind, result)
	c.rotated[[2]string{kind, result}].Store(c.now().Unix())
}

// FeedRead counts a read of the feed. behind is the number of events that the reader had not read.
func (c *Counters) FeedRead(result string, behind uint64) {
	c.feedReads.add(1, result, "")
	c.lag.note(behind, c.now())
}

func (c *Counters) emit(emit Emit) {
	for _, t := range c.tables {
		t.emit(emit)
	}
	for values, at := range c.rotated {
		emit(rotated, float64(at.Load()), values[0], values[1])
	}
	emit(feedLag, float64(c.lag.value(c.now())))
	emit(started, Seconds(c.start))
}

// peak is the highest value of the current minute and of the minute before.
type peak struct {
	mu              sync.Mutex
	minute          int64 // since 1970
	current, before uint64
}

func (p *peak) note(value uint64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(now)
	p.current = max(p.current, value)
}

func (p *peak) value(now time.Time) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(now)
	return max(p.current, p.before)
}

// turn moves on to the minute of now.
func (p *peak) turn(now time.Time) {
	switch minute := now.Unix() / 60; minute {
	case p.minute:
		return
	case p.minute + 1:
		p.minute, p.before, p.current = minute, p.current, 0
	default:
		p.minute, p.before, p.current = minute, 0, 0
	}
}

// Seconds returns a time in seconds since 1970, and 0 for the zero time.
func Seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
