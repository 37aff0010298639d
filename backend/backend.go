// Package backend connects the secrets engine to Vault: one file for each Vault path, and the wiring.
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
//
// <w> is the writer id of a process. Only that process rewrites a key with <w>. Loading merges the keys of all writers.
// Large pages have one more digit in <xxx>.
//
// Memory holds a copy of storage (cache.go). A process reads storage when it first needs an entry, when Vault reports a
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
// Only the first two locks are held during a call to a service: while a static role's token or a credential is rotated.
package backend

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/fence"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/geoip"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/leavers"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/worker"
)

// Version is the running version that Vault shows.
const Version = "v0.1.0"

// operationPrefix is the prefix of the OpenAPI operation ids of all paths.
const operationPrefix = "apitoken"

// flushDelay is how long the inventory gathers rows before writing them. A crash loses at most the rows of this time.
const flushDelay = time.Second

// Options are the dependencies of a mount besides storage and Vault. Production uses the zero Options.
type Options struct {
	Now  func() time.Time   // the clock; nil: time.Now
	Dial connector.DialFunc // opens connections to upstream services; nil: the network
}

type backend struct {
	*framework.Backend
	Options
	world       native.World
	statusLists native.StatusLists
	upstreams   *upstream.Keeper
	queue       *worker.Worker // runs upstreams.Run
	statics     *static.Keeper
	leavers     *leavers.Leavers
	usage       *insight.Usage

	// storage is the mount's storage, for background work.
	storage logical.Storage

	loading chan struct{} // full while a request reads state from storage; other requests wait or give up
	state   atomic.Pointer[state]
	stale   atomic.Bool // staleKeys is not empty, or staleAll is set

	staleMu   sync.Mutex
	staleKeys []string // storage keys that another node wrote
	staleAll  bool     // Vault rejected a write for lack of leadership

	writer string // id of this process in the keys of the ledger
	fence  *fence.Fence

	flushMu    sync.Mutex
	flushTimer *time.Timer // not nil while rows wait to be written
	stopped    bool
}

// Factory returns the backend of one mount.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	return Options{}.Factory(ctx, conf)
}

// Factory returns the backend of one mount, with the clock and the network of the options.
func (o Options) Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := newBackend(o)
	b.storage = b.fence.Background(conf.StorageView)
	remembering := *conf
	remembering.System = newSystemView(conf.System)
	if err := b.Setup(ctx, &remembering); err != nil {
		return nil, err
	}
	b.upstreams = upstream.New(upstream.Config{
		Storage: b.storage, Now: b.now, Log: b.Logger(), Mount: upstreamMount{b}, Wake: b.queue.Wake, UserAgent: userAgent(), Dial: o.Dial,
	})
	b.usage = insight.New(insight.Config{Storage: b.storage, Now: b.now, Log: b.Logger, Writer: b.writer, End: b.listedUntil})
	b.statics = static.New(b.storage, b.now, b.Logger(), staticMount{b}, &b.upstreams.Timings)
	return b, nil
}

func newBackend(o Options) *backend {
	if o.Now == nil {
		o.Now = time.Now
	}
	b := &backend{Options: o, writer: ledger.NewWriter(), loading: make(chan struct{}, 1)}
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		BackendType:    logical.TypeLogical,
		RunningVersion: Version,
		PathsSpecial:   &logical.Paths{SealWrapStorage: []string{native.KeysPrefix, upstream.ConnectionsPrefix, upstream.Prefix, static.Prefix}, Unauthenticated: unauthenticated},
		Paths: slices.Concat(
			b.pathsConfig(),
			b.pathsRoles(),
			b.pathsCreds(),
			b.pathsIntrospect(),
			b.pathsLookup(),
			b.pathsRevoke(),
			b.pathsTokens(),
			b.pathsKeys(),
			b.pathsOAuthToken(),
			b.pathsOAuthIntrospect(),
			b.pathsOAuthPublic(),
			b.pathsConnections(),
			b.pathsRotateRoot(),
			b.pathsProviders(),
			b.pathsStaticRoles(),
			b.pathsStaticCreds(),
			b.pathsBroken(),
			b.pathsFeed(),
			b.pathsUsage(),
		),
		Secrets:        []*framework.Secret{b.secretToken(), b.secretUpstream()},
		InitializeFunc: b.initialize,
		PeriodicFunc:   b.periodic,
		Invalidate:     b.invalidate,
		Clean:          b.clean,
	}
	for _, path := range b.Paths {
		if strings.HasPrefix(path.Pattern, oauthPrefix) {
			continue // RFC 6749 section 3.2: unknown parameters must be ignored
		}
		for operation, handler := range path.Operations {
			path.Operations[operation] = strict(path.Pattern, handler)
		}
	}
	b.fence = fence.New(b.writer, b.now, b.staleEverything)
	b.queue = worker.New()
	b.leavers = leavers.New(leavers.Config{
		Now: b.now, Log: b.Logger, Holdings: mountHoldings{b},
		Disabled: func(ctx context.Context, entity string) (bool, error) {
			return b.world.Subjects.DisabledNow(ctx, entity)
		},
	})
	b.world = native.World{
		Now: b.now, Log: b.Logger, Limits: new(role.Limits), Vault: func() native.Vault { return b.System() },
		Feed:     feed.New(),
		Regions:  geoip.New(b.now, func(msg string, args ...any) { b.Logger().Warn(msg, args...) }),
		Subjects: native.NewSubjects(b.now, func(id string) (*logical.Entity, error) { return b.System().EntityInfo(id) }),
	}
	return b
}

