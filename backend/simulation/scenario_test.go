package simulation

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// TestScenario plays what chance seldom hits.
func TestScenario(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	full, native := profiles["full"], profiles["native"]
	for _, s := range []struct {
		name    string
		profile *profile
		skews   []time.Duration
		happens func(*world)
	}{
		{"renew-over-ending", full, nil, renewOverEnding},
		{"reuse-hands-out-ending", full, nil, reuseHandsOutEnding},
		{"oauth-revoke-upstream", full, nil, oauthRevokeUpstream},
		{"403s-block-queue", full, nil, refusalsBlockQueue},
		{"wrong-url-404", full, nil, wrongURL},
		{"many-holds", full, nil, manyHolds},
		{"entity-disabled-upstream", full, nil, entityDisabledUpstream},
		{"broken-provider", full, nil, brokenItems},
		{"nonce-reuse-after-prefix-change", native, nil, nonceReuse},
		{"narrowed-exchange-empty", native, nil, narrowedExchange},
		{"regions-taken-away", native, nil, regionsTakenAway},
		{"stale-writer", native, nil, staleWriter},
		{"static-expired", native, nil, staticExpired},
		{"clock-skew-prune", native, []time.Duration{-150 * time.Second, 150 * time.Second}, clockSkew},
		{"expired-key-prune", native, nil, expiredKeys},
		{"refresh-key-destroyed", native, nil, refreshKey},
		{"revoke-by-id-of-access-token", native, nil, revokeByAccessID},
		{"exchanged-jwt-by-id", native, nil, exchangedByID},
		{"big-inventory-rows", native, nil, bigRows},
		{"role-delete-writes", native, nil, roleDeleteWrites},
		{"rotate-while-successor-waits", native, nil, rotateSoon},
		{"answer-kept-again", native, nil, answerKeptAgain},
		{"dies-attesting", native, nil, diesAttesting},
		{"acknowledgement-kept", native, nil, acknowledgementKept},
		{"suspended-at-two-nodes", native, []time.Duration{150 * time.Second, -150 * time.Second}, suspendedAtTwo},
		{"dies-suspending", native, nil, diesSuspending},
		{"dies-alerting", native, nil, diesAlerting},
		{"alert-of-a-replaced-node", native, nil, alertOfReplaced},
		{"deletion-interrupted-and-replaced", full, nil, deletionInterrupted},
		{"budgets", full, nil, budgets},
		{"usage-kept", native, nil, usageKept},
	} {
		t.Run(s.name, func(t *testing.T) {
			play(t, setting{seed: 1, profile: s.profile, skews: s.skews}, s.happens)
		})
	}
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("role-version-forgotten/%d", seed), func(t *testing.T) {
			play(t, setting{seed: seed, profile: native}, func(w *world) { versionForgotten(w, seed) })
		})
	}
	for _, cut := range []struct {
		name    string
		most    int
		happens func(*world)
	}{
		{"rotate-root-crash", 14, func(w *world) { w.rotateRoot(nil) }},
		{"lost-answer", 6, func(w *world) { w.issueFrom(w.active, "upstream", "", nil) }},
		{"static-rotation-crash", 14, rotateUpstreamKept},
	} {
		for at := 1; at <= cut.most; at++ {
			for _, applied := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d-%v", cut.name, at, applied), func(t *testing.T) {
					play(t, setting{seed: 1, profile: full}, func(w *world) {
						w.model.statics["upstream-kept"] = &static{name: "upstream-kept", role: "upstream-kept", exists: true}
						w.must("static-roles/upstream-kept", map[string]any{"role": "upstream-kept", "rotation_period": 3600})
						w.active.storage.schedule(plan{crashAt: at, applied: applied})
						cut.happens(w)
						w.active.storage.schedule(plan{})
						w.afterStep(someRand())
					})
				})
			}
		}
	}
}

func play(t *testing.T, s setting, happens func(*world)) {
	if failed, told := simulateThis(t, s, happens); failed != nil {
		t.Errorf("%v\n%s", failed, lastLines(told, 60))
	}
}

