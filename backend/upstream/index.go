package upstream

import (
	"iter"
	"maps"
	"time"

	"github.com/tidwall/btree"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// show puts a stored token into memory, or removes a forgotten one if t is nil. The caller has locked the token.
func (ts *Tokens) show(id token.ID, t *Token) {
	ts.damaged.NoteDamage(Prefix+id.String(), nil)
	ts.mu.Lock()
	old := ts.all[id]
	was, is := old != nil && old.State == Live, t != nil && t.State == Live
	if was && !is {
		ts.countSubjects(id, old, -1)
	}
	if old != nil {
		ts.unlink(id, old)
	}
	if t == nil {
		ts.mu.Unlock()
		return
	}
	i := &item{Token: t}
	if is && !was {
		ts.countSubjects(id, i, 1)
	}
	if old != nil && old.State == t.State {
		i.tries, i.note, i.searched = old.tries, old.note, old.searched
	}
	ts.link(id, i)
	at := i.at
	ts.mu.Unlock()
	if !at.IsZero() {
		ts.soon(at)
	}
}

// link adds a token to the indexes.
func (ts *Tokens) link(id token.ID, i *item) {
	ts.all[id] = i
	if i.Hash != "" {
		ts.hashes[i.Hash] = i
	}
	l := ts.connections[i.ConnectionID]
	if l == nil {
		l = &line{
			all: make(map[token.ID]*item), count: make(map[State]int), queue: make(map[token.ID]*item),
			due: btree.NewBTreeGOptions(earlier, btree.Options{NoLocks: true}),
		}
		ts.connections[i.ConnectionID] = l
	}
	l.all[id] = i
	l.count[i.State]++
	if i.State != Live {
		l.queue[id] = i
	}
	if ts.roles[i.RoleID] == nil {
		ts.roles[i.RoleID] = make(map[token.ID]*item)
	}
	ts.roles[i.RoleID][id] = i
	if i.State == Live && i.Shared {
		key := shareKey(i.RoleID, i.ConnectionID, i.Params)
		if newest := ts.shared[key]; newest == nil || !i.CreatedAt.Before(newest.CreatedAt) {
			ts.shared[key] = i
		}
	}
	ts.schedule(id, i, i.due(ts.holds[id], ts.timings.Grace))
}

// unlink removes a token from the indexes.
func (ts *Tokens) unlink(id token.ID, i *item) {
	ts.schedule(id, i, time.Time{})
	delete(ts.all, id)
	if ts.hashes[i.Hash] == i {
		delete(ts.hashes, i.Hash)
	}
	l := ts.connections[i.ConnectionID]
	delete(l.all, id)
	delete(l.queue, id)
	l.count[i.State]--
	if len(l.all) == 0 {
		delete(ts.connections, i.ConnectionID)
	}
	delete(ts.roles[i.RoleID], id)
	if len(ts.roles[i.RoleID]) == 0 {
		delete(ts.roles, i.RoleID)
	}
	if i.State == Live && i.Shared {
		// An older token is not shared again: the next requester gets a new token.
		if key := shareKey(i.RoleID, i.ConnectionID, i.Params); ts.shared[key] == i {
			delete(ts.shared, key)
		}
	}
}

// countSubjects adds by to the count of a Live token for every entity that has the token.
func (ts *Tokens) countSubjects(id token.ID, i *item, by int) {
	ts.countSubject(i.Subject, id, by)
	if hs := ts.holds[id]; hs != nil {
		for _, h := range hs.all {
			ts.countSubject(h.Subject, id, by)
		}
	}
}

// countSubject adds by to the count of a token for an entity.
func (ts *Tokens) countSubject(entity string, id token.ID, by int) {
	if entity == "" {
		return
	}
	of := ts.subjects[entity]
	if of == nil {
		of = make(map[token.ID]int)
		ts.subjects[entity] = of
	}
	if of[id] += by; of[id] <= 0 {
		delete(of, id)
	}
	if len(of) == 0 {
		delete(ts.subjects, entity)
	}
}

// OfConnection returns the tokens of a connection, in no order.
func (ts *Tokens) OfConnection(id string) []Token {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	if l := ts.connections[id]; l != nil {
		return copies(maps.Values(l.all), func(*Token) bool { return true })
	}
	return nil
}

// Count returns how many tokens of a connection are in a state.
func (ts *Tokens) Count(connectionID string, state State) int {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	if l := ts.connections[connectionID]; l != nil {
		return l.count[state]
	}
	return 0
}

// OfRole returns the tokens of a role that are Live, in no order.
func (ts *Tokens) OfRole(id token.RoleID) []Token {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return copies(maps.Values(ts.roles[id]), func(t *Token) bool { return t.State == Live })
}

// OfSubject returns the IDs of an entity's Live tokens, shared tokens included.
func (ts *Tokens) OfSubject(entity string) []token.ID {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	ids := make([]token.ID, 0, len(ts.subjects[entity]))
	for id := range ts.subjects[entity] {
		ids = append(ids, id)
	}
	return ids
}

// Subjects returns the entities that have Live tokens.
func (ts *Tokens) Subjects() []string {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	entities := make([]string, 0, len(ts.subjects))
	for entity := range ts.subjects {
		entities = append(entities, entity)
	}
	return entities
}

// Where returns the tokens for which keep is true. Where visits all tokens.
func (ts *Tokens) Where(keep func(*Token) bool) []Token {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return copies(maps.Values(ts.all), keep)
}

func copies(items iter.Seq[*item], keep func(*Token) bool) []Token {
	var tokens []Token
	for i := range items {
		if keep(i.Token) {
			tokens = append(tokens, *i.Token)
		}
	}
	return tokens
}
