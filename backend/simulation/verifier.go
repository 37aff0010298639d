package simulation

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
)

// verifier is an API server that keeps the answers of introspect, and drops them by the feed.
type verifier struct {
	mu     sync.Mutex
	epoch  string
	cursor int64
	events []string         // of the epoch since begun, as "type id"
	begun  int64            // the cursor before the first of events
	kept   map[string]*kept // by the text of the token
}

// kept is an answer that a verifier keeps: the token is active.
type kept struct {
	tok    *issued
	about  []string // what an event must be about for the answer to be dropped
	scopes []string
	region string // from which it is good; "": it needs none
}

// grants are those about whose tokens answers are kept, in order.
func (v *verifier) grants() []*grant {
	v.mu.Lock()
	defer v.mu.Unlock()
	var grants []*grant
	for _, k := range v.kept {
		grants = append(grants, k.tok.grant)
	}
	slices.SortFunc(grants, func(a, b *grant) int { return a.n - b.n })
	return grants
}

// verify has the verifier ask about a token that it has not asked about, or has dropped.
func (w *world) verify(r *rand.Rand) {
	n := w.active
	if w.standby != nil && r.IntN(2) == 0 {
		n = w.standby
	}
	w.mu.Lock()
	g := pick(r, w.model.grants)
	var tok *issued
	if g != nil && len(g.tokens) > 0 {
		tok = g.tokens[r.IntN(len(g.tokens))]
	}
	w.mu.Unlock()
	if tok == nil || g.upstream != nil {
		return
	}
	v := &w.verifier
	v.mu.Lock()
	with := map[string]any{"token": tok.text, "min_cursor": v.cursor}
	v.mu.Unlock()
	region := ""
	if len(tok.reach.sure) > 0 {
		region = tok.reach.sure[0]
		with["region"] = region
	}
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "introspect", Data: with})
	if errors.Is(a.err, logical.ErrReadOnly) && n.standby { // as Vault forwards the request
		n = w.active
		a = w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "introspect", Data: with})
	}
	if active, _ := a.data()["active"].(bool); a.ok() && active {
		v.keep(tok, region, a.data())
	}
}

// keep keeps an answer, unless an event after the answer is about the token.
func (v *verifier) keep(tok *issued, region string, d map[string]any) {
	id, _ := d["token_id"].(string)
	if grant, has := d["grant_id"].(string); has {
		id = grant
	}
	role, _ := d["role"].(string)
	scope, _ := d["scope"].(string)
	subject, _ := d["sub"].(string)
	k := &kept{tok: tok, about: []string{"grant " + id, "role " + role, "subject " + subject}, scopes: strings.Fields(scope), region: region}
	v.mu.Lock()
	defer v.mu.Unlock()
	at, _ := d["cursor"].(int64)
	if d["epoch"] != v.epoch || at < v.begun {
		return
	}
	for _, e := range v.events[min(at-v.begun, int64(len(v.events))):] {
		if k.concerns(e) {
			return
		}
	}
	v.kept[tok.text] = k
}

func (k *kept) concerns(event string) bool {
	return strings.HasPrefix(event, "key ") || slices.Contains(k.about, event)
}

// poll has the verifier read the feed, and holds what it then keeps against what is true: invariant 2.
func (w *world) poll(*rand.Rand) {
	n, v := w.active, &w.verifier
	v.mu.Lock()
	with := map[string]any{"epoch": v.epoch, "cursor": v.cursor, "limit": 1000}
	v.mu.Unlock()
	a := w.ask(n, &logical.Request{Operation: logical.ReadOperation, Path: "feed", Data: with})
	if !a.ok() {
		return
	}
	d := a.data()
	if more, _ := d["more"].(bool); more {
		w.broken(6, "the feed has more than 1000 new events")
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.epoch != with["epoch"] || v.cursor != with["cursor"] {
		return // another poll was faster
	}
	v.take(d)
	for _, k := range v.kept {
		g := k.tok.grant
		if g.revoked.seq != 0 && g.revoked.seq < a.began && n.knows(g.revoked.seq, g.revoked.by) {
			w.broken(2, "a verifier that has read the feed keeps an answer about grant %d (%s), which was revoked", g.n, g.role.name)
		}
		if w.mustBeSuspended(n, g, a.began) {
			w.broken(2, "a verifier that has read the feed keeps an answer about grant %d (%s), which was suspended", g.n, g.role.name)
		}
		if _, maybe := w.roleAlive(n, g); !maybe {
			w.broken(2, "a verifier that has read the feed keeps an answer about grant %d of the deleted role %s", g.n, g.role.name)
		}
		if allowed := w.possiblyAllowed(n, g); !within(k.scopes, allowed) {
			w.broken(1, "a verifier that has read the feed lets grant %d have %q, and its role %s allows %q", g.n, k.scopes, g.role.name, allowed)
		}
		if !w.maybeFrom(n, g, k.region) {
			w.broken(1, "a verifier that has read the feed lets grant %d be used from %q, and its role %s does not allow that", g.n, k.region, g.role.name)
		}
		if w.keyGone(k.tok.text, a) {
			w.broken(2, "a verifier that has read the feed keeps an answer about grant %d, whose key was destroyed", g.n)
		}
	}
}

// take applies an answer of the feed. The caller holds mu.
func (v *verifier) take(d map[string]any) {
	resync, _ := d["resync"].(bool)
	if resync || v.epoch == "" {
		v.kept, v.events = make(map[string]*kept), nil
		v.begun, _ = d["cursor"].(int64)
	}
	v.epoch, _ = d["epoch"].(string)
	v.cursor, _ = d["cursor"].(int64)
	events, _ := d["events"].([]any)
	for _, one := range events {
		e, _ := one.(map[string]any)
		event := e["type"].(string) + " " + e["id"].(string)
		v.events = append(v.events, event)
		for text, k := range v.kept {
			if k.concerns(event) {
				delete(v.kept, text)
			}
		}
	}
}
