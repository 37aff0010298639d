package main

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	second = int64(1)
	minute = 60 * second
	hour   = 60 * minute
	day    = 24 * hour
)

// begin is a Monday, 00:00 UTC.
var begin = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC).Unix()

// world is a mount with its tokens, the API servers that see the tokens, and a clock that only events move.
type world struct {
	settings
	rand  *rand.Rand
	net   *internet
	now   int64 // in seconds since 1970
	until int64 // when the world ends
	queue queue

	usage     *insight.Usage
	detect    *detect.Detector
	storage   logical.InmemStorage
	log       bytes.Buffer
	verifiers []*verifier

	tokens   map[token.ID]*issued
	live     []*issued // candidates for attacks; some may have ended
	issues   uint64
	days     float64 // sum of the lives of all tokens after the first week
	first    float64 // and in the first week
	attacks  []*attack
	ranges   []string // of the company: for known_ranges
	findings map[string]detect.Finding
}

// issued is a token.
type issued struct {
	id      token.ID
	holder  detect.Holder
	ends    int64
	revoked bool
	at      *verifier // API server that sees the token; nil: one that introspects
	city    int       // where the holder is, for attacks nearby
	kind    string    // of the holder
	rate    float64   // uses a minute, for attacks
}

func (t *issued) alive(now int64) bool { return !t.revoked && now < t.ends }

// event is something that happens.
type event struct {
	at  int64
	seq uint64
	do  func()
}

// queue has the events to come, the next first.
type queue struct {
	events []event
	seq    uint64
}

func (q *queue) Len() int { return len(q.events) }
func (q *queue) Less(i, j int) bool {
	a, b := &q.events[i], &q.events[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}
func (q *queue) Swap(i, j int) { q.events[i], q.events[j] = q.events[j], q.events[i] }
func (q *queue) Push(x any)    { q.events = append(q.events, x.(event)) }
func (q *queue) Pop() any {
	last := q.events[len(q.events)-1]
	q.events = q.events[:len(q.events)-1]
	return last
}

// at has something happen at a time.
func (w *world) at(at int64, do func()) {
	w.queue.seq++
	heap.Push(&w.queue, event{max(at, w.now), w.queue.seq, do})
}

// in has something happen in some seconds.
func (w *world) in(seconds int64, do func()) { w.at(w.now+max(seconds, 1), do) }

// about returns a random time of a mean, exponentially distributed.
func (w *world) about(mean int64) int64 { return max(int64(w.rand.ExpFloat64()*float64(mean)), 1) }

// between returns a random number from low to high.
func (w *world) between(low, high int) int { return low + w.rand.IntN(high-low+1) }

// lasting returns a random time from low to high, of which short ones are as likely as long ones on a logarithmic scale.
func (w *world) lasting(low, high int64) int64 {
	l, h := math.Log(float64(low)), math.Log(float64(high))
	return int64(math.Exp(l + w.rand.Float64()*(h-l)))
}

// chance reports true with a probability.
func (w *world) chance(p float64) bool { return w.rand.Float64() < p }

// poisson returns a random number of events of a mean.
func (w *world) poisson(mean float64) int {
	if mean > 50 {
		return max(int(mean+math.Sqrt(mean)*w.rand.NormFloat64()+0.5), 0)
	}
	n, p := 0, math.Exp(-mean)
	for x := w.rand.Float64(); x > p; x *= w.rand.Float64() {
		n++
	}
	return n
}

// localHour returns the hour of the day in a city, by the sun.
func (w *world) localHour(city int) float64 {
	return math.Mod(float64((w.now-begin)%day)/float64(hour)+cities[city].lon/15+24, 24)
}

// weekend reports whether it is Saturday or Sunday.
func (w *world) weekend() bool { return (w.now-begin)/day%7 >= 5 }

func newWorld(s settings) *world {
	r := rand.New(rand.NewPCG(s.seed, 1))
	w := &world{
		settings: s, rand: r, net: newInternet(r), now: begin - 150*day, until: begin + int64(s.weeks)*7*day,
		tokens: make(map[token.ID]*issued), findings: make(map[string]detect.Finding),
	}
	now := func() time.Time { return time.Unix(w.now, 0) }
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: &w.log})
	w.detect = detect.New(detect.Config{
		Storage: &w.storage, Now: now, Log: func() hclog.Logger { return log }, Place: w.net.place, Holder: w.holder, Respond: nobody{},
	})
	w.usage = insight.New(insight.Config{
		Storage: &w.storage, Now: now, Log: func() hclog.Logger { return log }, Writer: "traffic", Detect: w.detect, End: w.end,
	})
	for i := range 12 {
		w.verifiers = append(w.verifiers, w.newVerifier(i))
	}
	return w
}