func someRand() *rand.Rand { return rand.New(rand.NewPCG(1, 1)) }

// asked makes a request to the active node that must succeed.
func (w *world) asked(operation logical.Operation, path string, data map[string]any) map[string]any {
	a := w.ask(w.active, &logical.Request{Operation: operation, Path: path, Data: data})
	if !a.ok() {
		w.broken(0, "%s %s %v: %s", operation, path, data, a)
	}
	return a.data()
}

// trouble has the next calls of the service go wrong.
func (w *world) next(faults ...fault) {
	w.service.mu.Lock()
	defer w.service.mu.Unlock()
	w.service.faults = faults
}

func (w *world) down(down bool) {
	w.service.mu.Lock()
	defer w.service.mu.Unlock()
	w.service.down = down
}

// A renewal that was on its way brings a token back whose revocation waits in the queue.
func renewOverEnding(w *world) {
	g := w.issueFrom(w.active, "upstream", "", nil)
	w.refuse([]*grant{g}, 20*time.Second)
	w.next(late)
	w.flying.Go(func() { w.renew(w.active, g.lease, 0) })
	time.Sleep(time.Second)
	w.revokeGrant(w.active, g, byToken, someRand())
	time.Sleep(20 * time.Second)
	w.goneSoon(g)
}

// refuse has the service not revoke the tokens of grants for a while.
func (w *world) refuse(grants []*grant, d time.Duration) {
	w.service.mu.Lock()
	defer w.service.mu.Unlock()
	for _, g := range grants {
		for id, t := range w.service.tokens {
			if t.text == g.upstream.text {
				w.service.refuse[id] = time.Now().Add(d)
			}
		}
	}
}

// goneSoon waits a minute, after which a token must have been revoked at the service.
func (w *world) goneSoon(g *grant) {
	time.Sleep(time.Minute)
	if w.service.alive(g.upstream.text) {
		w.broken(3, "grant %d is revoked, and its token still works at the service", g.n)
	}
}

// A shared token is handed out while it is being revoked.
func reuseHandsOutEnding(w *world) {
	g := w.issueFrom(w.active, "shared", "", nil)
	w.next(late)
	w.flying.Go(func() { w.revokeGrant(w.active, g, byToken, someRand()) })
	time.Sleep(time.Second)
	if again := w.issueFrom(w.active, "shared", "", nil); again != nil && again.upstream == g.upstream {
		w.broken(4, "creds hands out a token that is being revoked")
	}
	time.Sleep(10 * time.Second)
}

func oauthRevokeUpstream(w *world) {
	g := w.issueFrom(w.active, "upstream", "", nil)
	w.revokeGrant(w.active, g, byOAuth, someRand())
	w.goneSoon(g)
}

// Tokens that the service refuses to revoke keep others from being revoked.
func refusalsBlockQueue(w *world) {
	var all []*grant
	for range 40 {
		all = append(all, w.issueFrom(w.active, "upstream", "", nil))
	}
	w.refuse(all[:30], 10*time.Minute)
	w.down(true)
	for _, g := range all { // the oldest first
		w.revokeLease(w.active, g.lease)
		time.Sleep(time.Second)
	}
	time.Sleep(10 * time.Second)
	w.down(false)
	time.Sleep(90 * time.Second)
	for _, g := range all[30:] {
		if w.service.alive(g.upstream.text) {
			w.broken(3, "grant %d is not revoked, since the service refuses to revoke others", g.n)
			return
		}
	}
	if w.issueFrom(w.active, "upstream", "", nil) == nil {
		w.broken(4, "no token is issued while the service refuses to revoke some")
	}
}

