// Package simulation holds the engine to its promises at every crash, race and limit. It drives the engine as Vault
// does, and only so (logical.Backend), in a world of which all is simulated: storage, Vault's leases, two nodes, an
// upstream service, clients, and time (testing/synctest).
//
// What happens is a program: a list of instructions, each with a seed of its own, so that leaving some out leaves the
// others as they were. A run of a program that breaks an invariant (invariants.go) is shrunk by leaving out.
package simulation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// violation is an invariant that was broken.
type violation struct {
	invariant int
	message   string
}

func (v *violation) Error() string { return fmt.Sprintf("invariant %d: %s", v.invariant, v.message) }

// world is all that there is.
type world struct {
	clock    atomic.Uint64 // orders what happens
	disk     *disk
	gate     gate
	service  *service
	leases   *leases
	skews    []time.Duration // of the clocks of nodes, in turn
	lastNode int
	faults   atomic.Int64 // writes that storage has refused
	calm     atomic.Bool  // nothing goes wrong any more

	verifier verifier
	reporter reporter
	pager    *pager
	reviews  reviews

	nextHangUp atomic.Pointer[hangUp] // of the next request; nil: none
	hanging    atomic.Pointer[hangUp] // of the request that goes on; nil: none

	active   *node                // nil: none; the requests in flight ask leads
	leader   atomic.Pointer[node] // active
	zombie   *node                // was active, and does not know that it is no more; nil: none
	standby  *node                // nil: none
	othersMu sync.Mutex
	others   []*node // standbys

	entitiesMu sync.Mutex
	disabled   map[string]time.Time // id -> since

	recentlyDisabled map[string]time.Time // id -> when it was enabled again

	mu       sync.Mutex // of what follows
	model    *model
	upstream bool           // the profile has a service
	fresh    []*grant       // whose rows may not be in storage yet
	endless  bool           // there are tokens that live too long to wait for
	flying   sync.WaitGroup // requests that nobody waits for
	secrets  secrets
	lists    map[string]statusList // a status list as it is signed -> what it holds; the last one

	historyMu sync.Mutex
	history   []event
	failed    atomic.Pointer[violation]
}

type event struct {
	at     time.Duration
	format string
	args   []any
}

var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // at which the clock of synctest begins

func (w *world) stamp() uint64 { return w.clock.Add(1) }

// say adds a line to the history.
func (w *world) say(format string, args ...any) {
	w.historyMu.Lock()
	defer w.historyMu.Unlock()
	w.history = append(w.history, event{time.Since(epoch), format, args})
}

// broken notes the first invariant that is broken.
func (w *world) broken(invariant int, format string, args ...any) {
	v := &violation{invariant, fmt.Sprintf(format, args...)}
	if w.failed.CompareAndSwap(nil, v) {
		w.say("BROKEN: %s", v.Error())
	}
}

// told is the history in lines.
func (w *world) told() string {
	w.historyMu.Lock()
	defer w.historyMu.Unlock()
	var text strings.Builder
	for _, e := range w.history {
		fmt.Fprintf(&text, "%12s  %s\n", e.at.Round(time.Millisecond), fmt.Sprintf(e.format, e.args...))
	}
	return text.String()
}

// instruction is one step.
type instruction struct {
	Action int
	Seed   uint64
}

// program makes the steps of a seed.
func program(seed uint64, steps int, p *profile) []instruction {
	r := rand.New(rand.NewPCG(seed, 9))
	list := make([]instruction, steps)
	for i := range list {
		list[i] = instruction{p.choose(r), r.Uint64()}
	}
	return list
}

// setting is what a run has besides its steps.
type setting struct {
	seed    uint64
	profile *profile
	skews   []time.Duration // of the clocks of nodes, in turn; nil: by the seed
}

// current is the world of the run that goes on, for who finds that it hangs.
var current atomic.Pointer[world]

// run lets a world be in a bubble of its own, where no real time passes: it is set up, something happens in it, it
// comes to rest, and ends.
func run(t *testing.T, s setting, happens func(*world), done func(*world)) {
	var w *world
	synctest.Test(t, func(*testing.T) {
		w = newWorld(s)
		current.Store(w)
		w.begin()
		for _, next := range []func(*world){happens, (*world).atRest, (*world).atTheEnd} {
			if w.failed.Load() == nil {
				next(w)
			}
		}
		w.close()
	})
	done(w)
}

// follow does the steps of a program.
func follow(steps []instruction) func(*world) {
	return func(w *world) {
		for _, step := range steps {
			if w.failed.Load() != nil {
				return
			}
			r := rand.New(rand.NewPCG(step.Seed, 1))
			actions[step.Action].do(w, r)
			w.afterStep(r)
		}
	}
}

func newWorld(s setting) *world {
	r := rand.New(rand.NewPCG(s.seed, 2))
	w := &world{disabled: make(map[string]time.Time), recentlyDisabled: make(map[string]time.Time), upstream: s.profile.upstream}
	w.disk = newDisk(w.stamp)
	w.disk.written = w.written
	w.leases = &leases{world: w}
	w.skews = []time.Duration{0}
	if r.IntN(2) == 0 {
		for range 4 {
			w.skews = append(w.skews, time.Duration(r.IntN(300)-150)*time.Second)
		}
	}
	if s.skews != nil {
		w.skews = s.skews
	}
	w.model = &model{
		roles: make(map[string]*role), upstreams: make(map[string]*upstreamToken), sealed: make(map[string]string),
		destroyed: make(map[string]*destruction), statics: make(map[string]*static),
		suspended: make(map[string]*suspended), acknowledged: make(map[string]*acknowledged),
	}
	w.secrets.init()
	return w
}

