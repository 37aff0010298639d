package simulation

import (
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// checkStatus fetches the status list of a revoked or suspended JWT: invariant 2 for those who verify offline.
func (w *world) checkStatus(n *node, tok *issued) {
	a := w.ask(n, &logical.Request{Operation: logical.ReadOperation, Path: "oauth/status/" + tok.list})
	if a.lost || a.err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	g := tok.grant
	_, maybe := w.roleAlive(n, g)
	// A JWT may state a later end than its grant has: a renewal may have shortened the grant.
	over := g.over.before(a.began, n) && g.overAt.Before(tok.end)
	// A node cannot list a JWT that another node has issued since: that node did not know of the revocation.
	listable := func(since mark) bool { return tok.seq < since.seq || n.knows(tok.seq, tok.by) }
	dead := g.revoked.before(a.began, n) && listable(g.revoked) || over && listable(g.over) || !maybe
	dead = dead && !g.unlisted
	held := w.mustBeListed(n, g, a.began, nil)
	live := w.surelyLive(n, g) && n.knows(tok.seq, tok.by)
	if !dead && !held && !live || !n.now().Before(tok.end) {
		return
	}
	body, status := rawBody(a.resp)
	if status != 200 {
		if n.knows(tok.seq, tok.by) {
			w.broken(2, "status list %s of a live token is answered with %d", tok.list, status)
		}
		return
	}
	shown, err := w.status(body, tok.place)
	switch {
	case err != nil:
		w.broken(4, "status list %s: %v", tok.list, err)
	case dead && shown != token.StatusInvalid:
		w.broken(2, "status list %s at node %d shows %d for JWT %s of grant %d, which is revoked", tok.list, n.n, shown, tok.id, g.n)
	case held && shown == token.StatusValid:
		w.broken(2, "status list %s at node %d shows %d for JWT %s of grant %d, which is suspended", tok.list, n.n, shown, tok.id, g.n)
	case live && shown != token.StatusValid:
		w.broken(4, "status list %s at node %d shows %d for JWT %s of grant %d, which is live", tok.list, n.n, shown, tok.id, g.n)
	}
}

// status reads a place of a signed status list. The caller holds mu.
func (w *world) status(signed string, place int) (byte, error) {
	list, known := w.lists[signed]
	if !known {
		parts := strings.Split(signed, ".")
		payload, err := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)])
		if err != nil {
			return 0, err
		}
		var claims struct {
			List struct {
				Bits int    `json:"bits"`
				Lst  string `json:"lst"`
			} `json:"status_list"`
		}
		if err := json.Unmarshal(payload, &claims); err != nil {
			return 0, err
		}
		bytes, err := token.DecodeStatusList(claims.List.Lst)
		if err != nil {
			return 0, err
		}
		list = statusList{claims.List.Bits, bytes}
		w.lists = map[string]statusList{signed: list}
	}
	return token.StatusAt(list.bytes, list.bits, uint32(place)), nil
}

// statusList is what a signed status list holds.
type statusList struct {
	bits  int
	bytes []byte
}

// someListed picks a JWT that its status list should show as revoked or suspended, or as live again, now and then: making a list takes a while. The
// caller holds mu.
func (w *world) someListed(n *node, r *rand.Rand) *issued {
	if r.IntN(4) > 0 {
		return nil
	}
	for range 3 {
		tok := pick(r, w.model.tokens)
		if tok == nil || tok.list == "" || !n.now().Before(tok.end) {
			continue
		}
		if _, maybe := w.roleAlive(n, tok.grant); !maybe || tok.grant.revoked.seq != 0 || tok.grant.over.seq != 0 || len(tok.grant.suspended.suspends) > 0 || len(w.entity(tok.grant.subject).suspends) > 0 {
			return tok
		}
	}
	return nil
}
