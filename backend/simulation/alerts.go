package simulation

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// alertHost is where the receiver of alerts is, for those who dial.
const alertHost = "alerts.test:80"

// alertRules are the rules of whose findings the receiver is told: those that are rare here.
var alertRules = []string{"proof_failed", "refresh_reuse"}

// pager is a receiver of alerts. It answers late, never, or with errors, and notes what has arrived.
type pager struct {
	world  *world
	server *http.Server
	accept chan net.Conn
	done   chan struct{}

	mu       sync.Mutex
	secrets  []string // that may sign, the oldest first
	faults   []fault  // of the next deliveries
	down     bool
	events   map[string]string // ID -> type and subject
	untaken  map[string]bool   // IDs of events that were never answered with 200
	opened   map[string]bool   // IDs of findings whose opening was answered with 200
	sequence int               // of the reports of misuse
	misused  map[string]*grant // by its IDs: whose tokens were reported as misused
	modes    map[string]bool   // that proof_failed may have had
}

// secretOf returns secret n of the alert.
func secretOf(n int) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "pager-signing-secret-%011d", n))
}

func newPager(w *world) *pager {
	p := &pager{
		world: w, accept: make(chan net.Conn), done: make(chan struct{}), secrets: []string{secretOf(0)},
		events: make(map[string]string), untaken: make(map[string]bool), opened: make(map[string]bool),
		misused: make(map[string]*grant), modes: map[string]bool{"on": true},
	}
	p.server = &http.Server{Handler: p}
	go func() { _ = p.server.Serve(p) }()
	return p
}

// beAlerted has the mount call the receiver.
func (w *world) beAlerted() {
	w.pager = newPager(w)
	w.must("alerts/pager", map[string]any{
		"url": "http://alerts.test/pager-path-secret", "allow_http": true, "secret": w.pager.secrets[0],
		"headers": map[string]any{"Authorization": "Bearer pager-header-secret"}, "rules": alertRules,
		"events": "opened,escalated,acknowledged",
	})
}

// Accept, Close and Addr make it a net.Listener.
func (p *pager) Accept() (net.Conn, error) {
	select {
	case conn := <-p.accept:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pager) Close() error   { return nil }
func (p *pager) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pager) stop() {
	close(p.done)
	_ = p.server.Close()
}

func (p *pager) dial(ctx context.Context) (net.Conn, error) {
	p.mu.Lock()
	down := p.down
	p.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	client, server := net.Pipe()
	select {
	case p.accept <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender has died
	}
	p.mu.Lock()
	do := answers
	if len(p.faults) > 0 {
		do, p.faults = p.faults[0], p.faults[1:]
	}
	p.mu.Unlock()
	p.look(r, body)
	switch do {
	case resets, resetsDone, cutShort, twice, nonsense:
		panic(http.ErrAbortHandler)
	case fails, failsDone:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case limited:
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case late, muchLater:
		if !p.world.calm.Load() {
			select {
			case <-time.After(map[fault]time.Duration{late: 3 * time.Second, muchLater: 20 * time.Second}[do]):
			case <-p.done: // the world ends
			}
		}
	}
	p.take(r.Header.Get("webhook-id"))
	w.WriteHeader(http.StatusOK)
}

// look holds a delivery against what is promised: signed, the same event with the same ID, and without secrets.
func (p *pager) look(r *http.Request, body []byte) {
	w := p.world
	w.secrets.checkText(w, "an alert", string(body))
	var e struct{ ID, Type, Subject string }
	if err := json.Unmarshal(body, &e); err != nil || e.ID == "" || e.ID != r.Header.Get("webhook-id") {
		w.broken(9, "an alert is no event: %s", clip(string(body)))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	signed := slices.ContainsFunc(p.secrets, func(secret string) bool {
		wh, err := standardwebhooks.NewWebhook(secret)
		return err == nil && wh.Verify(body, r.Header) == nil
	})
	if !signed {
		w.broken(9, "the signature of alert %s is wrong", e.ID)
	}
	event, before := p.events[e.ID]
	if now := e.Type + " " + e.Subject; !before {
		p.events[e.ID], p.untaken[e.ID] = now, true
	} else if now != event {
		w.broken(9, "alert %s is %s, and was %s", e.ID, now, event)
	}
}

// take notes that an event was answered with 200.
func (p *pager) take(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.untaken, id)
	if finding, opened := strings.CutPrefix(p.events[id], "apitoken.finding.opened findings/"); opened {
		p.opened[finding] = true
	}
}

// pagerFails has some of the next deliveries go wrong, or the receiver be down.
func (w *world) pagerFails(r *rand.Rand) {
	p := w.pager
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = r.IntN(4) == 0
	for range 1 + r.IntN(4) {
		p.faults = append(p.faults, fault(r.IntN(int(faultCount))))
	}
	w.say("the receiver of alerts fails: down %v, faults %v", p.down, p.faults)
}

func (p *pager) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down, p.faults = false, nil
}

// misuse has a verifier report that a token was shown without the proof of its key. The engine may suspend or revoke the
// grant, at any time from now on.
func (w *world) misuse(r *rand.Rand) {
	n := w.active
	if w.zombie != nil && !w.zombie.dead() && r.IntN(4) == 0 {
		n = w.zombie
	}
	w.mu.Lock()
	g := pick(r, w.model.grants)
	w.mu.Unlock()
	if g != nil && g.upstream == nil && len(g.ids) > 0 {
		w.misuseOf(n, g)
	}
}