// A 404 of another host counts as a revocation.
func wrongURL(w *world) {
	g := w.issueFrom(w.active, "upstream", "", nil)
	root := w.service.live(true)[0].text
	credential := map[string]any{"root": root}
	w.asked(logical.UpdateOperation, "connections/service", map[string]any{"url": "http://" + otherHost, "credential": credential})
	w.revokeLease(w.active, g.lease)
	time.Sleep(time.Minute)
	w.asked(logical.UpdateOperation, "connections/service", map[string]any{"url": "http://service.test", "credential": credential})
	w.goneSoon(g)
}

// The leases of a shared token make an entry grow.
func manyHolds(w *world) {
	for range 600 {
		if w.issueFrom(w.active, "shared", "", nil) == nil {
			w.broken(6, "a lease of a shared token is refused")
			return
		}
	}
	for _, key := range w.disk.keys() {
		if size := len(w.disk.get(key)); size > 16<<10 && !strings.HasPrefix(key, "ledger/inventory/") {
			w.broken(6, "%s takes %d bytes for 600 leases, and grows", key, size)
		}
	}
}

// Whom the service still answers 200.
func entityDisabledUpstream(w *world) {
	w.issueFrom(w.active, "upstream-leaseless", entities[1], nil)
	g := w.issueFrom(w.active, "upstream", entities[1], nil)
	signed := w.issueFrom(w.active, "signed", entities[1], nil)
	w.entitiesMu.Lock()
	w.disabled[entities[1]] = time.Now()
	w.entitiesMu.Unlock()
	w.advance(4 * time.Minute)
	if w.service.alive(g.upstream.text) {
		w.broken(3, "a token works at the service 4 minutes after its entity was disabled")
	}
	signed.revoked = w.active.mark()
	w.checkStatus(w.active, signed.tokens[0])
}

// What storage holds of one item makes no sense any more: only that item suffers, and it can be deleted.
func brokenItems(w *world) {
	n := w.active
	g := w.issueFrom(n, "opaque", "", nil)
	w.must("providers/other", map[string]any{"definition": strings.Replace(w.definition(), "name: service", "name: other", 1)})
	w.must("roles/other", map[string]any{"scopes": "a:read"})
	w.disk.put(n, "provider/other", []byte("name: other\noperations: {create: nothing}\n"))
	w.disk.put(n, "role/other", []byte("{"))
	w.failOver(nil)
	w.takeOver(plan{})
	if w.active == nil || w.failed.Load() != nil {
		return
	}
	w.checkToken(w.active, g.tokens[0])
	w.issueFrom(w.active, "upstream", "", nil)
	for _, path := range []string{"providers/other", "roles/other"} {
		w.asked(logical.DeleteOperation, path, nil)
	}
}

// A refresh that is retried after the prefix has changed seals under a nonce again.
func nonceReuse(w *world) {
	g := w.issueFrom(w.active, "refreshed", "", nil)
	w.refresh(w.active, g.refreshes[0])
	w.must("config", map[string]any{"token_prefix": "two"})
	w.refresh(w.active, g.refreshes[0])
}

// Of a token that was narrowed nothing is left, and it is exchanged.
func narrowedExchange(w *world) {
	n := w.active
	ro := w.model.roles["opaque"]
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "creds/opaque", Data: map[string]any{"scopes": "b:read"}})
	g := w.registered(ro, ro.states.possible(n), "", narrowing{scopes: []string{"b:read"}}, n.now(), "creds/opaque", a)
	s := ro.states.last()
	s.scopes, s.allowed = []string{"a:read"}, []string{"a:read"}
	w.writeRole(n, ro, s)
	tok := g.tokens[0]
	w.exchange(n, tok, map[string]any{"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": tok.text, "subject_token_type": "urn:ietf:params:oauth:token-type:access_token"})
}