// nobody responds to findings: the modes of the rules are on.
type nobody struct{}

func (nobody) Suspend(context.Context, token.ID, string) error { return nil }
func (nobody) Revoke(context.Context, token.ID) error          { return nil }

func (w *world) holder(id token.ID) (detect.Holder, bool) {
	if t := w.tokens[id]; t != nil {
		return t.holder, true
	}
	return detect.Holder{}, false
}

func (w *world) end(id token.ID) (time.Time, bool) {
	if t := w.tokens[id]; t != nil {
		return time.Unix(t.ends, 0), true
	}
	return time.Time{}, false
}

// issue issues a token to a client of a kind in a city.
func (w *world) issue(kind, subject string, life int64, city int, at *verifier) *issued {
	w.issues++
	var id token.ID
	binary.BigEndian.PutUint64(id[:], w.issues*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint32(id[8:], uint32(w.issues)*0x85ebca6b)
	t := &issued{
		id: id, holder: detect.Holder{Role: kind, Subject: subject, IssuedAt: time.Unix(w.now, 0)}, ends: w.now + life, at: at,
		city: city, kind: kind,
	}
	w.tokens[id] = t
	w.live = append(w.live, t)
	w.days += w.lives(t, begin+learning, w.until)
	w.first += w.lives(t, begin, begin+learning)
	return t
}

// learning is the time in which the rules learn what is usual. What they find meanwhile counts apart.
const learning = 7 * day

// lives returns how many days of a period a token may live.
func (w *world) lives(t *issued, from, until int64) float64 {
	return float64(max(min(t.ends, until)-max(w.now, from), 0)) / float64(day)
}

// use has a token used from an address. The API server refuses a token that has ended.
func (w *world) use(t *issued, n int, from netip.Addr) {
	switch {
	case n <= 0:
		return
	case t.revoked:
		w.refuse(t, access.Revoked, n, from)
		return
	case w.now >= t.ends:
		w.refuse(t, access.Expired, n, from)
		return
	case t.at != nil:
		t.at.used(t.id, n, from)
		return
	}
	end := time.Unix(t.ends, 0)
	for range n {
		w.usage.Introspected(t.id, end, end, &access.Use{ClientIP: from}, access.Good)
	}
}

// refuse has a token refused that came from an address.
func (w *world) refuse(t *issued, reason access.Reason, n int, from netip.Addr) {
	if t.at != nil {
		t.at.refused(t.id, reason, n)
		return
	}
	end := time.Unix(t.ends, 0)
	for range n {
		w.usage.Introspected(t.id, end, end, &access.Use{ClientIP: from}, reason)
	}
}

// run lets everything happen.
func (w *world) run() error {
	for len(w.queue.events) > 0 && w.queue.events[0].at < w.until+12*hour {
		next := heap.Pop(&w.queue).(event)
		w.now = next.at
		next.do()
	}
	w.harvest()
	if bytes.Contains(w.log.Bytes(), []byte("left out")) {
		return fmt.Errorf("the detector had no room for some findings: simulate fewer tokens")
	}
	return nil
}

// daily does what the engine does in the background, and what an operator does: reads and acknowledges the findings.
func (w *world) daily() {
	w.harvest()
	w.detect.Prune(time.Unix(w.now, 0))
	w.usage.Prune(time.Unix(w.now, 0), func(token.ID, time.Time) bool { return true })
	kept := w.live[:0]
	for _, t := range w.live {
		if w.now <= t.ends+2*day {
			kept = append(kept, t)
		} else {
			delete(w.tokens, t.id)
		}
	}
	w.live = kept
	w.in(day, w.daily)
}

// harvest notes the findings so far.
func (w *world) harvest() {
	list, _, _ := w.detect.List(&detect.Filter{}, "", math.MaxInt)
	for i := range list {
		f := list[i]
		if f.State == detect.Open {
			if err := w.detect.Acknowledge(context.Background(), &w.storage, f.ID, "seen", "operator"); err != nil {
				panic(err) // the finding was listed a moment ago
			}
		}
		if known, is := w.findings[f.ID]; is { // dropped and found again
			f.First = known.First
		}
		w.findings[f.ID] = f
	}
}