func (w *world) misuseOf(n *node, g *grant) {
	p := w.pager
	w.mu.Lock()
	p.mu.Lock()
	p.sequence++
	id, sequence := g.ids[0], p.sequence
	for _, id := range g.ids {
		p.misused[grantID(id)] = g
	}
	for mode := range p.modes {
		w.mayRespond(n, g, mode)
	}
	p.mu.Unlock()
	w.mu.Unlock()
	a := w.ask(n, &logical.Request{Operation: logical.UpdateOperation, Path: "usage", Data: map[string]any{
		"reporter": "guard", "sequence": sequence,
		"tokens": []any{map[string]any{"token_id": id, "refusals": map[string]any{"proof_replayed": 1}}},
	}})
	w.say("misuse of grant %d reported to node %d: %s", g.n, n.n, a)
}

// mayRespond notes that the engine may respond to the misuse of a grant from now on. The caller holds mu.
func (w *world) mayRespond(n *node, g *grant, mode string) {
	switch mode {
	case "suspend":
		g.suspended.suspends = append(g.suspended.suspends, &request{at: n, begun: w.stamp()})
	case "revoke":
		g.doubtful = true
	}
}

// tuneAlerts changes what the engine does about misuse, or the secret that signs alerts.
func (w *world) tuneAlerts(r *rand.Rand) {
	p := w.pager
	switch r.IntN(2) {
	case 0:
		mode := []string{"on", "suspend", "revoke"}[r.IntN(3)]
		w.mu.Lock()
		p.mu.Lock()
		p.modes[mode] = true               // and, for what comes late, all earlier modes
		for _, g := range w.model.grants { // a response that failed is repeated in the mode of today
			if len(g.ids) > 0 && p.misused[grantID(g.ids[0])] == g {
				w.mayRespond(w.active, g, mode)
			}
		}
		p.mu.Unlock()
		w.mu.Unlock()
		a := w.asks(logical.UpdateOperation, "config/detection", map[string]any{"proof_failed": mode})
		w.say("proof_failed: %s: %s", mode, a)
	case 1:
		p.mu.Lock()
		secret := secretOf(len(p.secrets))
		p.secrets = append(p.secrets, secret)
		p.mu.Unlock()
		a := w.asks(logical.UpdateOperation, "alerts/pager/rotate-secret", map[string]any{"secret": secret, "overlap": r.IntN(600)})
		w.say("the secret of alerts is rotated: %s", a)
	}
}

func (w *world) asks(operation logical.Operation, path string, data map[string]any) *answer {
	return w.ask(w.active, &logical.Request{Operation: operation, Path: path, Data: data})
}

// checkAlerts holds against invariant 9, once all is at rest: each stored finding has arrived, what was sent once has
// arrived, nothing waits, and only tokens were stopped that were misused.
func (w *world) checkAlerts() {
	p := w.pager
	p.mu.Lock()
	opened, untaken := len(p.opened), len(p.untaken)
	for _, id := range w.disk.list("detect/finding/") {
		var f struct {
			Rule, Response, State string
			TokenID               string `json:"token_id"`
		}
		if json.Unmarshal(w.disk.get("detect/finding/"+id), &f) != nil || !slices.Contains(alertRules, f.Rule) {
			continue
		}
		if !p.opened[id] {
			w.broken(9, "finding %s (%s of %s) is stored, and no alert has arrived", id, f.Rule, f.TokenID)
		}
		if g := p.misused[f.TokenID]; g == nil && f.Rule == "proof_failed" {
			w.broken(9, "finding %s is about token %s, which was not misused", id, f.TokenID)
		}
	}
	p.mu.Unlock()
	if untaken > 0 {
		w.broken(9, "%d alerts were sent, and never sent again after the receiver did not take them", untaken)
	}
	if left := w.disk.list("alert/queue/"); len(left) > 0 {
		w.broken(9, "%d notices wait, although the receiver works", len(left))
	}
	a := w.asks(logical.ReadOperation, "alerts/pager", nil)
	queue, _ := a.data()["queue"].(map[string]any)
	if a.ok() && (queue["count"] != 0 || queue["dropped"] != 0) {
		w.broken(9, "the queue of alerts is %v", queue)
	}
	w.say("%d findings have arrived: %s", opened, a)
	w.checkResponses()
}

// checkResponses checks that tokens are stopped whose findings say so: invariant 2.
func (w *world) checkResponses() {
	a := w.asks(logical.ListOperation, "findings/", map[string]any{"rule": "proof_failed"})
	info, _ := a.data()["key_info"].(map[string]any)
	for id, one := range info {
		f, _ := one.(map[string]any)
		response, _ := f["response"].(string)
		w.pager.mu.Lock()
		g := w.pager.misused[fmt.Sprint(f["token_id"])]
		w.pager.mu.Unlock()
		if g == nil || len(g.tokens) == 0 || response != "revoked" && (response != "suspended" || len(g.suspended.resumes) > 0) {
			continue
		}
		use := w.asks(logical.UpdateOperation, "introspect", map[string]any{"token": g.tokens[0].text})
		if active, _ := use.data()["active"].(bool); active {
			w.broken(2, "a token of grant %d is active, and finding %s says that the grant is %s", g.n, id, response)
		}
	}
}
