package simulation

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// action is one thing that somebody does.
type action struct {
	name   string
	weight int
	only   bool // with a service
	alone  bool // not in a burst
	do     func(*world, *rand.Rand)
}

// actions are all of them; a step is one.
var actions []action

func init() {
	actions = []action{
		{name: "issue", weight: 20, do: (*world).issue},
		{name: "renew", weight: 10, do: (*world).renewSome},
		{name: "revoke lease", weight: 8, do: (*world).revokeSomeLease},
		{name: "revoke prefix", weight: 1, do: (*world).revokePrefix},
		{name: "revoke parent", weight: 2, do: (*world).revokeParent},
		{name: "revoke", weight: 6, do: (*world).revokeBy},
		{name: "suspend", weight: 5, do: (*world).suspendSome},
		{name: "resume", weight: 5, do: (*world).resumeSome},
		{name: "revoke subject", weight: 1, alone: true, do: (*world).revokeSubject},
		{name: "refresh", weight: 12, do: (*world).refreshSome},
		{name: "exchange", weight: 8, do: (*world).exchangeSome},
		{name: "change role", weight: 5, do: (*world).changeRole},
		{name: "rotate keys", weight: 1, do: (*world).rotateKeys},
		{name: "destroy key", weight: 1, do: (*world).destroyKey},
		{name: "config", weight: 2, do: (*world).changeConfig},
		{name: "entity", weight: 1, alone: true, do: (*world).changeEntity},
		{name: "look", weight: 6, do: (*world).look},
		{name: "verify", weight: 6, do: (*world).verify},
		{name: "poll", weight: 4, do: (*world).poll},
		{name: "report", weight: 6, do: (*world).report},
		{name: "misuse", weight: 2, do: (*world).misuse},
		{name: "alerts", weight: 1, alone: true, do: (*world).tuneAlerts},
		{name: "pager fails", weight: 1, alone: true, do: (*world).pagerFails},
		{name: "advance", weight: 12, alone: true, do: (*world).advanceSome},
		{name: "periodic", weight: 2, do: (*world).periodic},
		{name: "crash", weight: 2, alone: true, do: (*world).crash},
		{name: "fail over", weight: 1, alone: true, do: (*world).failOver},
		{name: "zombie", weight: 1, alone: true, do: (*world).leaveZombie},
		{name: "zombie acts", weight: 4, alone: true, do: (*world).zombieActs},
		{name: "standby", weight: 1, alone: true, do: (*world).beStandby},
		{name: "deliver", weight: 6, alone: true, do: (*world).deliverSome},
		{name: "storage fails", weight: 2, alone: true, do: (*world).failStorage},
		{name: "crowd", weight: 2, alone: true, do: (*world).crowd},
		{name: "burst", weight: 8, alone: true, do: (*world).burst},
		{name: "hang up", weight: 6, do: (*world).hangUpSome},
		{name: "hang up alone", weight: 3, alone: true, do: (*world).hangUpAlone},
		{name: "static", weight: 4, alone: true, do: (*world).changeStatic},
		{name: "service fails", weight: 5, only: true, alone: true, do: (*world).serviceFails},
		{name: "service heals", weight: 2, only: true, alone: true, do: (*world).serviceHeals},
		{name: "upstream", weight: 15, only: true, do: (*world).issueUpstream},
		{name: "connection", weight: 2, only: true, alone: true, do: (*world).changeConnection},
		{name: "reconcile", weight: 2, only: true, alone: true, do: (*world).reconcile},
		{name: "rotate root", weight: 2, only: true, alone: true, do: (*world).rotateRoot},
		{name: "fly", weight: 5, only: true, alone: true, do: (*world).fly},
	}
}

// profile is what a run is about.
type profile struct {
	name     string
	upstream bool
}

var profiles = map[string]*profile{
	"native": {name: "native"},
	"full":   {name: "full", upstream: true},
}

func (p *profile) choose(r *rand.Rand) int {
	total := 0
	for _, a := range actions {
		if !a.only || p.upstream {
			total += a.weight
		}
	}
	at := r.IntN(total)
	for i, a := range actions {
		if a.only && !p.upstream {
			continue
		}
		if at -= a.weight; at < 0 {
			return i
		}
	}
	panic("unreachable")
}

// afterStep does what the rest of the world does between two steps: Vault's expiration manager, a restart after a
// crash; and checks.
func (w *world) afterStep(r *rand.Rand) {
	if w.zombie != nil && w.zombie.dead() {
		w.stop(w.zombie)
		w.zombie = nil
	}
	if w.active != nil && w.active.dead() {
		w.say("node %d has crashed", w.active.n)
		w.stop(w.active)
		w.lead(nil)
	}
	for tries := 0; w.active == nil && w.failed.Load() == nil; tries++ {
		p := plan{}
		if tries == 0 && !w.calm.Load() && r.IntN(4) == 0 {
			p = plan{crashAt: 1 + r.IntN(30), applied: r.IntN(2) == 0}
		}
		w.takeOver(p)
	}
	if w.failed.Load() != nil {
		return
	}
	w.mu.Lock()
	w.noteStored()
	w.mu.Unlock()
	w.expire()
	w.resolve()
	if w.active.dead() {
		return
	}
	w.checkSome(r)
	w.checkLog(w.active)
}

// takeOver makes another node the active one.
func (w *world) takeOver(p plan) {
	if w.standby != nil { // it becomes active: Vault sets its mounts up anew
		w.stop(w.standby)
		w.standby = nil
	}
	w.lead(w.start(false, p))
	if w.active != nil {
		w.say("node %d is active, its clock is off by %s", w.active.n, w.active.skew)
		w.leases.restored()
	}
}

