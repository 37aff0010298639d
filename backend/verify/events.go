package verify

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// The limits of what events remember. Nothing that is dropped makes a token good: see forget.
const (
	maxRevoked  = 1 << 20
	maxRoles    = 10_000
	maxSubjects = 100_000
)

// position is a place in the feed. The epochs that a verifier has seen are numbered from 1, in the order in which it saw
// them: a later position has a larger epoch, or a larger cursor in the same epoch. The zero position is before all.
type position struct {
	epoch  uint32
	cursor int64
}

func (p position) before(other position) bool {
	return p.epoch < other.epoch || p.epoch == other.epoch && p.cursor < other.cursor
}

// events is what the feed has said. An answer that is older than an event about its token is never used, however late it
// arrives: facts are held against events at each use, not when the event arrives.
type events struct {
	mu       sync.RWMutex
	name     string   // of the epoch; empty: the feed was never read
	end      position // of what was read
	begun    int64    // cursor from which the events of the epoch are known
	grants   map[token.ID]revocation
	roles    map[string]roleChange
	subjects map[string]position // of the last event about a Vault entity
	keys     position            // of the last event about a key
	lost     time.Time           // when events were lost: JWTs of before may be concerned. Zero: never

	change atomic.Uint64 // grows with each change; never zero, so that facts which were never checked are checked
	polled atomic.Int64  // nanoseconds since 1970: when the last successful poll began
}

// revocation is an event about a grant, which may also be suspended or resumed.
type revocation struct {
	at    position
	until int64 // seconds since 1970: when the tokens of the grant would have expired
}

type roleChange struct {
	at   position
	seen time.Time // no later token of the role is concerned
}

func newEvents() *events {
	e := &events{grants: make(map[token.ID]revocation), roles: make(map[string]roleChange), subjects: make(map[string]position)}
	e.change.Store(1)
	return e
}

// where returns the place up to which the feed was read, and the name of its epoch.
func (e *events) where() (epoch string, end position) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.name, e.end
}

// of returns the position of an answer; ok is false if the answer is of another epoch than the feed, or older than the
// first event that is known: an event that is not known may be about the token.
func (e *events) of(epoch string, cursor int64) (p position, ok bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return position{e.end.epoch, cursor}, epoch != "" && epoch == e.name && cursor >= e.begun
}

// concern reports whether facts may be wrong since an event. A JWT's own facts are not concerned by a new epoch: the status
// lists have what the feed may have missed.
func (e *events) concern(f *facts, skew time.Duration) bool {
	change := e.change.Load()
	if f.seen.Load() == change {
		return false
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	known := position{f.epoch, f.cursor}
	if !f.local() && (f.epoch != e.end.epoch || known.before(e.keys)) {
		return true
	}
	if f.local() && !e.lost.IsZero() && !time.Unix(0, f.learned).After(e.lost.Add(skew)) {
		return true
	}
	id, err := token.ParseID(f.grant())
	if err != nil {
		return true
	}
	if r, revoked := e.grants[id]; revoked && known.before(r.at) {
		return true
	}
	if c, changed := e.roles[f.terms.role]; changed && known.before(c.at) {
		if !f.local() || !time.Unix(0, f.learned).After(c.seen.Add(skew)) {
			return true
		}
	}
	if at, changed := e.subjects[f.subject()]; changed && known.before(at) {
		return true
	}
	f.seen.Store(change)
	return false
}

// event is an event of the path feed.
type event struct {
	Type  feed.Kind `json:"type"`
	ID    string    `json:"id"`
	Until time.Time `json:"until,omitzero"`
}

// feedAnswer is an answer of the path feed.
type feedAnswer struct {
	Epoch  string  `json:"epoch"`
	Cursor int64   `json:"cursor"`
	Events []event `json:"events"`
	More   bool    `json:"more"`
	Resync bool    `json:"resync"`
	Age    int64   `json:"age_ms,omitzero"` // of a relayed feed: milliseconds since the relay has read the feed
}

// history is how many events of before a verifier reads when it begins to read an epoch: roles may have been tightened since
// JWTs were issued. The feed may drop as many more meanwhile.
const history = feed.Capacity / 2

// apply takes an answer of the feed, asked for at a position. It reports whether events may be missing, and returns the
// names of destroyed keys. now is when the answer was there: an event is not later. If the verifier begins to read an epoch
// that has events, apply makes the answer one of an earlier place with More.
func (e *events) apply(a *feedAnswer, asked string, from position, now time.Time) (resync bool, destroyed []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.name != asked || e.end != from { // another poll was faster
		return false, nil
	}
	first := a.Cursor - int64(len(a.Events))
	switch {
	case a.Epoch != e.name:
		resync = true
		if begun := max(0, first-history); len(a.Events) == 0 && begun < a.Cursor {
			first, a.Cursor, a.More = begun, begun, true
		}
	case a.Resync: // the verifier was too far behind
		resync, e.lost = true, now
	}
	if resync {
		e.end.epoch++
		e.name, e.begun = a.Epoch, first
	}
	for i, event := range a.Events {
		at := position{e.end.epoch, first + int64(i) + 1}
		switch event.Type {
		case feed.Grant:
			if id, err := token.ParseID(strings.ToLower(event.ID)); err == nil {
				e.grants[id] = revocation{at, untilOf(event.Until, now).Unix()}
			}
		case feed.Role:
			e.roles[event.ID] = roleChange{at, now}
		case feed.Subject:
			e.subjects[event.ID] = at
		default: // a key, or what only a later engine knows: every answer may be wrong
			e.keys = at
			destroyed = append(destroyed, event.ID)
		}
	}
	e.end.cursor = a.Cursor
	if resync || len(a.Events) > 0 {
		e.forget(now)
		e.change.Add(1)
	}
	return resync, destroyed
}

// untilOf returns until when a revoked grant is remembered. An event without a time is remembered for a day: an older
// JWT is in its status list.
func untilOf(until, now time.Time) time.Time {
	if until.IsZero() {
		return now.Add(24 * time.Hour)
	}
	return until
}

// forget drops what is no longer needed. If that is not enough, all answers of before are out of date: a new epoch
// without a new name, and only Vault knows what the JWTs of before are.
func (e *events) forget(now time.Time) {
	if len(e.grants) > maxRevoked {
		for id, r := range e.grants {
			if r.until < now.Unix() {
				delete(e.grants, id)
			}
		}
	}
	if len(e.grants) > maxRevoked {
		clear(e.grants)
		e.end.epoch++
		e.begun, e.lost = e.end.cursor, now
	}
	if len(e.roles) > maxRoles || len(e.subjects) > maxSubjects {
		clear(e.roles)
		clear(e.subjects)
		e.end.epoch++
		e.begun, e.lost = e.end.cursor, now
	}
}

// revoked returns the number of remembered grants.
func (e *events) revoked() int {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return len(e.grants)
}