// now returns the time by the mount's clock.
func (b *backend) now() time.Time { return b.Now() }

// initialize reads storage, so that the first request need not, and starts the workers. Vault calls initialize once on
// every node after mounting, and again after a crash of the plugin. If initialize fails, Vault keeps the mount and does
// not retry: the workers read storage later.
func (b *backend) initialize(ctx context.Context, req *logical.InitializationRequest) error {
	_, err := b.load(ctx, req.Storage)
	if b.WriteSafeReplicationState() {
		b.queue.Start(b.upstreams.Run)
		b.statics.Start(b.statics.Run)
		b.leavers.Start(b.leavers.Run)
		b.usage.Start(b.usage.Run)
	}
	return err
}

// periodic prunes and maintains storage. Vault calls periodic once a minute on every node.
func (b *backend) periodic(ctx context.Context, req *logical.Request) error {
	if !b.WriteSafeReplicationState() {
		return nil
	}
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return err
	}
	now, s := b.now(), req.Storage
	b.usage.Prune(now, st.expired(now))
	longest := st.LongestLifetime()
	return errors.Join( // every step runs, even if another step fails
		st.Maintain(ctx, s),
		st.StatusIndexes.Prune(ctx, s, longest, now),
		st.DeletedRoles.Prune(ctx, s, now),
		st.Refreshes.Prune(ctx, s, now),
		st.Inventory.Flush(ctx, s), // rows that an earlier flush could not write
		st.Inventory.Prune(ctx, s, st.expired(now)),
		st.Deviations.Prune(ctx, s, now),
		ledger.PruneWriters(ctx, s, b.writer, longest, now),
	)
}

// invalidate marks key as stale. Vault calls invalidate after another node wrote key.
func (b *backend) invalidate(_ context.Context, key string) {
	if b.usage.Invalidate(key) {
		return
	}
	b.staleMu.Lock()
	b.staleKeys = append(b.staleKeys, key)
	b.staleMu.Unlock()
	b.stale.Store(true)
}

// clean stops the workers and writes the inventory. Vault calls clean when the mount is removed or moves to another node.
func (b *backend) clean(ctx context.Context) {
	b.leavers.Close()
	b.usage.Close()
	b.usage.Flush(ctx)
	b.statics.Close()
	b.queue.Close()
	b.upstreams.Wait()
	b.world.Subjects.Close()
	if st := b.state.Load(); st != nil {
		st.connections.Close()
	}
	b.flushMu.Lock()
	b.stopped = true
	waiting := b.flushTimer != nil && b.flushTimer.Stop()
	b.flushMu.Unlock()
	if waiting {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		b.flush(ctx)
	}
}

// flushSoon schedules a write of the inventory within flushDelay.
func (b *backend) flushSoon() {
	b.flushMu.Lock()
	defer b.flushMu.Unlock()
	if b.flushTimer == nil && !b.stopped {
		b.flushTimer = time.AfterFunc(flushDelay, func() {
			b.flushMu.Lock()
			b.flushTimer = nil
			b.flushMu.Unlock()
			b.flush(context.Background())
		})
	}
}

func (b *backend) flush(ctx context.Context) {
	st := b.state.Load()
	if st == nil {
		return
	}
	if err := st.Inventory.Flush(ctx, b.storage); err != nil {
		b.Logger().Warn("inventory not written, retried within a minute", "error", err)
	}
}

const backendHelp = `
The API token secrets engine issues scoped API tokens as leased secrets.

A role defines what a token may be used for, where, and how long. Reading
"creds/<role>" issues a token. An API server checks a token by "introspect".
Revoking the lease revokes the token.
`