// spread is how far the clocks of nodes are apart at most.
func (w *world) spread() time.Duration { return slices.Max(w.skews) - slices.Min(w.skews) }

// begin sets the mount up: what an operator does first.
func (w *world) begin() {
	if w.upstream {
		w.service = newService(w)
	}
	w.lead(w.start(false, plan{}))
	if w.active == nil {
		return
	}
	w.must("config", map[string]any{"issuer": "https://vault.example.com/v1/apitoken"})
	w.beAlerted()
	if w.upstream {
		w.must("providers/service", map[string]any{"definition": w.definition()})
		w.connect(w.active, serviceHost, nil)
	}
	for _, k := range kinds {
		w.model.roles[k.name] = &role{kind: k, states: timeline[roleState]{{}}}
	}
	for _, k := range kinds {
		if k.upstream && !w.upstream {
			continue
		}
		w.writeRole(w.active, w.model.roles[k.name], roleState{exists: true, life: 1, scopes: []string{"a:read", "b:read"}, allowed: allScopes})
	}
}

// lead makes a node the active one. nil: none is active.
func (w *world) lead(n *node) {
	w.active = n
	w.leader.Store(n)
}

// leads reports whether a node is the active one.
func (w *world) leads(n *node) bool { return w.leader.Load() == n }

// definition is that of the service's provider, with find_root where this version of the engine knows it.
func (w *world) definition() string {
	return strings.Replace(serviceProvider, "FIND_ROOT\n", "", 1)
}

// must writes what cannot be refused.
func (w *world) must(path string, data map[string]any) {
	a := w.ask(w.active, &logical.Request{Operation: logical.UpdateOperation, Path: path, Data: data})
	if a.err != nil || a.refused != "" {
		w.broken(0, "writing %s: %v %s", path, a.err, a.refused)
	}
}

// close ends the world.
func (w *world) close() {
	w.calm.Store(true)
	w.gate.open()
	w.flying.Wait()
	for _, n := range []*node{w.active, w.zombie, w.standby} {
		if n != nil {
			w.stop(n)
		}
	}
	if w.pager != nil {
		w.pager.stop()
	}
	if w.service != nil {
		w.service.stop()
		time.Sleep(time.Minute) // for what the service is late with
	}
}

// answer is what came of a request.
type answer struct {
	node    *node
	began   uint64
	lost    bool // the node died before the answer could arrive, or the client has hung up: it never will
	resp    *logical.Response
	err     error
	refused string // the error for the user
	reads   int
	writes  int
}

// ok reports whether what was asked for was done, and acknowledged.
func (a *answer) ok() bool { return !a.lost && a.err == nil && a.refused == "" }

// mark is when the answer was there.
func (a *answer) mark() mark { return a.node.mark() }

func (a *answer) data() map[string]any {
	if a.resp == nil {
		return nil
	}
	return a.resp.Data
}

func (a *answer) String() string {
	switch {
	case a.lost:
		return "LOST"
	case a.err != nil:
		return "error: " + clip(a.err.Error())
	case a.refused != "":
		return "refused: " + clip(a.refused)
	}
	return "ok"
}

func clip(s string) string {
	if len(s) > 160 {
		return s[:160] + "..."
	}
	return s
}

// ask makes a request to a node, as Vault makes it.
func (w *world) ask(n *node, req *logical.Request) *answer {
	a := &answer{node: n, began: w.stamp()}
	req.Storage, req.MountPoint, req.MountType = n.storage, "apitoken/", "apitoken"
	req.ID = "request"
	if req.Connection == nil {
		req.Connection = &logical.Connection{RemoteAddr: "127.0.0.1"}
	}
	counted := new(operations)
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), operationsKey{}, counted), 90*time.Second)
	defer cancel()
	h := w.nextHangUp.Swap(nil)
	if h != nil {
		ctx = h.begin(ctx, cancel)
		w.hanging.Store(h)
	}
	operation, path := req.Operation, req.Path
	w.reporter.asks(path, req.Data)
	a.resp, a.err = n.b.HandleRequest(ctx, req)
	if operation == logical.RollbackOperation {
		n.read.Store(w.stamp()) // it may have read what others have written
	}
	w.hanging.CompareAndSwap(h, nil)
	a.lost = n.dead() || h != nil && h.done.Load()
	if a.resp != nil && a.resp.IsError() {
		a.refused = a.resp.Error().Error()
	}
	if text, status := rawBody(a.resp); status >= 400 {
		a.refused = text
	}
	counted.mu.Lock()
	a.reads, a.writes = counted.reads, counted.writes
	counted.mu.Unlock()
	w.secrets.checkAnswer(w, operation, path, a)
	w.checkBudget(operation, path, w.revokes(path, req.Data), a)
	w.noticed(path, a)
	return a
}
