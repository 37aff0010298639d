package simulation

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// secondHost is another address of a service: what was minted at one host is not known at the other.
const secondHost = "second.test:80"

// connectionLife is one life of the connection: from its creation to its deletion. The names of what it has made at the
// service say so.
type connectionLife struct {
	n      int
	host   string // of its url
	ended  mark   // its deletion
	forced bool   // the deletion
}

// connection is the connection, in all its lives.
type connection struct {
	mu     sync.Mutex
	lives  []*connectionLife
	unsure func(found bool) // a change was not acknowledged: to be told what was found; nil: none
}

// current is the life that goes on, or may go on; nil: there is no connection.
func (c *connection) current() *connectionLife {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lives) == 0 || c.lives[len(c.lives)-1].ended.seq != 0 {
		return nil
	}
	return c.lives[len(c.lives)-1]
}

// life finds a life by the name of what it has made; nil: it is of none.
func (c *connection) life(name string) *connectionLife {
	_, rest, found := strings.Cut(name, "-life")
	var n int
	if _, err := fmt.Sscanf(rest, "%d", &n); !found || err != nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n < 1 || n > len(c.lives) {
		return nil
	}
	return c.lives[n-1]
}

// connect creates the connection at a host. The operator brings a credential: a new one, or one of an earlier life.
func (w *world) connect(n *node, host string, r *rand.Rand) {
	c := &w.model.connection
	c.mu.Lock()
	life := &connectionLife{n: len(c.lives) + 1, host: host}
	c.lives = append(c.lives, life)
	c.mu.Unlock()
	root := w.service.bring(life, r)
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "connections/service", Data: map[string]any{
		"provider": "service", "url": "http://" + strings.TrimSuffix(host, ":80"), "credential": map[string]any{"root": root.text}, "timeout": "10s",
		"name_template":    fmt.Sprintf("{{ .MountPath }}-{{ .RoleName }}-life%d-{{ random 12 }}", life.n),
		"reconcile_period": 3600 * (life.n % 2),
	}})
	w.say("connection created at node %d, life %d at %s with %s: %s", n.n, life.n, host, root.text, a)
	found := func(exists bool) {
		if !exists {
			life.ended = n.mark()
			w.service.takeBack(life)
		}
	}
	switch {
	case a.ok():
		w.checkNew(n, life)
	case a.lost || a.err != nil:
		c.unsure = found
	default:
		w.broken(4, "a connection is refused: %s", a.refused)
	}
}

// checkNew looks at a connection that was created just now: nothing is its own yet.
func (w *world) checkNew(n *node, life *connectionLife) {
	a := w.ask(n, &logical.Request{Operation: logical.ReadOperation, Path: "connections/service"})
	if !a.ok() {
		return
	}
	queue, _ := a.data()["queue"].(map[string]any)
	tokens, _ := a.data()["tokens"].(int)
	waiting, _ := queue["count"].(int)
	if made := w.service.made(life); tokens > made || waiting > 0 && w.model.statics["upstream-kept"] == nil {
		w.broken(4, "the connection is new and says that it has %d tokens and a queue of %d, and it has made %d", tokens, waiting, made)
	}
	if root := queue["root"]; root != nil {
		w.broken(4, "the connection is new and says of a rotation of its credential: %v", root)
	}
}

// changeConnection deletes the connection, or creates it again.
func (w *world) changeConnection(r *rand.Rand) {
	n, c := w.active, &w.model.connection
	if c.unsure != nil || w.zombie != nil {
		return // an operator asks first what has become of an earlier change
	}
	if r.IntN(2) == 0 {
		w.flying.Wait()
	}
	life := c.current()
	if life != nil && r.IntN(3) == 0 {
		w.endUses(n, r)
	}
	if n.dead() {
		return
	}
	if life == nil {
		w.connect(n, []string{serviceHost, secondHost}[r.IntN(2)], r)
		return
	}
	w.disconnect(n, life, r.IntN(2) == 0)
	if r.IntN(2) == 0 && c.current() == nil && c.unsure == nil && !n.dead() {
		w.connect(n, []string{serviceHost, secondHost}[r.IntN(2)], r)
	}
}

// endUses has an operator delete what uses the connection, and wait for the queue, or not.
func (w *world) endUses(n *node, r *rand.Rand) {
	if s := w.model.statics["upstream-kept"]; s != nil && s.exists {
		w.deleteStatic(n, s)
	}
	for _, k := range kinds {
		ro := w.model.roles[k.name]
		if k.upstream && !ro.unsure && !ro.busy && ro.states.last().exists && !n.dead() {
			w.deleteRole(n, ro)
		}
	}
	time.Sleep(time.Duration(r.IntN(40)) * time.Second)
}

// disconnect deletes the connection. Without force it must be refused while something needs it.
func (w *world) disconnect(n *node, life *connectionLife, force bool) {
	c := &w.model.connection
	needed := w.needed(n, life)
	before := w.storedConnection()
	a := w.ask(n, &logical.Request{Operation: logical.DeleteOperation, Path: "connections/service", Data: map[string]any{"force": force}})
	w.say("connection deleted at node %d, life %d, force %v, needed for %q: %s", n.n, life.n, force, needed, a)
	found := func(exists bool) {
		if !exists {
			life.forced = force
			life.ended = n.mark()
			w.service.takeBack(life)
		}
	}
	switch {
	case a.ok():
		found(false)
		if !force && needed != "" {
			w.broken(3, "the connection was deleted without force, although it is needed for %s", needed)
		}
		if w.storedConnection() != "" {
			w.broken(4, "a connection is in storage after it was deleted")
		}
	case a.lost || a.err != nil:
		c.unsure = found
	case w.storedConnection() != before:
		w.broken(4, "deleting a connection was refused, and it was deleted: %s", a.refused)
	}
}

