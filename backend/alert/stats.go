package alert

import "time"

// Stats are numbers about the queue of notices.
type Stats struct {
	Waiting int       // notices that an alert has not delivered
	Oldest  time.Time // when the oldest of them was queued; zero if none waits
	Dropped int       // notices that the queue gave up since the start of the process, once for each alert
}

// Stats returns the numbers, as this process knows the queue.
func (as *Alerts) Stats() Stats {
	q := &as.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Stats{Dropped: q.dropped}
	for _, m := range q.byID {
		if len(m.tries) == 0 { // delivered, and storage follows
			continue
		}
		if s.Waiting++; s.Oldest.IsZero() || m.Queued.Before(s.Oldest) {
			s.Oldest = m.Queued
		}
	}
	return s
}
