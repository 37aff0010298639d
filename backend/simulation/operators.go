package simulation

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// changeRole writes a role anew, or deletes it.
func (w *world) changeRole(r *rand.Rand) {
	n := w.active
	ro := w.someRole(r)
	if ro == nil {
		return
	}
	state := ro.states.last()
	if state.exists && r.IntN(4) == 0 {
		w.deleteRole(n, ro)
		return
	}
	allowed := someScopes(r, allScopes)
	if !state.exists {
		state.life++
	}
	state.exists, state.allowed, state.scopes, state.limit = true, allowed, someScopes(r, allowed), 0
	state.regions = allRegions
	if !ro.upstream && !ro.static && r.IntN(2) == 0 {
		state.regions = someScopes(r, allRegions)
	}
	if ro.mayLimit() && r.IntN(3) == 0 {
		state.limit = 1 + r.IntN(4)
	}
	w.writeRole(n, ro, state)
}

// someRole picks a role that can be changed now; nil: the one that was picked cannot.
func (w *world) someRole(r *rand.Rand) *role {
	var names []string
	for _, k := range kinds {
		if !k.upstream || w.upstream {
			names = append(names, k.name)
		}
	}
	ro := w.model.roles[names[r.IntN(len(names))]]
	w.mu.Lock()
	defer w.mu.Unlock()
	if ro.busy || ro.unsure || ro.upstream && (w.model.connection.current() == nil || w.model.connection.unsure != nil) {
		return nil
	}
	return ro
}

func (w *world) writeRole(n *node, ro *role, s roleState) {
	if s.regions == nil {
		s.regions = allRegions
	}
	w.changed(n, ro, s, &logical.Request{Operation: logical.UpdateOperation, Path: "roles/" + ro.name, Data: ro.fields(s)})
}

func (w *world) deleteRole(n *node, ro *role) {
	s := ro.states.last()
	w.changed(n, ro, roleState{life: s.life}, &logical.Request{Operation: logical.DeleteOperation, Path: "roles/" + ro.name})
}

// changed changes a role. From the moment at which it is asked for the change may be seen.
func (w *world) changed(n *node, ro *role, s roleState, req *logical.Request) {
	w.mu.Lock()
	ro.busy = true
	ro.states = append(ro.states, moment[roleState]{mark: n.mark(), doubt: true, value: s})
	at := len(ro.states) - 1
	w.mu.Unlock()
	a := w.ask(n, req)
	w.say("%s %s at node %d, %+v: %s", req.Operation, req.Path, n.n, s, a)
	w.mu.Lock()
	defer w.mu.Unlock()
	ro.busy = false
	switch {
	case a.ok():
		ro.states = append(ro.states, moment[roleState]{mark: a.mark(), value: s})
	case a.lost || a.err != nil:
		ro.unsure = true
		if !s.exists { // some of its tokens may be revoked already
			for _, g := range w.model.grants {
				if g.role == ro {
					g.doubtful = true
				}
			}
		}
	default: // refused: nothing has changed
		ro.states = slices.Delete(ro.states, at, at+1)
	}
}

// resolve finds out what has become of changes that were not acknowledged.
func (w *world) resolve() {
	if w.active == nil || w.zombie != nil {
		return
	}
	w.resolveConnection()
	w.mu.Lock()
	var unsure []*role
	for _, k := range kinds {
		if ro := w.model.roles[k.name]; ro != nil && ro.unsure && !ro.busy {
			unsure = append(unsure, ro)
		}
	}
	w.mu.Unlock()
	for _, ro := range unsure {
		a := w.ask(w.active, &logical.Request{Operation: logical.ReadOperation, Path: "roles/" + ro.name})
		if !a.ok() {
			continue
		}
		w.mu.Lock()
		s := roleState{life: ro.states.last().life}
		if d := a.data(); d != nil {
			s.exists = true
			s.scopes, _ = d["scopes"].([]string)
			s.allowed, _ = d["allowed_scopes"].([]string)
			s.regions = regionsOf(d)
			s.limit, _ = d["max_tokens"].(int)
			if ro.upstream {
				s.scopes, s.allowed = []string{"a:read"}, allScopes
			}
		}
		w.checkStored(ro, s)
		ro.states = append(ro.states, moment[roleState]{mark: a.mark(), value: s})
		ro.unsure = false
		w.mu.Unlock()
		w.say("role %s was found to be %+v", ro.name, s)
	}
}

func (w *world) rotateKeys(*rand.Rand) {
	a := w.ask(w.active, &logical.Request{Operation: logical.UpdateOperation, Path: "keys/rotate"})
	w.say("keys/rotate at node %d: %s", w.active.n, a)
}

func (w *world) changeConfig(r *rand.Rand) {
	data := map[string]any{}
	switch r.IntN(4) {
	case 0, 1:
		data["token_prefix"] = []string{"apt", "two", "three_x"}[r.IntN(3)]
	case 2:
		data["signing_algorithm"] = []string{"ES256", "EdDSA"}[r.IntN(2)]
	case 3:
		data["key_rotation_period"] = 3600 * (1 + r.IntN(48))
	}
	a := w.ask(w.active, &logical.Request{Operation: logical.UpdateOperation, Path: "config", Data: data})
	w.say("config %v at node %d: %s", data, w.active.n, a)
}

func (w *world) changeEntity(r *rand.Rand) {
	id := entities[1+r.IntN(len(entities)-1)]
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entitiesMu.Lock()
	defer w.entitiesMu.Unlock()
	if _, off := w.disabled[id]; off {
		delete(w.disabled, id)
		w.recentlyDisabled[id] = time.Now()
		w.say("entity %s is enabled", short(id))
	} else if r.IntN(3) == 0 {
		w.disabled[id] = time.Now()
		w.say("entity %s is disabled", short(id))
		for _, g := range w.model.grants { // whose tokens the engine revokes by itself
			if g.subject == id {
				g.mayBeSwept()
			}
		}
		for _, ro := range w.model.roles {
			w.doubtShared(ro, func(entity string) bool { return entity == id })
		}
	}
}

// look reads what can be read; what the answers say is checked.
func (w *world) look(r *rand.Rand) {
	n := w.active
	if w.standby != nil && r.IntN(2) == 0 {
		n = w.standby
	}
	switch r.IntN(6) {
	case 0:
		w.checkList(n, map[string]any{"limit": 1 + r.IntN(50)})
	case 1:
		w.ask(n, &logical.Request{Operation: logical.ListOperation, Path: "keys"})
	case 2:
		w.ask(n, &logical.Request{Operation: logical.ReadOperation, Path: "oauth/jwks"})
	case 3:
		w.ask(n, &logical.Request{Operation: logical.ReadOperation, Path: "config"})
	case 4:
		if w.upstream {
			w.ask(n, &logical.Request{Operation: logical.ReadOperation, Path: "connections/service"})
		}
	case 5:
		w.mu.Lock()
		g := pick(r, w.model.grants)
		w.mu.Unlock()
		if g != nil {
			w.checkLookup(n, g)
		}
	}
}
