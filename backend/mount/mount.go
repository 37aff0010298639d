// Package mount holds one mount of the engine: what is in memory, how memory follows storage, and the work in the background.
// Package backend decodes the requests to a mount, and encodes the answers.
//
// Storage holds:
//
//	config                  the mount's settings
//	keys/opaque/<number>    a key that seals opaque tokens, seal-wrapped
//	keys/signing/<kid>      a key that signs JWTs, seal-wrapped
//	keys/<kind>-destroyed/  the public part of a destroyed key of either kind
//	role/<name>             a role and its past versions
//	ledger/writers/<w>      a process that has issued tokens
//	ledger/deviations/<xxx>-<w>  tokens that were revoked or renewed
//	ledger/suspensions/<xxx>-<w> grants and entities that were suspended or resumed
//	ledger/refreshes/<xxx>-<w>   the last refresh of each refreshed grant
//	ledger/status/<n>       the places of status lists that are taken
//	ledger/deleted-roles/<id>    a deleted role whose tokens may not have expired
//	ledger/inventory/<w>-<n>     who got which token when
//	provider/<name>         a provider that an operator defined
//	connection/<name>       an upstream service and its credential, seal-wrapped
//	static-role/<name>      a static role and its tokens, seal-wrapped
//	upstream/<id>           an upstream token that exists or may exist, seal-wrapped
//	hold/<id>/<hold>        a lease's hold on a shared upstream token
//	usage/<w>-<n>           how tokens were used
//	watch/<xx>              when roles issued, and what uses needed: for reports
//	detect/settings         what the rules of misuse do
//	detect/finding/<id>     a finding of misuse
//	alert/entry/<name>      a webhook for findings and its secrets, seal-wrapped
//	alert/queue/<id>        a notice about a finding that waits for a delivery
//
// <w> is the writer id of a process. Only that process rewrites a key with <w>. Loading merges the keys of all writers.
// Large pages have one more digit in <xxx>.
//
// Memory holds a copy of storage (state.go). A process reads storage when it first needs an entry, when Vault reports a
// write by another node, and after Vault rejected a write for lack of leadership. Introspection reads no storage, except
// for a key that memory lacks. Issuing an opaque token writes no storage on the request path, except for the first token
// of a process, the first token of a mount, and a token with a longer lifetime than every token before.
//
// A goroutine that takes several locks takes them in this order:
//
//	the lock of a static role
//	the lock of a connection's credential (lockRoot of package upstream)
//	connections.Writing
//	roles.Writing
//	config.Writing
//	the lock of a key ring
//	the locks of upstream tokens
//	the locks of the ledger
//
// The locks of alerts come last. Package detect calls package alert with the lock of its writes held.
//
// Only the first two locks are held during a call to a service: while a static role's token or a credential is rotated.
package mount

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/alert"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/fence"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/geoip"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/leavers"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/reconcile"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/report"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/worker"
)

// flushDelay is how long the inventory gathers rows before writing them. A crash loses at most the rows of this time.
const flushDelay = time.Second

// Config has the dependencies of a Mount. All fields but Dial are required.
type Config struct {
	Storage   logical.Storage
	Now       func() time.Time
	Log       hclog.Logger
	System    logical.SystemView
	MayWrite  func() bool        // reports whether this process may write storage
	UserAgent string             // of the requests to upstream services
	Dial      connector.DialFunc // opens connections to upstream services and to receivers of alerts; nil: the network
}

// Mount is one mount in one process.
type Mount struct {
	Config      // Storage is for background work
	World       native.World
	StatusLists native.StatusLists
	Upstreams   *upstream.Keeper
	Reconciler  *reconcile.Reconciler
	Statics     *static.Keeper
	Leavers     *leavers.Leavers
	Usage       *insight.Usage
	Watch       *report.Watch
	Detect      *detect.Detector
	Alerts      *alert.Alerts
	Fence       *fence.Fence
	Counters    *metrics.Counters

	queue  *worker.Worker // runs Upstreams.Run
	writer string         // id of this process in the keys of the ledger

	loading chan struct{} // full while a request reads state from storage; other requests wait or give up
	state   atomic.Pointer[State]
	stale   atomic.Bool // staleKeys is not empty, or staleAll is set

	staleMu   sync.Mutex
	staleKeys []string // storage keys that another node wrote
	staleAll  bool     // Vault rejected a write for lack of leadership

	summary counted[*report.Summary]
	used    counted[map[token.RoleID]*report.Used] // by the tokens in the inventory

	flushMu    sync.Mutex
	flushTimer *time.Timer // not nil while rows wait to be written
	stopped    bool
}

