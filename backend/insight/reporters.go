package insight

import (
	"sync"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

const (
	// maxReporters is the maximum number of reporters whose sequences are remembered.
	maxReporters = 1000

	// liveFor is how long a reporter counts as live after a report.
	liveFor = 5 * time.Minute

	// rememberFor is how long the sequence of a reporter is remembered after a report. A later retry counts twice.
	rememberFor = 24 * time.Hour
)

// reporters remembers the last batch of each reporter, so that a batch counts once.
type reporters struct {
	mu   sync.Mutex
	last map[string]lastReport
}

type lastReport struct {
	sequence uint64
	at       time.Time
}

// begin notes a batch, and reports whether the reporter has sent the batch or a later one before. The caller counts a
// batch only after begin has noted it: a stored count must not exist without its sequence.
func (rs *reporters) begin(reporter string, sequence uint64, now time.Time) (duplicate bool, _ error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	last, known := rs.last[reporter]
	if !known && len(rs.last) >= maxReporters && !rs.makeRoom(now) {
		return false, refusal.Field("reporter", "%d reporters have reported within %s, and more are not allowed",
			maxReporters, refusal.Short(liveFor))
	}
	if rs.last == nil {
		rs.last = make(map[string]lastReport)
	}
	duplicate = known && sequence <= last.sequence
	rs.last[reporter] = lastReport{max(sequence, last.sequence), now}
	return duplicate, nil
}

// makeRoom forgets the reporter that has been silent for longest, and reports whether one was silent.
func (rs *reporters) makeRoom(now time.Time) bool {
	oldest, at := "", now.Add(-liveFor)
	for name, last := range rs.last {
		if last.at.Before(at) {
			oldest, at = name, last.at
		}
	}
	delete(rs.last, oldest)
	return oldest != ""
}

// live returns the number of reporters that have reported lately.
func (rs *reporters) live(now time.Time) int {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	n := 0
	for _, last := range rs.last {
		if now.Sub(last.at) <= liveFor {
			n++
		}
	}
	return n
}

// Reporters returns the number of reporters that have reported lately.
func (u *Usage) Reporters() int { return u.reporters.live(u.Now()) }

func (rs *reporters) prune(now time.Time) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for name, last := range rs.last {
		if now.Sub(last.at) > rememberFor {
			delete(rs.last, name)
		}
	}
}

// stored returns the stored form.
func (rs *reporters) stored() []storedReporter {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	list := make([]storedReporter, 0, len(rs.last))
	for name, last := range rs.last {
		list = append(list, storedReporter{Name: name, Sequence: last.sequence, At: last.at.Unix()})
	}
	return list
}

// merge adds what another process has stored.
func (rs *reporters) merge(list []storedReporter) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, r := range list {
		last, known := rs.last[r.Name]
		if !known && len(rs.last) >= 2*maxReporters { // of several processes
			continue
		}
		if rs.last == nil {
			rs.last = make(map[string]lastReport)
		}
		if at := time.Unix(r.At, 0); at.After(last.at) {
			last.at = at
		}
		last.sequence = max(last.sequence, r.Sequence)
		rs.last[r.Name] = last
	}
}
