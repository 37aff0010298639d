package detect

import (
	"sync"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// maxEnds is the maximum number of ended tokens whose first refusal is kept: about 500 kB. The states of ended tokens leave
// memory within a minute.
const maxEnds = 10_000

// ends has the ended tokens that are still shown. If the table is full, any token leaves the table.
type ends struct {
	mu   sync.Mutex
	byID map[token.ID]uint32 // when the token was first refused, in seconds since 1970
}

// first returns when a token was first refused, which is now if the table does not have the token.
func (es *ends) first(id token.ID, now uint32) uint32 {
	es.mu.Lock()
	defer es.mu.Unlock()
	if at, known := es.byID[id]; known {
		return min(at, now)
	}
	if es.byID == nil {
		es.byID = make(map[token.ID]uint32)
	}
	if len(es.byID) >= maxEnds {
		for other := range es.byID {
			delete(es.byID, other)
			break
		}
	}
	es.byID[id] = now
	return now
}

// prune drops the tokens that were first refused more than a week ago.
func (es *ends) prune(now uint32) {
	es.mu.Lock()
	defer es.mu.Unlock()
	for id, at := range es.byID {
		if since(at, now) > 7*day {
			delete(es.byID, id)
		}
	}
}