// expire has Vault revoke the leases that are over.
func (w *world) expire() {
	w.mu.Lock()
	w.leases.expireParents(w.active.now())
	due := w.leases.due(w.active.now())
	w.mu.Unlock()
	for _, l := range due {
		if w.active.dead() {
			return
		}
		w.revokeLease(w.active, l)
	}
}

func (w *world) advanceSome(r *rand.Rand) {
	var d time.Duration
	switch r.IntN(8) {
	case 0, 1, 2:
		d = time.Duration(1+r.IntN(2000)) * time.Millisecond
	case 3, 4:
		d = time.Duration(1+r.IntN(30)) * time.Second
	case 5, 6:
		d = time.Duration(30+r.IntN(300)) * time.Second
	default:
		d = time.Duration(5+r.IntN(30)) * time.Minute
	}
	w.advance(d)
}

// advance has time pass, and Vault do what it does meanwhile.
func (w *world) advance(d time.Duration) {
	w.say("%s pass", d)
	for d > 0 {
		piece := min(d, max(time.Minute, d/4))
		time.Sleep(piece)
		d -= piece
		if w.active == nil || w.active.dead() {
			return
		}
		if piece >= time.Minute {
			w.expire()
			w.tick()
		}
	}
}

// crash has the active node die, now or at one of its next storage operations.
func (w *world) crash(r *rand.Rand) {
	p := plan{crashAt: 1 + r.IntN(12), applied: r.IntN(2) == 0}
	if r.IntN(4) == 0 {
		w.say("node %d is killed", w.active.n)
		w.kill(w.active)
		w.lead(nil)
		return
	}
	w.say("node %d will crash at its storage operation %d, applied %v", w.active.n, p.crashAt, p.applied)
	w.active.storage.schedule(p)
}

func (w *world) failStorage(r *rand.Rand) {
	p := plan{failAt: 1 + r.IntN(4), failFor: 1 + r.IntN(3)}
	w.say("storage of node %d will fail at write %d, %d times", w.active.n, p.failAt, p.failFor)
	w.active.storage.schedule(p)
}

// failOver has the active node step down in good order.
func (w *world) failOver(*rand.Rand) {
	w.say("node %d steps down", w.active.n)
	w.stop(w.active)
	w.lead(nil)
}

// replace has Vault take the leadership from the active node, which does not notice.
func (w *world) replace() {
	w.zombie = w.active
	w.zombie.replaced.Store(true)
	w.lead(nil)
}

// leaveZombie makes another node active while the one before has not noticed.
func (w *world) leaveZombie(r *rand.Rand) {
	if w.zombie != nil {
		w.say("node %d notices that it is not active any more", w.zombie.n)
		w.stop(w.zombie)
		w.zombie = nil
		return
	}
	w.replace()
	w.doubtFindings()
	if r.IntN(2) == 0 {
		w.zombie.storage.set(readOnly)
	}
	w.say("node %d is replaced and has not noticed, storage mode %d", w.zombie.n, w.zombie.storage.mode)
	w.takeOver(plan{})
}

// zombieActs has a node that is not active any more go on as if it were.
func (w *world) zombieActs(r *rand.Rand) {
	n := w.zombie
	if n == nil {
		return
	}
	switch r.IntN(11) {
	case 8, 9:
		w.suspendAt(n, r, "suspend")
	case 10:
		w.suspendAt(n, r, "resume")
	case 0, 1, 2:
		w.mu.Lock()
		l := pick(r, w.leases.live)
		w.mu.Unlock()
		if l != nil && l.tries == 0 {
			w.revokeLease(n, l)
		}
	case 3, 4:
		w.mu.Lock()
		g := pick(r, w.model.grants)
		w.mu.Unlock()
		if g != nil && g.upstream == nil {
			w.revokeGrant(n, g, r.IntN(doors), r)
		}
	case 5:
		w.issueFrom(n, "opaque", "", nil)
	case 6:
		w.ask(n, &logical.Request{Operation: logical.RollbackOperation})
	case 7:
		n.storage.set(readOnly)
		w.say("writes of node %d fail from now on", n.n)
	}
}

// burst does some things at once; in which order storage serves them is the seed's choice.
func (w *world) burst(r *rand.Rand) {
	var doing []int
	for range 2 + r.IntN(3) {
		i := r.IntN(len(actions))
		for actions[i].alone || actions[i].only && !w.upstream || r.IntN(20) > actions[i].weight {
			i = r.IntN(len(actions))
		}
		doing = append(doing, i)
		if r.IntN(3) == 0 {
			doing = append(doing, i)
		}
	}
	w.say("at once:")
	w.atOnce(r, len(doing), func(i int, r *rand.Rand) { actions[doing[i]].do(w, r) })
	w.say("done.")
}

// atOnce does n things, and chooses in which order storage serves them.
func (w *world) atOnce(r *rand.Rand, n int, do func(i int, r *rand.Rand)) {
	var done atomic.Int32
	w.gate.shut()
	for i := range n {
		own := rand.New(rand.NewPCG(r.Uint64(), 3))
		go func() {
			defer done.Add(1)
			do(i, own)
		}()
	}
	for idle := 0; int(done.Load()) < n; {
		for range 6 {
			runtime.Gosched()
		}
		if w.gate.release(r.IntN) {
			idle = 0
			continue
		}
		if idle++; idle > 4 {
			w.gate.pause(20 * time.Millisecond)
			idle = 0
		}
	}
	w.gate.open()
}