// What came of a grant while its role allowed fewer regions does not get back what the role allows again later.
func regionsTakenAway(w *world) {
	n := w.active
	for _, name := range []string{"refreshed", "signed-refreshed"} {
		ro := w.model.roles[name]
		s := ro.states.last()
		s.regions = []string{"DE", "FR"}
		w.writeRole(n, ro, s)
		g := w.issueFrom(n, name, "", nil)
		s.regions = []string{"DE", "US"}
		w.writeRole(n, ro, s)
		refreshed, _ := w.refresh(n, g.refreshes[0])
		exchanged := w.exchange(n, g.tokens[0], map[string]any{"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": g.tokens[0].text, "subject_token_type": "urn:ietf:params:oauth:token-type:access_token"})
		s.regions = allRegions
		w.writeRole(n, ro, s)
		if refreshed == nil || exchanged == nil {
			w.broken(4, "a grant of which one region is left is neither refreshed nor exchanged")
		}
	}
	for range 2 * (len(allRegions) + 1) { // each look is from another region
		w.checkAll(n)
	}
}

// A node that was replaced writes what it remembers over what others have written.
func staleWriter(w *world) {
	var all []*grant
	for i := range 400 {
		all = append(all, w.issueFrom(w.active, []string{"opaque", "signed"}[i%2], "", nil))
	}
	time.Sleep(5 * time.Second)
	old := w.active
	w.zombie = old
	w.lead(nil)
	w.takeOver(plan{})
	for i, g := range all {
		if i%4 < 2 {
			w.revokeLease(w.active, g.lease)
		}
	}
	for i, g := range all {
		if i%4 >= 2 {
			w.revokeLease(old, g.lease)
		}
	}
	w.stop(old)
	w.zombie = nil
	w.failOver(nil)
	w.takeOver(plan{})
	w.checkAll(w.active)
}

// A node deletes a connection, cannot delete its tokens, and is replaced without noticing. The next node cannot delete the
// tokens at first. Each node tries again after a pause: without pauses no time would pass.
func deletionInterrupted(w *world) {
	for range 3 {
		w.issueFrom(w.active, "upstream-leaseless", "", nil)
	}
	w.active.storage.schedule(plan{failAt: 2, failFor: 3})
	w.disconnect(w.active, w.model.connection.current(), true)
	w.active.storage.schedule(plan{})
	w.replace()
	w.zombie.storage.set(readOnly)
	time.Sleep(30 * time.Second)
	w.takeOver(plan{failAt: 1, failFor: 20})
	w.advance(5 * time.Minute)
	w.stop(w.zombie)
	w.zombie = nil
}

// A static role serves a token that has expired.
func staticExpired(w *world) {
	w.endless = true
	w.model.statics["kept"] = &static{name: "kept", role: "kept", exists: true}
	w.must("static-roles/kept", map[string]any{"role": "kept", "rotation_period": 3600})
	w.must("static-roles/kept", map[string]any{"rotation_period": 30 * 24 * 3600})
	for range 6 {
		w.advance(12 * time.Hour)
		d := w.asked(logical.ReadOperation, "static-creds/kept", nil)
		answer := w.asked(logical.UpdateOperation, "introspect", map[string]any{"token": d["token"]})
		if answer["active"] != true {
			w.broken(4, "static-creds serves a token that is %v, with a ttl of %v", answer["reason"], d["ttl"])
			return
		}
		end, _ := answer["exp"].(int64)
		if ttl, _ := d["ttl"].(int64); w.active.now().Add(time.Duration(ttl) * time.Second).After(time.Unix(end, 0)) {
			w.broken(4, "static-creds says a ttl of %ds, and the token ends at %s", ttl, clock(time.Unix(end, 0)))
			return
		}
	}
}

// A revocation is forgotten when the token is over by the clock of one node, and not by that of the next.
func clockSkew(w *world) {
	g := w.issueFrom(w.active, "opaque", "", nil)
	w.revokeLease(w.active, g.lease)
	w.advance(11 * time.Minute)
	w.tick()
	w.failOver(nil)
	w.takeOver(plan{})
	w.checkAll(w.active)
}