// needed says what surely needs a life of the connection; "": nothing.
func (w *world) needed(n *node, life *connectionLife) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range kinds {
		ro := w.model.roles[k.name]
		if !k.upstream || ro.unsure || ro.busy {
			continue
		}
		surely := true
		for _, s := range ro.states.possible(n) {
			surely = surely && s.exists
		}
		if surely {
			return "role " + k.name
		}
	}
	for _, l := range w.leases.live {
		u := l.grant.upstream
		if u != nil && w.model.connection.life(w.service.nameOf(u.text)) == life && u.revoked.seq == 0 && !u.doubtful && !l.grant.doubtful &&
			n.now().Before(l.grant.period(n).lo) && w.service.alive(u.text) {
			return "lease " + itoa(l.n)
		}
	}
	return ""
}

// storedConnection is the id of the connection in storage; "": there is none.
func (w *world) storedConnection() string {
	var stored struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(w.disk.get("connection/service"), &stored)
	return stored.ID
}

// resolveConnection finds out what has become of a change that was not acknowledged.
func (w *world) resolveConnection() {
	c := &w.model.connection
	if c.unsure == nil || w.active == nil || w.zombie != nil {
		return
	}
	a := w.ask(w.active, &logical.Request{Operation: logical.ReadOperation, Path: "connections/service"})
	if !a.ok() {
		return
	}
	w.say("the connection was found: %v", a.data() != nil)
	c.unsure(a.data() != nil)
	c.unsure = nil
}

// mayBeLeft reports whether a token may be left behind at the service: its connection was deleted by force.
func (w *world) mayBeLeft(t *serviceToken) bool {
	life := w.model.connection.life(t.name)
	return life != nil && life.forced
}

// disownedText reports whether the connection that has made a token does not exist any more.
func (w *world) disownedText(text string) bool {
	life := w.model.connection.life(w.service.nameOf(text))
	return life != nil && life.ended.seq != 0
}

// checkQueue holds what the connection says of its tokens at rest against what is true.
func (w *world) checkQueue(n *node, life *connectionLife) {
	a := w.ask(n, &logical.Request{Operation: logical.ReadOperation, Path: "connections/service"})
	queue, _ := a.data()["queue"].(map[string]any)
	alive := 0
	for _, t := range w.service.live(false) {
		if w.model.connection.life(t.name) == life {
			alive++
		}
	}
	if queue["count"] != 0 || queue["root"] != nil || a.data()["tokens"] != alive {
		w.broken(4, "at rest the connection has %d tokens, and says %v and a queue of %v", alive, a.data()["tokens"], queue)
	}
}

// disowned reports whether the connection that has made a token was deleted before a moment. The caller holds mu.
func (w *world) disowned(u *upstreamToken, seq uint64) bool {
	life := w.model.connection.life(w.service.nameOf(u.text))
	return life != nil && life.ended.seq != 0 && life.ended.seq < seq
}

// bring gives the credential that an operator gives to a life of the connection: one that is there, or a new one.
func (s *service) bring(life *connectionLife, r *rand.Rand) *serviceToken {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.sorted() {
		if t.root && t.host == life.host && t.brought && !t.doomed && (r == nil || r.IntN(2) == 0) {
			t.lives[life] = true
			return t
		}
	}
	t := s.create(fmt.Sprintf("root-life%d", life.n), true, time.Time{}, life.host)
	t.brought, t.lives[life] = true, true
	return t
}

// takeBack has the operator end the credentials that a life of the connection has made, which its deletion has left
// behind; what the operator has brought stays.
func (s *service) takeBack(life *connectionLife) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, t := range s.tokens {
		if t.root && !t.brought && s.world.model.connection.life(t.name) == life {
			delete(s.tokens, id)
		}
	}
}

// made counts the tokens that a life of the connection has made.
func (s *service) made(life *connectionLife) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := 0
	for _, name := range s.names {
		if s.world.model.connection.life(name) == life {
			count++
		}
	}
	return count
}

// nameOf is the name of a token that exists, or has existed.
func (s *service) nameOf(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names[text]
}

// rightfully checks who asks for what is done with a token: that of another connection is nobody's to change. The
// caller holds mu.
func (s *service) rightfully(host string, self, t *serviceToken, does string) {
	if t.host != host {
		s.world.broken(3, "%s of token %s %q of %s is asked for at %s", does, t.id, t.name, t.host, host)
	}
	if life := s.world.model.connection.life(t.name); life != nil && !self.lives[life] {
		s.world.broken(3, "%s of token %s %q is asked for with credential %q of another connection", does, t.id, t.name, self.name)
	}
}

// ends notes the credential whose end is asked for.
func (s *service) ends(r *http.Request) {
	if r.Method != http.MethodDelete || r.URL.Path != "/self" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if t.text == r.Header.Get("Authorization") {
			t.doomed = true
		}
	}
}

// goesTo checks to whom a credential is sent. The caller holds mu.
func (s *service) goesTo(host, credential string) {
	for _, t := range s.tokens {
		if t.root && t.text == credential && t.host != host {
			s.world.broken(8, "credential %s of %s is sent to %s", t.name, t.host, host)
		}
	}
}
