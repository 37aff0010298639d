package upstream

import (
	"cmp"
	"slices"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// ages is longer than the difference between any two clocks.
const ages = 100 * 365 * 24 * time.Hour

// byWall compares times by the wall clock. Times read from storage have no monotonic reading. A schedule that mixed both
// would have two orders once the clock was set.
func byWall(a, b time.Time) int { return a.Round(0).Compare(b.Round(0)) }

func earlier(a, b dueItem) bool {
	if c := byWall(a.at, b.at); c != 0 {
		return c < 0
	}
	return a.id.Compare(b.id) < 0
}

// due returns when the queue must process a token for the first time.
func (t *Token) due(hs *holds, grace time.Duration) time.Time {
	switch {
	case t.State != Live:
		return t.since().Add(-ages) // at once, even if a process with a fast clock stored the token; oldest first
	case t.StaticRole != "":
		return t.CreatedAt.Add(grace) // its static role may not have been stored
	case t.Leaseless:
		return t.EndsAt
	case t.Shared:
		if last, held := hs.last(); held {
			return last.Add(grace)
		}
		return t.LiveSince.Add(grace)
	}
	return t.EndsAt.Add(grace)
}

// dueAt returns due with the token's current holds.
func (ts *Tokens) dueAt(t *Token) time.Time {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return t.due(ts.holds[t.ID], ts.timings.Grace)
}

// schedule sets when the queue processes a token. The zero time means never. The caller holds mu.
func (ts *Tokens) schedule(id token.ID, i *item, at time.Time) {
	l := ts.connections[i.ConnectionID]
	if !i.at.IsZero() {
		l.due.Delete(dueItem{i.at, id})
	}
	i.at = at
	if _, busy := ts.busy[id]; busy {
		i.at = time.Time{}
	}
	if !i.at.IsZero() {
		l.due.Set(dueItem{i.at, id})
	}
}

// claim reserves a token for the caller until release or rest. It returns false if the token is already claimed.
func (ts *Tokens) claim(id token.ID) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if _, busy := ts.busy[id]; busy {
		return false
	}
	ts.busy[id] = false
	if i := ts.all[id]; i != nil {
		ts.schedule(id, i, time.Time{})
	}
	return true
}

// claimNew claims a token that is about to be created. Such a token does not count as waiting in the queue.
func (ts *Tokens) claimNew(id token.ID) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.busy[id] = true
}

// release ends a claim.
func (ts *Tokens) release(id token.ID) {
	ts.mu.Lock()
	delete(ts.busy, id)
	i := ts.all[id]
	var at time.Time
	if i != nil {
		ts.schedule(id, i, i.due(ts.holds[id], ts.timings.Grace))
		at = i.at
	}
	ts.mu.Unlock()
	if !at.IsZero() {
		ts.soon(at)
	}
}

// rest ends a claim and postpones the token until a time. Describe shows note as the reason.
func (ts *Tokens) rest(id token.ID, until time.Time, note error) {
	ts.mu.Lock()
	delete(ts.busy, id)
	if i := ts.all[id]; i != nil {
		i.tries++
		i.note = note
		ts.schedule(id, i, until)
	}
	ts.mu.Unlock()
	ts.soon(until)
}

// tries returns how many tries of the queue have failed for a token.
func (ts *Tokens) tries(id token.ID) int {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	if i := ts.all[id]; i != nil {
		return i.tries
	}
	return 0
}

// searchedSince returns when this process first searched for a token whose creation was interrupted. The first call
// returns now.
func (ts *Tokens) searchedSince(id token.ID, now time.Time) time.Time {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	i := ts.all[id]
	if i == nil {
		return now
	}
	if i.searched.IsZero() {
		i.searched = now
	}
	return i.searched
}

// wakeAll makes all resting tokens of a connection due now.
func (ts *Tokens) wakeAll(connectionID string) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	l := ts.connections[connectionID]
	if l == nil {
		return
	}
	for id, i := range l.queue {
		i.tries = 0
		ts.schedule(id, i, i.due(nil, ts.timings.Grace))
	}
}

// next returns when the next token of a connection is due. It returns false if none is scheduled.
func (ts *Tokens) next(connectionID string) (time.Time, bool) {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	if l := ts.connections[connectionID]; l != nil {
		if first, found := l.due.Min(); found {
			return first.at, true
		}
	}
	return time.Time{}, false
}

// dueNow returns up to most due tokens of a connection, earliest first.
func (ts *Tokens) dueNow(connectionID string, now time.Time, most int) []Token {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	l := ts.connections[connectionID]
	if l == nil {
		return nil
	}
	var tokens []Token
	l.due.Scan(func(d dueItem) bool {
		if d.at.After(now) || len(tokens) == most {
			return false
		}
		tokens = append(tokens, *ts.all[d.id].Token)
		return true
	})
	return tokens
}

// waiting summarizes the tokens of a connection that are not revoked yet.
type waiting struct {
	count       int
	oldest      time.Time
	unrevocable int       // tokens that the service cannot revoke
	until       time.Time // when the last unrevocable token expires
	note        error     // error of the last try of one of the other tokens
}

// waiting returns a summary of a connection's queue. The cost grows with the queue, not with the number of tokens.
func (ts *Tokens) waiting(connectionID string, now time.Time) (w waiting) {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	l := ts.connections[connectionID]
	if l == nil {
		return w
	}
	var queued []*item
	for id, i := range l.queue {
		if i.State == Ending || !ts.busy[id] {
			queued = append(queued, i)
		}
	}
	l.due.Scan(func(d dueItem) bool {
		if i := ts.all[d.id]; !d.at.After(now) && i.State == Live && i.StaticRole == "" {
			queued = append(queued, i)
		}
		return !d.at.After(now)
	})
	if w.count = len(queued); w.count == 0 {
		return w
	}
	w.oldest = slices.MinFunc(queued, func(a, b *item) int { return cmp.Or(a.since().Compare(b.since()), a.ID.Compare(b.ID)) }).since()
	for _, i := range queued {
		if isUnrevocable(i.note) {
			w.unrevocable++
			if end := i.expires(); end.After(w.until) {
				w.until = end
			}
		} else if i.note != nil && w.note == nil {
			w.note = i.note
		}
	}
	return w
}