// New returns a mount that has read nothing from storage yet.
func New(c Config) *Mount {
	m := &Mount{Config: c, Watch: report.NewWatch(), writer: ledger.NewWriter(), loading: make(chan struct{}, 1), queue: worker.New()}
	m.Counters = newCounters(m.now)
	m.Fence = fence.New(m.writer, m.now, m.staleEverything)
	m.Storage = m.Fence.Background(c.Storage)
	m.World = native.World{
		Now: m.now, Log: func() hclog.Logger { return c.Log }, Limits: new(role.Limits), Vault: func() native.Vault { return c.System },
		Feed: feed.New(), Subjects: native.NewSubjects(m.now, c.System.EntityInfo), Regions: geoip.New(m.now, c.Log.Warn),
	}
	m.Leavers = leavers.New(leavers.Config{
		Now: m.now, Log: m.World.Log, Holdings: holdings{m}, Disabled: m.World.Subjects.DisabledNow,
	})
	m.Upstreams = upstream.New(upstream.Config{
		Storage: m.Storage, Now: m.now, Log: c.Log, Mount: upstreamMount{m}, Wake: m.queue.Wake, UserAgent: c.UserAgent, Dial: c.Dial,
	})
	m.Alerts = alert.New(alert.Config{
		Storage: m.Storage, Now: m.now, Log: m.World.Log, Active: c.MayWrite, Origin: m.originOf, UserAgent: c.UserAgent, Dial: c.Dial,
	})
	m.Reconciler = reconcile.New(reconcile.Config{
		Now: m.now, Log: c.Log, Upstreams: m.Upstreams, Active: upstreamMount{m}.Active, Pause: reconcile.DefaultPause,
	})
	m.Detect = detect.New(detect.Config{
		Storage: m.Storage, Now: m.now, Log: m.World.Log, Place: m.placeOf, Holder: m.holderOf, Respond: responder{m},
		RoleMode: m.roleMode, Notify: m.Alerts.Notify,
	})
	m.World.Reused = m.Detect.RefreshReused
	m.Usage = insight.New(insight.Config{
		Storage: m.Storage, Now: m.now, Log: m.World.Log, Writer: m.writer, Detect: m.Detect, End: m.listedUntil,
	})
	m.Statics = static.New(m.Storage, m.now, c.Log, staticMount{m}, &m.Upstreams.Timings)
	m.countEvents()
	return m
}

// now returns the time by the mount's clock.
func (m *Mount) now() time.Time { return m.Now() }

// Start reads storage, so that the first request need not, and starts the workers. If Start returns an error, the workers
// read storage later.
func (m *Mount) Start(ctx context.Context, s logical.Storage) error {
	_, err := m.Load(ctx, s)
	if m.MayWrite() {
		m.queue.Start(m.Upstreams.Run)
		m.Reconciler.Start(m.Reconciler.Run)
		m.Statics.Start(m.Statics.Run)
		m.Leavers.Start(m.Leavers.Run)
		m.Usage.Start(m.Usage.Run)
		m.Detect.Start(m.Detect.Run)
		m.Alerts.Start(m.Alerts.Run)
	}
	return err
}

// Maintain prunes and maintains storage. The caller calls Maintain once a minute.
func (m *Mount) Maintain(ctx context.Context, s logical.Storage) error {
	if !m.MayWrite() {
		return nil
	}
	st, err := m.Load(ctx, s)
	if err != nil {
		return err
	}
	now, longest := m.now(), st.LongestLifetime()
	m.watchAll(st, now)
	m.Detect.Prune(now)
	err = errors.Join( // every step runs, even if another step fails
		st.Maintain(ctx, s),
		st.StatusIndexes.Prune(ctx, s, longest, now),
		st.DeletedRoles.Prune(ctx, s, now),
		st.Refreshes.Prune(ctx, s, now),
		st.Inventory.Flush(ctx, s),                     // rows that an earlier flush could not write
		st.Inventory.Prune(ctx, s, m.folding(st, now)), // before the uses of the tokens are dropped
		st.Deviations.Prune(ctx, s, now),
		st.Suspensions.Prune(ctx, s, now),
		ledger.PruneWriters(ctx, s, m.writer, longest, now),
		m.Watch.Flush(ctx, s, false, now),
	)
	m.Usage.Prune(now, st.expired(now))
	return err
}

// Close stops the workers and writes the inventory.
func (m *Mount) Close(ctx context.Context) {
	m.Leavers.Close()
	m.Usage.Close()
	m.Usage.Flush(ctx)
	m.flushWatch(ctx)
	m.Detect.Close()
	m.Detect.Flush(ctx)
	m.Alerts.Close()
	m.Reconciler.Close()
	m.Statics.Close()
	m.queue.Close()
	m.Upstreams.Wait()
	m.World.Subjects.Close()
	if st := m.Loaded(); st != nil {
		st.Connections.Close()
	}
	m.flushMu.Lock()
	m.stopped = true
	waiting := m.flushTimer != nil && m.flushTimer.Stop()
	m.flushMu.Unlock()
	if waiting {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		m.Flush(ctx)
	}
}

// FlushSoon schedules a write of the inventory within flushDelay.
func (m *Mount) FlushSoon() {
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	if m.flushTimer == nil && !m.stopped {
		m.flushTimer = time.AfterFunc(flushDelay, func() {
			m.flushMu.Lock()
			m.flushTimer = nil
			m.flushMu.Unlock()
			m.Flush(context.Background())
		})
	}
}

// Flush writes the inventory. A failure is logged.
func (m *Mount) Flush(ctx context.Context) {
	st := m.Loaded()
	if st == nil {
		return
	}
	if err := st.Inventory.Flush(ctx, m.Storage); err != nil {
		m.Log.Warn("inventory not written, retried within a minute", "error", err)
	}
}
