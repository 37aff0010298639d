package upstream

import (
	"cmp"
	"slices"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// ages is a time that no clock is ahead by.
const ages = 100 * 365 * 24 * time.Hour

// byWall compares times by the wall clock. A schedule must not be in two orders: times that were read from storage
// have no monotonic reading, which tells otherwise once the clock was set.
func byWall(a, b time.Time) int { return a.Round(0).Compare(b.Round(0)) }

func earlier(a, b dueItem) bool {
	if c := byWall(a.at, b.at); c != 0 {
		return c < 0
	}
	return a.id.Compare(b.id) < 0
}

// due returns when the queue is to process a token for the first time.
func (t *Token) due(hs *holds, grace time.Duration) time.Time {
	switch {
	case t.State != Live:
		return t.since().Add(-ages) // now, whatever the clock of a process said that stored it; the oldest first
	case t.StaticRole != "":
		return t.CreatedAt.Add(grace) // the token is stored, and perhaps its static role was not
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

// dueAt is due with the holds of now.
func (ts *Tokens) dueAt(t *Token) time.Time {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return t.due(ts.holds[t.ID], ts.timings.Grace)
}

// schedule has the queue process a token at a time; never if the time is zero. The caller holds mu.
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

// claim keeps the queue, and others who claim it, from a token until release. It reports whether nobody else has
// claimed the token.
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

// claimNew claims a token that is about to be created. While it is created it does not wait in the queue.
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

// rest ends a claim: the queue leaves the token alone until a time, for a reason that Describe shows.
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

// tries is how often the queue has tried a token in vain.
func (ts *Tokens) tries(id token.ID) int {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	if i := ts.all[id]; i != nil {
		return i.tries
	}
	return 0
}

// searchedSince returns when this process first searched for a token whose creation was cut short; now if it never has.
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

// wakeAll has the queue process all resting tokens of a connection now.
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

// next is when something is due at a connection; false: never.
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

// dueNow returns what is due at a connection, the first first, at most so many.
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

// waiting is what is known of the tokens that are to be revoked yet.
type waiting struct {
	count       int
	oldest      time.Time
	unrevocable int       // that the service cannot revoke
	until       time.Time // when the last of those ends
	note        error     // what the last try of the oldest came to
}

// waiting describes the queue of a connection. It reads what is in the queue, not all tokens.
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
