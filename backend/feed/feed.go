// Package feed records what has changed of tokens that verifiers may have checked before: a grant was revoked, suspended or
// resumed, a role was changed or deleted, a key was destroyed, a Vault entity was suspended or resumed. A verifier that keeps
// answers reads the feed, and asks again about what the feed names.
//
// The feed is in memory. A process has the events since its start: another process, or a process that learns of changes
// by another one, begins a new epoch. A verifier that knows another epoch asks again about every token, at the next use.
package feed

import (
	"crypto/rand"
	"sync"
	"time"
)

// Kind says what an event is about.
type Kind string

// The kinds of events.
const (
	Grant   Kind = "grant"   // a grant was revoked, suspended or resumed, or ends earlier: the ID is that of the grant
	Role    Kind = "role"    // a role was changed or deleted: the ID is the role's name
	Key     Kind = "key"     // a key was destroyed: the ID is the key's name
	Subject Kind = "subject" // a Vault entity was suspended or resumed: the ID is that of the entity
)

// Event is a change after which earlier answers about tokens may be wrong.
type Event struct {
	Kind  Kind
	ID    string
	Until time.Time // of a grant: until when its tokens would have been valid; zero: not known
}

// Members returns the event as answers show the event.
func (e Event) Members() map[string]any {
	members := map[string]any{"type": string(e.Kind), "id": e.ID}
	if !e.Until.IsZero() {
		members["until"] = e.Until.UTC().Format(time.RFC3339)
	}
	return members
}

// Position is a place in the feed: after the first Cursor events of an epoch.
type Position struct {
	Epoch  string
	Cursor uint64
}

// AddTo adds the position to the members of an answer.
func (p Position) AddTo(members map[string]any) {
	members["epoch"], members["cursor"] = p.Epoch, int64(p.Cursor) //nolint:gosec // no process counts 2^63 events
}

// Capacity is how many events the feed holds. A verifier that is further behind resyncs.
const Capacity = 1 << 17

// Feed is the feed of one process, safe for concurrent use.
type Feed struct {
	mu     sync.RWMutex
	epoch  string
	since  time.Time // when the epoch began in this process, by the clock of the process
	begun  uint64    // number of events of the epoch that happened before the feed knew the epoch
	count  uint64    // number of events of the epoch
	events []Event   // the last events since begun; event i is at i-begun modulo Capacity
}

// New returns an empty feed with an epoch of its own.
func New() *Feed { return &Feed{epoch: rand.Text(), since: time.Now()} }

// Add adds an event. The caller adds the event after the change is in memory: an answer that does not know the change has
// an earlier position.
func (f *Feed) Add(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.events) < Capacity {
		f.events = append(f.events, e)
	} else {
		f.events[(f.count-f.begun)%Capacity] = e
	}
	f.count++
}

// Restart begins a new epoch. The caller has learned of changes by another process.
func (f *Feed) Restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch, f.since, f.begun, f.count, f.events = rand.Text(), time.Now(), 0, 0, nil
}

// Follow makes the feed a copy of another feed from a position on: the caller adds the other feed's later events.
func (f *Feed) Follow(p Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch, f.since, f.begun, f.count, f.events = p.Epoch, time.Now(), p.Cursor, p.Cursor, nil
}

// Since returns when the epoch began in this process.
func (f *Feed) Since() time.Time {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.since
}

// Position returns the end of the feed. An answer has the position that was the end before the answer was made.
func (f *Feed) Position() Position {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return Position{f.epoch, f.count}
}

// After returns at most limit events after a position, the position after these events, and whether there are more. It
// returns false if the feed does not know the events after the position: the verifier then resyncs from next.
func (f *Feed) After(p Position, limit int) (events []Event, next Position, more, known bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	end := Position{f.epoch, f.count}
	if p.Epoch != f.epoch || p.Cursor < f.begun || p.Cursor > f.count || f.count-p.Cursor > Capacity {
		return nil, end, false, false
	}
	last := min(f.count, p.Cursor+uint64(limit)) //nolint:gosec // limit is positive
	for i := p.Cursor; i < last; i++ {
		events = append(events, f.events[(i-f.begun)%Capacity])
	}
	return events, Position{f.epoch, last}, last < f.count, true
}