// Many keys come and go while one is needed.
func expiredKeys(w *world) {
	w.endless = true
	w.model.statics["kept"] = &static{name: "kept", role: "kept", exists: true}
	w.must("static-roles/kept", map[string]any{"role": "kept", "rotation_period": 300 * 24 * 3600})
	text := w.asked(logical.ReadOperation, "static-creds/kept", nil)["token"]
	for range 1010 {
		w.asked(logical.UpdateOperation, "keys/rotate", nil)
		time.Sleep(6 * time.Minute)
		w.tick()
	}
	if answer := w.asked(logical.UpdateOperation, "introspect", map[string]any{"token": text}); answer["active"] != true {
		w.broken(4, "a live token is called %v after many rotations of the key", answer["reason"])
	}
}

// A key that only refreshes were made with is destroyed before they end.
func refreshKey(w *world) {
	time.Sleep(6 * time.Minute)
	g := w.issueFrom(w.active, "refreshed", "", nil)
	w.rotateKeys(nil)
	w.advance(time.Minute)
	_, next := w.refresh(w.active, g.refreshes[0])
	time.Sleep(6 * time.Minute)
	w.rotateKeys(nil)
	w.advance(2 * time.Minute)
	w.checkToken(w.active, next)
	w.refresh(w.active, next)
}

func revokeByAccessID(w *world) {
	g := w.issueFrom(w.active, "refreshed", "", nil)
	_, next := w.refresh(w.active, g.refreshes[0])
	w.asked(logical.UpdateOperation, "revoke", map[string]any{"token_id": g.ids[0]})
	g.revoked = w.active.mark()
	w.refresh(w.active, next)
	w.checkAll(w.active)
}

func exchangedByID(w *world) {
	g := w.issueFrom(w.active, "signed", "", nil)
	tok := g.tokens[0]
	exchanged := w.exchange(w.active, tok, map[string]any{"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": tok.text, "subject_token_type": "urn:ietf:params:oauth:token-type:access_token"})
	w.asked(logical.UpdateOperation, "revoke", map[string]any{"token_id": exchanged.id})
	g.revoked = w.active.mark()
	w.checkStatus(w.active, tok)
	w.checkStatus(w.active, exchanged)
}

// Rows of the inventory are long.
func bigRows(w *world) {
	scopes := make([]string, 20)
	for i := range scopes {
		scopes[i] = fmt.Sprintf("a-very-long-name-of-a-scope-of-some-service-that-has-many-of-them-%d:read", i)
	}
	for role := range 3 {
		w.must(fmt.Sprintf("roles/big-%d", role), map[string]any{"scopes": strings.Join(scopes, ",")})
	}
	for i := range 2500 {
		w.ask(w.active, &logical.Request{
			Operation: logical.UpdateOperation, Path: fmt.Sprintf("creds/big-%d", i%3), DisplayName: fmt.Sprintf("client-%d", i),
			Data: map[string]any{"scopes": strings.Join(scopes[:20-i%5], ",")},
		})
		if i%200 == 0 {
			time.Sleep(2 * time.Second)
		}
	}
	time.Sleep(2 * time.Second)
}

// A version of a role is forgotten that a token was issued under while the role was changed for the first time.
func versionForgotten(w *world, seed uint64) {
	n := w.active
	ro := w.model.roles["opaque"]
	s := ro.states.last()
	s.scopes, s.allowed = []string{"b:read"}, []string{"a:read", "b:read"}
	w.atOnce(rand.New(rand.NewPCG(seed, 1)), 2, func(i int, _ *rand.Rand) {
		if i == 0 {
			w.writeRole(n, ro, s)
		} else {
			w.issueFrom(n, "opaque", "", nil)
		}
	})
	w.advance(3 * time.Minute)
	s.scopes = []string{"a:read"}
	w.writeRole(n, ro, s)
	w.checkAll(n)
}

// Deleting a role of JWTs costs a write for each.
func roleDeleteWrites(w *world) {
	for range 300 {
		w.issueFrom(w.active, "signed", "", nil)
	}
	ro := w.model.roles["signed"]
	before := w.disk.changes()
	w.deleteRole(w.active, ro)
	if writes := w.disk.changes() - before; writes > 10 {
		w.broken(6, "deleting a role with 300 JWTs takes %d writes", writes)
	}
	w.checkAll(w.active)
}

