package simulation

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend"
)

// node is one server with the engine in it: one process of the plugin, that is. A node that fails over or starts
// again is another node.
type node struct {
	world   *world
	n       int
	b       logical.Backend
	storage *storage
	system  *system
	skew    time.Duration // of its clock
	log     logBuffer
	standby bool
	alone   bool // no other node was active when it became active

	replaced atomic.Bool // another node is active, and it has not noticed

	mu    sync.Mutex
	gone  bool
	conns map[net.Conn]bool // to services

	// loaded is the moment from which on it must know all that was acknowledged before; of a standby it moves as
	// invalidations arrive.
	loaded  uint64
	read    atomic.Uint64  // the moment from which on it may not know what others do
	counted time.Time      // when it last wrote usage
	pending []invalidation // of a standby: writes of others that it has not been told of
}

type invalidation struct {
	seq uint64
	key string
}

func (n *node) now() time.Time { return time.Now().Add(n.skew) }

// mark is now, for what a node has just acknowledged.
func (n *node) mark() mark { return mark{n.world.stamp(), n, time.Now()} }

// die is called at the moment of a crash: whatever the process does from now on reaches nobody.
func (n *node) die() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone = true
	for conn := range n.conns {
		conn.Close()
	}
	n.conns = nil
}

func (n *node) dead() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gone
}

// dial connects to a service by its name.
func (n *node) dial(ctx context.Context, _, address string) (net.Conn, error) {
	if n.dead() {
		return nil, errCrashed
	}
	conn, err := n.world.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone {
		conn.Close()
		return nil, errCrashed
	}
	n.conns[conn] = true
	return conn, nil
}

// start starts a node on what the disk holds. It is nil where the start was cut short.
func (w *world) start(standby bool, p plan) *node {
	w.lastNode++
	n := &node{world: w, n: w.lastNode, standby: standby, conns: make(map[net.Conn]bool)}
	n.alone = w.zombie == nil
	n.skew = w.skews[n.n%len(w.skews)]
	n.storage = &storage{disk: w.disk, node: n, plan: p}
	if standby {
		n.storage.mode = readOnly
	}
	n.system = &system{node: n}
	n.loaded = w.stamp()
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Info, Output: &n.log, JSONFormat: false, DisableTime: true})
	ctx := context.Background()
	b, err := backend.Options{Now: n.now, Dial: n.dial}.Factory(ctx, &logical.BackendConfig{StorageView: n.storage, System: n.system, Logger: logger})
	if err != nil {
		w.broken(7, "the factory of node %d fails: %v", n.n, err)
		return nil
	}
	n.b = b
	if standby {
		w.othersMu.Lock()
		w.others = append(w.others, n) // before it reads: what is written meanwhile it is told of
		w.othersMu.Unlock()
	}
	faults := w.faults.Load()
	if err := b.Initialize(ctx, &logical.InitializationRequest{Storage: n.storage}); err != nil {
		if !n.dead() && faults == w.faults.Load() {
			w.broken(7, "node %d does not start on what storage holds: %v", n.n, err)
		}
		w.stop(n)
		return nil
	}
	n.read.Store(w.stamp())
	if n.dead() {
		w.stop(n)
		return nil
	}
	return n
}

// stop ends a node: at once where it is dead, and else as Vault does.
func (w *world) stop(n *node) {
	w.othersMu.Lock()
	w.others = slices.DeleteFunc(slices.Clone(w.others), func(other *node) bool { return other == n })
	w.othersMu.Unlock()
	n.b.Cleanup(context.Background())
	n.storage.set(dead)
	n.die()
	w.checkLog(n)
}

// kill ends a node as a crash does, between two operations.
func (w *world) kill(n *node) {
	n.storage.set(dead)
	n.die()
	w.stop(n)
}

// written is told of each change of the disk; standbys will be, in Vault's good time.
func (w *world) written(by *node, seq uint64, key string) {
	w.checkUsageWrite(by, key)
	w.othersMu.Lock()
	defer w.othersMu.Unlock()
	for _, n := range w.others {
		if n != by && n.standby {
			n.mu.Lock()
			n.pending = append(n.pending, invalidation{seq, key})
			n.mu.Unlock()
		}
	}
}

// deliver tells a standby of one of the writes that it does not know of yet.
func (n *node) deliver(choose func(int) int) bool {
	n.mu.Lock()
	if len(n.pending) == 0 {
		n.mu.Unlock()
		return false
	}
	i := choose(len(n.pending))
	key := n.pending[i].key
	n.mu.Unlock()
	n.b.InvalidateKey(context.Background(), key)
	n.mu.Lock()
	// One call stands for all writes of the key up to now, which is what will be read.
	kept := n.pending[:0]
	for _, p := range n.pending {
		if p.key != key {
			kept = append(kept, p)
		}
	}
	n.pending = kept
	n.mu.Unlock()
	return true
}

// knows reports whether a node must know of what was acknowledged at a moment by another.
func (n *node) knows(seq uint64, by *node) bool {
	if by == n || seq <= n.loaded {
		return true
	}
	if !n.standby {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pending {
		if p.seq <= seq {
			return false
		}
	}
	return true
}

// system is Vault as the engine asks it.
type system struct {
	logical.StaticSystemView
	node *node
}

const (
	mountDefaultTTL = time.Hour
	mountMaxTTL     = 8 * time.Hour
)

func (s *system) DefaultLeaseTTL() time.Duration { return mountDefaultTTL }
func (s *system) MaxLeaseTTL() time.Duration     { return mountMaxTTL }
func (s *system) LocalMount() bool               { return false }

func (s *system) ReplicationState() consts.ReplicationState {
	if s.node.standby {
		return consts.ReplicationPerformanceStandby
	}
	return consts.ReplicationUnknown
}

func (s *system) EntityInfo(id string) (*logical.Entity, error) {
	w := s.node.world
	w.entitiesMu.Lock()
	defer w.entitiesMu.Unlock()
	_, disabled := w.disabled[id]
	return &logical.Entity{ID: id, Name: "entity-" + id[:4], Disabled: disabled}, nil
}

func (s *system) PluginEnv(context.Context) (*logical.PluginEnvironment, error) {
	return &logical.PluginEnvironment{VaultVersion: "1.21.1"}, nil
}

// logBuffer keeps what a node logs.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// take gives what was logged since it was last asked.
func (l *logBuffer) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.text.String()
	l.text.Reset()
	return text
}

// beStandby starts a standby, or ends it.
func (w *world) beStandby(r *rand.Rand) {
	if w.standby != nil {
		w.stop(w.standby)
		w.standby = nil
		return
	}
	w.standby = w.start(true, plan{})
	if w.standby != nil {
		w.say("node %d is a standby", w.standby.n)
	}
}

func (w *world) deliverSome(r *rand.Rand) {
	if w.standby == nil {
		return
	}
	for range 1 + r.IntN(8) {
		w.standby.deliver(r.IntN)
	}
}
