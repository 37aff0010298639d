package simulation

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// hangUp is a client that hangs up while its request is on its way: Vault cancels the context of the request, and the
// answer reaches nobody. It happens at a storage operation of the request, at an exchange with the service, or after a
// while.
type hangUp struct {
	moment hangUpMoment
	after  time.Duration // before that nothing happens; 0: it is the countdown that counts

	cancel context.CancelFunc
	done   atomic.Bool

	mu        sync.Mutex
	countdown int // of storage operations and exchanges
}

// hangUpMoment is when a client hangs up, seen from what counts.
type hangUpMoment int

const (
	before  hangUpMoment = iota // nothing of it is done
	unheard                     // it is done, and the engine does not learn of it
	after                       // it is done, and the engine learns of it
	hangUpMoments
)

type hangUpKey struct{}

func newHangUp(r *rand.Rand) *hangUp {
	h := &hangUp{moment: hangUpMoment(r.IntN(int(hangUpMoments))), countdown: 1 + r.IntN(1+r.IntN(8))}
	if r.IntN(5) == 0 {
		h.after = time.Duration(r.IntN(15000)) * time.Millisecond
	}
	return h
}

// begin has a request be the one that is hung up.
func (h *hangUp) begin(ctx context.Context, cancel context.CancelFunc) context.Context {
	h.cancel = func() {
		h.done.Store(true)
		cancel()
	}
	if h.after > 0 {
		time.AfterFunc(h.after, h.cancel) // it changes nothing once the request is over
	}
	return context.WithValue(ctx, hangUpKey{}, h)
}

// now reports whether the client hangs up at this operation or exchange.
func (h *hangUp) now() bool {
	if h.after > 0 {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.countdown--
	return h.countdown == 0
}

// hungUpAt decides the fate of a storage operation: where the context has ended, so has the operation, and whether it
// is done is not said. What the engine has detached from the request goes on.
func hungUpAt(ctx context.Context) (apply bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if h, ok := ctx.Value(hangUpKey{}).(*hangUp); ok && h.now() {
		h.cancel()
		if h.moment != after {
			return h.moment == unheard, ctx.Err()
		}
	}
	return false, nil
}

// hungUpAtService has the client hang up whose request the service may be serving: serve does what was asked, cut ends
// the exchange. It reports whether that was all.
func (w *world) hungUpAtService(serve, cut func()) (over bool) {
	h := w.hanging.Load()
	if h == nil || !h.now() {
		return false
	}
	w.say("      the client hangs up, moment %d", h.moment)
	switch h.moment {
	case before:
		h.cancel()
		letOthers()
		cut()
		return true
	case unheard:
		serve()
		h.cancel()
		letOthers()
		cut()
		return true
	}
	go func() {
		letOthers()
		h.cancel()
	}()
	return false
}

// letOthers lets other goroutines go on, without time passing: somebody may wait for a lock.
func letOthers() {
	for range 20 {
		runtime.Gosched()
	}
}

// noticed holds an answer against this: who hangs up loses an answer, and nobody else does.
func (w *world) noticed(path string, a *answer) {
	text := a.refused
	if a.err != nil {
		text = a.err.Error()
	}
	if !a.lost && strings.Contains(text, context.Canceled.Error()) && w.leads(a.node) {
		w.broken(7, "%s fails since another client has hung up: %s", path, text)
	}
}

// checkStored holds what a node says of a role against what storage holds: a change whose client has hung up is known,
// or it has not happened. Another node would tell it only later.
func (w *world) checkStored(ro *role, s roleState) {
	entry := w.disk.get("role/" + ro.name)
	var stored struct {
		Scopes  []string `json:"scopes"`
		Allowed []string `json:"allowed_scopes"`
		Regions []string `json:"bound_regions"`
	}
	_ = json.Unmarshal(entry, &stored)
	same := ro.upstream || within(s.scopes, stored.Scopes) && within(stored.Scopes, s.scopes) && within(s.allowed, stored.Allowed) && within(stored.Allowed, s.allowed) &&
		slices.Equal(s.regions, regionsOf(map[string]any{"bound_regions": stored.Regions}))
	if s.exists != (entry != nil) || s.exists && !same {
		w.broken(4, "role %s is said to be %+v, and storage holds %s", ro.name, s, entry)
	}
}

// hangUpSome has somebody ask for something, and hang up.
func (w *world) hangUpSome(r *rand.Rand) {
	does := []func(*world, *rand.Rand){
		(*world).issue, (*world).renewSome, (*world).revokeSomeLease, (*world).revokeBy, (*world).refreshSome,
		(*world).refreshSome, (*world).exchangeSome, (*world).changeRole, (*world).rotateKeys, (*world).changeConfig,
	}
	if w.upstream {
		does = append(does, (*world).issueUpstream, (*world).issueUpstream, (*world).issueUpstream, (*world).revokeSomeLease)
	}
	w.impatient(r, does[r.IntN(len(does))])
}

// hangUpAlone is hangUpSome for what is not done in a burst.
func (w *world) hangUpAlone(r *rand.Rand) {
	does := []func(*world, *rand.Rand){(*world).changeStatic, (*world).destroyKey}
	if w.upstream {
		does = append(does, (*world).changeStatic, (*world).rotateRoot, (*world).rotateRoot, (*world).changeConnection)
	}
	w.impatient(r, does[r.IntN(len(does))])
}

// impatient has the next request hung up, which is most likely that of what is done.
func (w *world) impatient(r *rand.Rand, do func(*world, *rand.Rand)) {
	h := newHangUp(r)
	w.say("the client of what comes will hang up, at %d, moment %d, after %s", h.countdown, h.moment, h.after)
	w.nextHangUp.Store(h)
	do(w, r)
	w.nextHangUp.CompareAndSwap(h, nil)
}

// unknownHold is a hold of a shared token that nobody knows of: the answer to the entity that asked was lost.
type unknownHold struct {
	subject  string
	from, to time.Time // from the request to the loss
}

// near is how long after an answer that was lost others may get the token of that answer, or before.
const near = reuse + time.Minute

// doubtShared notes of shared tokens that the engine may revoke them: an entity that may hold the token by an answer
// that was lost is disabled, and then all requesters of the token lose it. The caller holds mu.
func (w *world) doubtShared(ro *role, disabled func(entity string) bool) {
	for _, h := range ro.unknown {
		if !disabled(h.subject) {
			continue
		}
		for _, g := range w.model.grants {
			given, slack := g.ends[0].at, near+w.spread()
			if g.role == ro && g.upstream != nil && given.After(h.from.Add(-slack)) && given.Before(h.to.Add(slack)) {
				g.upstream.doubtful = true
			}
		}
	}
}