// An answer of introspect reaches a verifier after the revocation that the answer does not know: the verifier must not keep
// it. A standby that does not know the revocation must not answer.
func answerKeptAgain(w *world) {
	w.poll(nil)
	g := w.issueFrom(w.active, "opaque", "", nil)
	tok := g.tokens[0]
	late := w.asked(logical.UpdateOperation, "introspect", map[string]any{"token": tok.text})
	w.standby = w.start(true, plan{})
	w.asked(logical.UpdateOperation, "revoke", map[string]any{"token_id": g.ids[0]})
	g.revoked = w.active.mark()
	w.poll(nil)
	w.verifier.keep(tok, "", late)
	w.poll(nil) // finds an answer that is kept wrongly
	if len(w.verifier.kept) > 0 {
		w.broken(2, "a verifier keeps an answer that is older than the revocation")
	}
	with := map[string]any{"token": tok.text, "min_cursor": w.verifier.cursor}
	a := w.ask(w.standby, &logical.Request{Operation: logical.UpdateOperation, Path: "introspect", Data: with})
	if !errors.Is(a.err, logical.ErrReadOnly) {
		w.broken(2, "a standby answers a verifier that knows of a revocation: %s", a)
	}
}

// A key cannot be rotated while the successor of another is young.
func rotateSoon(w *world) {
	for range 2 {
		if a := w.ask(w.active, &logical.Request{Operation: logical.UpdateOperation, Path: "keys/rotate"}); !a.ok() {
			w.broken(4, "keys/rotate: %s", a)
		}
	}
}

func rotateUpstreamKept(w *world) {
	w.ask(w.active, &logical.Request{Operation: logical.UpdateOperation, Path: "rotate-role/upstream-kept"})
}

// budgets are the storage operations of requests, once the first has been made.
func budgets(w *world) {
	measure := func(what string, most int, f func()) {
		before := w.disk.changes()
		f()
		if writes := int(w.disk.changes() - before); writes > most {
			w.broken(6, "%s takes %d writes, at most %d are promised", what, writes, most)
		}
	}
	issued := make(map[string]*grant)
	for _, k := range kinds {
		w.issueFrom(w.active, k.name, "", nil)
	}
	time.Sleep(5 * time.Second)
	for name, most := range map[string]int{"opaque": 0, "refreshed": 0, "signed": 0, "signed-refreshed": 0, "leaseless": 0, "upstream": 2, "upstream-leaseless": 2, "shared": 1} {
		measure("creds of "+name, most, func() { issued[name] = w.issueFrom(w.active, name, "", nil) })
	}
	noise := map[string]any{"tokens": []any{"apt_noise", issued["opaque"].tokens[0].text[:60], issued["upstream"].upstream.text + "x"}}
	measure("a report of noise", 0, func() { w.asked(logical.UpdateOperation, "leaked", noise) })
	measure("introspect", 0, func() { w.checkToken(w.active, issued["opaque"].tokens[0]) })
	measure("a refresh", 1, func() { w.refresh(w.active, issued["refreshed"].refreshes[0]) })
	measure("a renewal", 1, func() { w.renew(w.active, issued["opaque"].lease, 0) })
	for name, most := range map[string]int{"opaque": 1, "refreshed": 1, "signed": 1, "upstream": 2} {
		measure("a revocation of "+name, most, func() { w.revokeLease(w.active, issued[name].lease) })
	}
	for name, most := range map[string]int{"opaque": 2, "refreshed": 2, "signed": 2, "leaseless": 2, "upstream": 3} { // with the finding
		g := w.issueFrom(w.active, name, "", nil)
		report := func() { w.revokeGrant(w.active, g, byLeak, someRand()) }
		measure("a report of "+name, most, report)
		time.Sleep(time.Minute) // the finding is stored
		measure("a second report of "+name, 0, report)
	}
}
