package backend

import (
	"fmt"
	"sync"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// recountInterval is how long a count of a role's live tokens is used. A count looks at the whole inventory, so that a
// crash loop at the limit must not cause one at each request; a place that becomes free is seen this much later.
const recountInterval = time.Second

// limits holds roles to their max_tokens. The count comes from the inventory, which is all that is remembered of who
// got a token: what a crash loses of the inventory is not counted.
type limits struct {
	mu    sync.Mutex
	roles map[token.RoleID]*limit // only of roles with max_tokens
}

// limit is the count of one life of a role.
type limit struct {
	mu        sync.Mutex
	reserved  int       // places of tokens that are being made
	live      int       // tokens alive at countedAt, and those issued since: never fewer than are alive now
	countedAt time.Time // zero: never
}

// place is room for one token below the max_tokens of its role, reserved before the token is made. The nil place is
// one of a role without a limit.
type place struct {
	limit *limit // nil once the place is used or given up
}

// reserve takes a place for a token of a role, and refuses where max_tokens are alive or being made.
func (l *limits) reserve(st *state, r *role.Role, now time.Time) (*place, error) {
	if r.MaxTokens == 0 {
		return nil, nil
	}
	l.mu.Lock()
	if l.roles == nil {
		l.roles = make(map[token.RoleID]*limit)
	}
	of := l.roles[r.ID]
	if of == nil {
		of = new(limit)
		l.roles[r.ID] = of
	}
	l.mu.Unlock()

	of.mu.Lock()
	defer of.mu.Unlock()
	// The rows of a role are at least as many as its live tokens, and are counted already.
	if st.inventory.Count(r.ID)+of.reserved >= r.MaxTokens {
		if age := now.Sub(of.countedAt); age < 0 || age >= recountInterval {
			of.live, of.countedAt = st.liveTokens(r, now), now
		}
		if of.live+of.reserved >= r.MaxTokens {
			return nil, &fullError{r.Name(), r.MaxTokens}
		}
	}
	of.reserved++
	return &place{of}, nil
}

// fullError says that a role has as many live tokens as it may have.
type fullError struct {
	role      string
	maxTokens int
}

func (e *fullError) Error() string {
	return fmt.Sprintf("max_tokens: role %q has reached its limit of live tokens, which is %d: revoke those that are not needed (list tokens with role=%s), wait until one expires, or raise max_tokens",
		e.role, e.maxTokens, e.role)
}

// forget drops the count of a role that was deleted.
func (l *limits) forget(id token.RoleID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.roles, id)
}

// fill puts the token into the inventory by add, and counts it there in place of the reservation.
func (p *place) fill(add func()) {
	if p == nil || p.limit == nil {
		add()
		return
	}
	p.limit.mu.Lock()
	defer p.limit.mu.Unlock()
	add()
	p.limit.reserved--
	p.limit.live++
	p.limit = nil
}

// giveUp frees the place, unless it was filled.
func (p *place) giveUp() {
	if p == nil || p.limit == nil {
		return
	}
	p.limit.mu.Lock()
	defer p.limit.mu.Unlock()
	p.limit.reserved--
	p.limit = nil
}

// liveTokens counts the live tokens of a role, except those that static roles keep.
func (st *state) liveTokens(r *role.Role, now time.Time) int {
	kept := make(map[token.ID]bool)
	for _, e := range st.statics.All() {
		for _, t := range e.Tokens() {
			kept[t.ID] = true
		}
	}
	live := 0
	destroyed := st.destroyedKeys()
	for row := range st.inventory.OfRole(r.ID) {
		if !kept[row.ID] && st.rowLife(&row, destroyed).Alive(now) == access.Good {
			live++
		}
	}
	return live
}
