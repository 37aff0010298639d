package role

import (
	"sync"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// recountInterval is how long a count of a role's live tokens is used. A count reads the whole inventory, so that a crash
// loop at the limit must not cause a count at each request. A free place is noticed up to this much later.
const recountInterval = time.Second

// Limits enforces the max_tokens of roles. The count comes from the inventory: tokens whose rows a crash lost are not
// counted. The zero Limits is ready for use.
type Limits struct {
	mu    sync.Mutex
	roles map[token.RoleID]*limit // also roles without max_tokens, which may get a limit while tokens are made
}

// limit is the count of one life of a role.
type limit struct {
	mu        sync.Mutex
	reserved  int       // places of tokens that are being made
	live      int       // tokens alive at countedAt, and tokens issued since: at least the number of live tokens
	countedAt time.Time // zero: never
}

// Place is room for one token below the max_tokens of its role, reserved before the token is made. The nil Place is no
// place.
type Place struct {
	limit *limit // nil once the place is filled or given up
}

// Reserve reserves a place for a token of a role. Reserve rejects the request if max_tokens are alive or being made. rows
// returns the number of the role's rows in the inventory, at least the number of live tokens; live counts the live tokens.
func (l *Limits) Reserve(r *Role, rows, live func() int, now time.Time) (*Place, error) {
	of := l.of(r.ID)
	of.mu.Lock()
	defer of.mu.Unlock()
	if r.MaxTokens > 0 && rows()+of.reserved >= r.MaxTokens {
		if age := now.Sub(of.countedAt); age < 0 || age >= recountInterval {
			of.live, of.countedAt = live(), now
		}
		if of.live+of.reserved >= r.MaxTokens {
			return nil, refusal.Field("max_tokens", "role %q has reached its limit of live tokens, which is %d: revoke those that are not needed (list tokens with role=%s), wait until one expires, or raise max_tokens",
				r.name, r.MaxTokens, r.name)
		}
	}
	of.reserved++
	return &Place{of}, nil
}

// of returns the count of a role.
func (l *Limits) of(id token.RoleID) *limit {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.roles == nil {
		l.roles = make(map[token.RoleID]*limit)
	}
	of := l.roles[id]
	if of == nil {
		of = new(limit)
		l.roles[id] = of
	}
	return of
}

// Restore calls add, which adds a token of a role to the inventory again after a crash lost the row. The token has no place:
// the next Reserve counts again.
func (l *Limits) Restore(id token.RoleID, add func()) {
	of := l.of(id)
	of.mu.Lock()
	defer of.mu.Unlock()
	add()
	of.countedAt = time.Time{}
}

// Forget drops the count of a role that was deleted.
func (l *Limits) Forget(id token.RoleID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.roles, id)
}

// Fill adds the token to the inventory by calling add. The token then counts in place of the reservation.
func (p *Place) Fill(add func()) {
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

// GiveUp frees the place, unless the place was filled.
func (p *Place) GiveUp() {
	if p == nil || p.limit == nil {
		return
	}
	p.limit.mu.Lock()
	defer p.limit.mu.Unlock()
	p.limit.reserved--
	p.limit = nil
}
