package mount

import (
	"slices"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// newCounters returns the counters of a mount. A token is refused for a reason of introspection or of verifiers.
func newCounters(now func() time.Time) *metrics.Counters {
	unknown := []access.Reason{access.Malformed, access.WrongEnvironment, access.Unknown}
	return metrics.New(now, slices.Concat(unknown, insight.Reasons()))
}

// countEvents has the rooms report to the counters what package backend does not see.
func (m *Mount) countEvents() {
	reused := m.World.Reused
	m.World.Reused = func(grant token.ID, role, subject, remoteAddr string) {
		m.Counters.Revoked(metrics.ByRefreshReuse, 1)
		reused(grant, role, subject, remoteAddr)
	}
	m.Statics.Rotated = func(err error) { m.Counters.Rotated(metrics.StaticRole, err) }
	m.Upstreams.Rotated = func(err error) { m.Counters.Rotated(metrics.Root, err) }
}

// noteIssue counts a request of creds, which issued no token if err is not nil. The watch of reports remembers when a role
// issued.
func (m *Mount) noteIssue(st *State, r *role.Role, err error) {
	kind := metrics.Opaque
	switch {
	case r.Connection != "":
		kind = metrics.Service
	case r.TokenFormat == role.FormatJWT:
		kind = metrics.JWT
	}
	switch {
	case err == nil:
		m.Counters.Issued(kind)
		m.NoteIssued(st, r)
	case refusal.As(err) != nil:
		m.Counters.NotIssued(kind, metrics.Refused)
	default:
		m.Counters.NotIssued(kind, metrics.Failed)
	}
}

// NoteReport counts the decisions of a verifier that reported a batch.
func (m *Mount) NoteReport(r *insight.Report, done insight.Outcome) {
	m.Counters.UsageReported(done.Duplicate)
	if done.Duplicate {
		return
	}
	sums := make(map[access.Reason]uint64)
	for i := range r.Tokens {
		row := &r.Tokens[i]
		sums[access.Good] += row.Uses
		for _, refused := range row.Refusals {
			sums[refused.Reason] += uint64(refused.Count)
		}
	}
	for _, row := range r.Unknown {
		sums[access.Unknown] += row.Refusals
	}
	for reason, n := range sums {
		m.Counters.Decided(metrics.Reported, reason, n)
	}
}

// noteFeedRead counts a read of the feed from a position; known reports whether the feed knows what follows the position.
func (m *Mount) noteFeedRead(from feed.Position, known bool) {
	end := m.World.Feed.Position()
	switch {
	case known && end.Epoch == from.Epoch && end.Cursor >= from.Cursor:
		m.Counters.FeedRead(metrics.OK, end.Cursor-from.Cursor)
	case from.Epoch == "":
		m.Counters.FeedRead(metrics.Start, 0)
	default:
		m.Counters.FeedRead(metrics.Resync, 0)
	}
}

// Metrics returns the metrics of this process and of the mount's memory, in the text format of Prometheus. Metrics reads no
// storage.
func (m *Mount) Metrics(st *State, version string) ([]byte, error) {
	return metrics.Text(m.Counters, func(emit metrics.Emit) {
		active := 0.0
		if m.MayWrite() {
			active = 1
		}
		emit(metrics.Info, 1, version)
		emit(metrics.Active, active)
		emit(metrics.Memory, metrics.ProcessMemory())
		emit(metrics.Reporters, float64(m.Usage.Reporters()))
		emit(metrics.FeedEvents, float64(m.World.Feed.Position().Cursor))
		emit(metrics.FeedEpoch, metrics.Seconds(m.World.Feed.Since()))
		m.emitTokens(st, emit)
		m.emitQueues(emit)
		m.emitFindings(emit)
		m.emitStorage(st, emit)
	})
}

// emitTokens emits what Summary counts.
func (m *Mount) emitTokens(st *State, emit metrics.Emit) {
	s := m.Summary(st)
	roles := make([]metrics.Named, 0, len(s.OfRole))
	for name, n := range s.OfRole {
		roles = append(roles, metrics.Named{Name: name, Size: n})
	}
	named, others := metrics.Largest(roles), 0
	for _, r := range roles {
		if named[r.Name] {
			emit(metrics.RoleTokens, float64(r.Size), r.Name)
		} else {
			others += r.Size
		}
	}
	emit(metrics.RoleTokens, float64(others), metrics.Other)
	emit(metrics.KindTokens, float64(s.Opaque), metrics.Opaque)
	emit(metrics.KindTokens, float64(s.JWT), metrics.JWT)
	emit(metrics.KindTokens, float64(s.OfServices), metrics.Service)
	emit(metrics.StaleTokens, float64(s.Stale))
	emit(metrics.NeverUsed, float64(s.NeverUsed))
	emit(metrics.Unowned, float64(s.Unowned))
	emit(metrics.Overdue, float64(s.Overdue))
	emit(metrics.Privileged, float64(s.Privileged))
	emit(metrics.Counted, metrics.Seconds(s.AsOf))
}

// emitQueues emits the queues of revocations, and the rotations that are due.
func (m *Mount) emitQueues(emit metrics.Emit) {
	now := m.now()
	queues := m.Upstreams.Stats()
	sizes := make([]metrics.Named, len(queues))
	unsettled := 0
	for i, q := range queues {
		sizes[i] = metrics.Named{Name: q.Connection, Size: q.Waiting}
		if q.Unsettled {
			unsettled++
		}
	}
	var others upstream.QueueStats
	show := func(q *upstream.QueueStats, connection string) {
		failing := 0.0
		if q.Failing {
			failing = 1
		}
		emit(metrics.QueueTokens, float64(q.Waiting), connection)
		emit(metrics.QueueNever, float64(q.Unrevocable), connection)
		emit(metrics.QueueAge, age(now, q.Oldest), connection)
		emit(metrics.QueueFailing, failing, connection)
	}
	named := metrics.Largest(sizes)
	for i := range queues {
		q := &queues[i]
		if named[q.Connection] {
			show(q, q.Connection)
			continue
		}
		others.Waiting, others.Unrevocable = others.Waiting+q.Waiting, others.Unrevocable+q.Unrevocable
		others.Failing = others.Failing || q.Failing
		if others.Oldest.IsZero() || !q.Oldest.IsZero() && q.Oldest.Before(others.Oldest) {
			others.Oldest = q.Oldest
		}
	}
	show(&others, metrics.Other)
	failing, overdue := m.Statics.Stats()
	emit(metrics.StaticFailing, float64(failing))
	emit(metrics.StaticOverdue, overdue.Seconds())
	emit(metrics.RootUnsettled, float64(unsettled))
}

// age returns how long something has waited since then, in seconds; 0 where nothing waits or a clock was set back.
func age(now, since time.Time) float64 {
	if since.IsZero() {
		return 0
	}
	return max(0, now.Sub(since).Seconds())
}

// emitFindings emits the findings of misuse, and the queue of the alerts about them.
func (m *Mount) emitFindings(emit metrics.Emit) {
	s := m.Detect.Stats()
	emit(metrics.StorageEntries, float64(s.Findings), "findings")
	for i := range detect.Rules {
		rule := detect.Rules[i].Rule
		for _, severity := range detect.Severities {
			emit(metrics.OpenFindings, float64(s.Open[detect.Grade{Rule: rule, Severity: severity}]), string(rule), severity)
		}
	}
	emit(metrics.Findings, float64(s.Findings))
	emit(metrics.ResponsesDue, float64(s.Due))
	emit(metrics.ResponsesAge, age(m.now(), s.DueSince))
	emit(metrics.ResponsesFailed, float64(s.Failed))
	waiting := m.Alerts.Stats()
	emit(metrics.AlertQueue, float64(waiting.Waiting))
	emit(metrics.AlertAge, age(m.now(), waiting.Oldest))
	emit(metrics.AlertDropped, float64(waiting.Dropped))
}

// emitStorage emits what is known of storage without reading storage.
func (m *Mount) emitStorage(st *State, emit metrics.Emit) {
	segments, bytes := st.Inventory.Stored()
	for kind, n := range map[string]int{
		"roles": len(st.Roles.Names()), "connections": len(st.Connections.Names()), "static_roles": len(st.Statics.Names()),
		"service_tokens": st.Upstreams.Len(), "inventory": segments, "usage": m.Usage.Segments(),
	} {
		emit(metrics.StorageEntries, float64(n), kind)
	}
	emit(metrics.StorageBytes, float64(bytes), "inventory")
	for kind, n := range map[string]int{
		"inventory": st.Inventory.Len(), "deviations": st.Deviations.Len(), "refreshes": st.Refreshes.Len(),
		"suspensions": st.Suspensions.Len(), "usage": m.Usage.Len(), "service_tokens": st.Upstreams.Len(),
	} {
		emit(metrics.Records, float64(n), kind)
	}
	writes := m.Fence.Stats()
	emit(metrics.StorageWrites, float64(writes.Written), metrics.OK)
	emit(metrics.StorageWrites, float64(writes.Rejected), metrics.WriteError)
	emit(metrics.StorageWritten, float64(writes.Bytes))
	emit(metrics.Unreadable, float64(len(st.Broken())))
}
