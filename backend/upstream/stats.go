package upstream

import "time"

// QueueStats are numbers of the queue of a connection.
type QueueStats struct {
	Connection  string
	Waiting     int       // tokens to be revoked
	Unrevocable int       // of these, tokens that the service cannot revoke
	Oldest      time.Time // since when the oldest of them waits; zero: none waits
	Failing     bool      // the last revocation at the service failed
	Unsettled   bool      // a rotation of the credential is not complete
}

// Stats returns the numbers of the queues, in the order of the connections' names. The cost grows with the queues, not with
// the number of tokens.
func (k *Keeper) Stats() []QueueStats {
	now := k.now()
	var all []QueueStats
	for _, c := range k.Connections.All() {
		w := k.Tokens.waiting(c.ID, now)
		s := QueueStats{
			Connection: c.Name(), Waiting: w.count, Unrevocable: w.unrevocable, Oldest: w.oldest, Unsettled: c.unsettled(),
		}
		k.queue.mu.Lock()
		if l := k.queue.lines[c.ID]; l != nil {
			s.Failing = l.failures > 0
		}
		k.queue.mu.Unlock()
		all = append(all, s)
	}
	return all
}

// Len returns the number of tokens.
func (ts *Tokens) Len() int {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return len(ts.all)
}
