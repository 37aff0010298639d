package alert

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
)

const (
	// MaxQueue is the maximum number of notices that wait for a delivery: about 6 MB.
	MaxQueue = 1000

	// KeepFor is how long a notice waits for a delivery: three days, as in the example of Standard Webhooks.
	KeepFor = 72 * time.Hour
)

// message is a notice that waits, as stored.
type message struct {
	Notice detect.Notice `json:"notice"`
	Queued time.Time     `json:"queued_at"`
	Alerts []string      `json:"alerts"` // IDs of the alerts that have not delivered the notice
}

// waiting is a message in memory. The message does not change but for Alerts, which tries stands for.
type waiting struct {
	message
	tries map[string]*attempt // by the ID of the alert that has not delivered
	stale bool                // storage still has alerts that have delivered
}

// attempt counts failures in a row, and has the time of the next try. The zero attempt: no failure, try now.
type attempt struct {
	failures int
	next     time.Time
}

// line is the state of an alert in this process.
type line struct {
	attempt
	running     bool
	lastError   string
	lastErrorAt time.Time
	lastSuccess time.Time
	dropped     int // notices that the queue gave up
}

// queue has the notices that wait. writing is locked before mu.
type queue struct {
	store.Damage // of stored messages
	loaded       atomic.Bool
	writing      sync.Mutex // held while the queue in storage changes or is read, and memory follows

	mu      sync.Mutex
	byID    map[string]*waiting // by the ID of the notice
	lines   map[string]*line    // by the ID of the alert
	synced  time.Time           // when the queue was last listed
	paused  time.Time           // storage failed: nothing is sent before
	dropped int                 // of all alerts, those that are gone too
}

// line returns the state of an alert. The caller holds mu.
func (q *queue) line(id string) *line {
	l := q.lines[id]
	if l == nil {
		l = new(line)
		q.lines[id] = l
	}
	return l
}

var errNotLoaded = errors.New("the alerts were not read from storage yet")

// Notify stores a notice for the alerts that want the notice. After a failure the caller tries again with the same notice.
func (as *Alerts) Notify(ctx context.Context, n *detect.Notice) error {
	q := &as.queue
	if !q.loaded.Load() {
		return errNotLoaded
	}
	m := &waiting{message: message{Notice: *n, Queued: as.Now().UTC().Round(0)}, tries: make(map[string]*attempt)}
	for _, a := range as.Entries.All() {
		if a.wants(n) {
			m.tries[a.ID] = new(attempt)
		}
	}
	if len(m.tries) == 0 {
		return nil
	}
	q.writing.Lock()
	defer q.writing.Unlock()
	q.mu.Lock()
	queued := q.byID[n.ID] != nil // by a write that failed, and was done
	q.mu.Unlock()
	if queued {
		return nil
	}
	if err := as.makeRoom(ctx); err != nil {
		return err
	}
	if err := as.store(ctx, m); err != nil {
		return err
	}
	as.Wake()
	return nil
}

// makeRoom drops the oldest notice if the queue is full. The caller holds writing.
func (as *Alerts) makeRoom(ctx context.Context) error {
	q := &as.queue
	for {
		q.mu.Lock()
		var oldest *waiting
		for _, m := range q.byID {
			if oldest == nil || older(m, oldest) < 0 {
				oldest = m
			}
		}
		full := len(q.byID) >= MaxQueue
		q.mu.Unlock()
		if !full {
			return nil
		}
		if err := as.Storage.Delete(ctx, queuePrefix+oldest.Notice.ID); err != nil {
			return err
		}
		as.drop(oldest, "queue of alerts is full; oldest notice dropped")
		q.mu.Lock()
		delete(q.byID, oldest.Notice.ID)
		q.mu.Unlock()
	}
}

// drop counts a notice that no alert of the message delivers any more.
func (as *Alerts) drop(m *waiting, event string, ids ...string) {
	q := &as.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(ids) == 0 {
		ids = m.left()
	}
	for _, id := range ids {
		if _, waits := m.tries[id]; !waits {
			continue
		}
		delete(m.tries, id)
		m.stale = true
		q.line(id).dropped++
		q.dropped++
		if a := as.Entries.ByID(id); a != nil {
			as.Log().Error(event, "alert", a.name, "notice", m.Notice.ID, "finding", m.Notice.Finding.ID, "queued_at",
				m.Queued.Format(time.RFC3339))
		}
	}
}

// left returns the IDs of the alerts that have not delivered, sorted. The caller holds mu.
func (m *waiting) left() []string {
	ids := make([]string, 0, len(m.tries))
	for id := range m.tries {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// store brings storage up to date with a message, and memory with storage. The caller holds writing.
func (as *Alerts) store(ctx context.Context, m *waiting) error {
	q := &as.queue
	q.mu.Lock()
	stored := m.message
	stored.Alerts = m.left()
	q.mu.Unlock()
	key := queuePrefix + m.Notice.ID
	if len(stored.Alerts) == 0 {
		if err := as.Storage.Delete(ctx, key); err != nil {
			return err
		}
	} else {
		entry, err := logical.StorageEntryJSON(key, stored)
		if err != nil {
			return err
		}
		if err := as.Storage.Put(ctx, entry); err != nil {
			return err
		}
	}
	q.NoteDamage(key, nil)
	q.mu.Lock()
	defer q.mu.Unlock()
	m.stale = len(m.tries) != len(stored.Alerts)
	if len(m.tries) == 0 {
		delete(q.byID, m.Notice.ID)
	} else {
		q.byID[m.Notice.ID] = m
	}
	return nil
}

// loadQueue brings memory up to date with the stored queue.
func (as *Alerts) loadQueue(ctx context.Context, s logical.Storage) error {
	q := &as.queue
	q.writing.Lock()
	defer q.writing.Unlock()
	ids, err := s.List(ctx, queuePrefix)
	if err != nil {
		return err
	}
	q.mu.Lock()
	for id := range q.byID {
		if !slices.Contains(ids, id) {
			ids = append(ids, id) // deleted by another process
		}
	}
	q.mu.Unlock()
	return store.Each(ctx, ids, func(ctx context.Context, id string) error { return as.read(ctx, s, id) })
}

var idForm = regexp.MustCompile(`^[0-9a-f]{24}$`)

// read brings memory up to date with a stored message. The caller holds writing.
func (as *Alerts) read(ctx context.Context, s logical.Storage, id string) error {
	key := queuePrefix + id
	entry, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	var stored message
	if entry != nil {
		err = json.Unmarshal(entry.Value, &stored)
		if err == nil && (stored.Notice.ID != id || !idForm.MatchString(id)) {
			err = errors.New("the notice is not one that this engine writes")
		}
	}
	as.queue.NoteDamage(key, err)
	if err != nil {
		return nil
	}
	q := &as.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.byID[id]
	switch {
	case entry == nil:
		delete(q.byID, id)
	case m == nil:
		m = &waiting{message: stored, tries: make(map[string]*attempt)}
		for _, alert := range stored.Alerts {
			m.tries[alert] = new(attempt)
		}
		q.byID[id] = m
	default: // another process may have delivered the notice
		for alert := range m.tries {
			if !slices.Contains(stored.Alerts, alert) {
				delete(m.tries, alert)
			}
		}
	}
	return nil
}
