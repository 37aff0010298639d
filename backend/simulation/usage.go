package simulation

import (
	"encoding/hex"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// reporter is a verifier that reports how tokens were used: also twice, late, and to a node that was replaced.
type reporter struct {
	mu      sync.Mutex
	batches []*batch
	used    map[string]uint64 // by the id of the grant: uses that were reported, each batch once
	asked   map[string]uint64 // by the text of the token: introspections
}

// batch is a batch of the reporter.
type batch struct {
	sequence int
	rows     int
	data     map[string]any
	done     bool             // some node has answered
	answered map[*node]uint64 // nodes that have answered, and when each did first
	counted  map[*node]bool   // nodes that have said that they counted the batch
}

// oldest is how many batches back a batch is sent again.
const oldest = 5

// asks counts an introspection before it is answered: it may count as a use.
func (p *reporter) asks(path string, data map[string]any) {
	text, _ := data["token"].(string)
	if path != "introspect" && path != "oauth/introspect" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked == nil {
		p.asked, p.used = make(map[string]uint64), make(map[string]uint64)
	}
	p.asked[text]++
}

// report sends a batch: a new one, or again one that was sent before.
func (w *world) report(r *rand.Rand) {
	n := w.active
	if w.zombie != nil && !w.zombie.dead() && r.IntN(3) == 0 {
		n = w.zombie
	}
	b := w.someBatch(r)
	if b == nil {
		return
	}
	w.sendBatch(n, b)
}

// someBatch chooses the batch to send: the last one until it is answered, as a rule.
func (w *world) someBatch(r *rand.Rand) *batch {
	p := &w.reporter
	p.mu.Lock()
	count := len(p.batches)
	again := count > 0 && (!p.batches[count-1].done && r.IntN(4) > 0 || r.IntN(4) == 0)
	if again {
		back := 1
		if p.batches[count-1].done {
			back += r.IntN(min(oldest, count))
		}
		b := p.batches[count-back]
		p.mu.Unlock()
		return b
	}
	p.mu.Unlock()

	w.mu.Lock()
	var ids []string
	for range 1 + r.IntN(4) {
		if g := pick(r, w.model.grants); g != nil && len(g.ids) > 0 {
			ids = append(ids, g.ids[r.IntN(len(g.ids))])
		}
	}
	w.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	if r.IntN(4) == 0 {
		id := make([]byte, 12)
		for i := range id {
			id[i] = byte(r.Uint32())
		}
		ids = append(ids, hex.EncodeToString(id))
	}
	return p.batch(ids, func() int { return r.IntN(5) })
}

// batch makes the next batch, about tokens of these ids.
func (p *reporter) batch(ids []string, uses func() int) *batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used == nil {
		p.asked, p.used = make(map[string]uint64), make(map[string]uint64)
	}
	b := &batch{sequence: len(p.batches) + 1, rows: len(ids), answered: make(map[*node]uint64), counted: make(map[*node]bool)}
	rows := make([]any, len(ids))
	for i, id := range ids {
		n := uses()
		p.used[grantID(id)] += uint64(n)
		rows[i] = map[string]any{
			"token_id": id, "uses": n, "last_ip": "192.0.2." + strconv.Itoa(n), "scopes": []any{"a:read"},
			"refusals": map[string]any{"host_not_allowed": n},
		}
	}
	b.data = map[string]any{"reporter": "api", "sequence": b.sequence, "tokens": rows}
	p.batches = append(p.batches, b)
	return b
}

func grantID(id string) string {
	grant, _, _ := strings.Cut(id, ".")
	return grant
}

// sendBatch sends a batch, and holds the answer against what is true: a retry counts once in the life of a process.
func (w *world) sendBatch(n *node, b *batch) *answer {
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "usage", Data: b.data})
	if !a.ok() {
		if a.refused != "" {
			w.broken(4, "a report is refused: %s", a.refused)
		}
		return a
	}
	p := &w.reporter
	p.mu.Lock()
	defer p.mu.Unlock()
	duplicate, _ := a.data()["duplicate"].(bool)
	accepted, _ := a.data()["accepted"].(int)
	ignored, _ := a.data()["ignored"].(int)
	w.say("batch %d at node %d: duplicate %v, accepted %d, ignored %d", b.sequence, n.n, duplicate, accepted, ignored)
	first, before := b.answered[n]
	switch {
	case !duplicate && (b.counted[n] || before && first < a.began): // of two at once, the second may answer first
		w.broken(4, "node %d counts batch %d twice", n.n, b.sequence)
	case duplicate && accepted+ignored != 0, !duplicate && accepted+ignored != b.rows:
		w.broken(4, "node %d answers batch %d of %d rows with duplicate %v, accepted %d, ignored %d",
			n.n, b.sequence, b.rows, duplicate, accepted, ignored)
	}
	b.done, b.counted[n] = true, b.counted[n] || !duplicate
	if !before {
		b.answered[n] = w.stamp()
	}
	return a
}

// checkUsage holds the usage that an answer shows of a grant against what was reported: a count is never too high. A row of a
// list has the count itself. The caller holds mu.
func (w *world) checkUsage(n *node, g *grant, shown map[string]any) {
	usage, _ := shown["usage"].(map[string]any)
	id, _ := shown["token_id"].(string)
	if usage == nil {
		usage = shown
	}
	uses, counted := usage["uses"].(uint64)
	if !counted || id == "" {
		return
	}
	p := &w.reporter
	p.mu.Lock()
	defer p.mu.Unlock()
	most := p.used[grantID(id)]
	reported := most
	for _, list := range [][]*issued{g.tokens, g.refreshes} {
		for _, tok := range list {
			most += p.asked[tok.text]
		}
	}
	if uses > most {
		w.broken(4, "node %d shows %d uses of grant %d; %d were reported, and there were %d introspections",
			n.n, uses, g.n, reported, most-reported)
	}
}

// checkUsageWrite holds a write of usage against invariants 6 and 8: at most one a second, and without secrets.
func (w *world) checkUsageWrite(by *node, key string) {
	if by == nil || !strings.HasPrefix(key, "usage/") {
		return
	}
	by.mu.Lock()
	pause := time.Since(by.counted)
	by.counted = time.Now()
	by.mu.Unlock()
	if pause < time.Second {
		w.broken(6, "node %d writes usage twice within %s", by.n, pause)
	}
	w.secrets.checkText(w, key, string(w.disk.get(key)))
}
