package simulation

import (
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// destruction is what is known of a key that somebody has destroyed, or has tried to.
type destruction struct{ done mark }

// keyName is the name of the key that a token was made with.
func keyName(text string) string {
	if !token.IsJWT(text) {
		nonce, _ := header(text)
		return nonce[:min(8, len(nonce))]
	}
	encoded, _, _ := strings.Cut(text, ".")
	decoded, _ := base64.RawURLEncoding.DecodeString(encoded)
	var head struct {
		Kid string `json:"kid"`
	}
	_ = json.Unmarshal(decoded, &head)
	return head.Kid
}

// destroyKey destroys the key of some token.
func (w *world) destroyKey(r *rand.Rand) {
	n := w.active
	w.mu.Lock()
	g := pick(r, w.model.grants)
	if g == nil || g.upstream != nil {
		w.mu.Unlock()
		return
	}
	tokens := append(append([]*issued(nil), g.tokens...), g.refreshes...)
	name := keyName(tokens[r.IntN(len(tokens))].text)
	key := w.model.destroyed[name]
	if key == nil {
		key = new(destruction)
		w.model.destroyed[name] = key
	}
	w.mu.Unlock()
	a := w.ask(n, &logical.Request{Operation: logical.DeleteOperation, Path: "keys/" + name})
	w.say("destroy key %s at node %d: %s", name, n.n, a)
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.ok() && key.done.seq == 0 {
		key.done = a.mark()
	}
}

// keyMayBeGone reports whether somebody has tried to destroy the key of a token. The caller holds mu.
func (w *world) keyMayBeGone(text string) bool { return w.model.destroyed[keyName(text)] != nil }

// keyGone reports whether the key of a token was destroyed before a request to a node began. The caller holds mu.
func (w *world) keyGone(text string, a *answer) bool {
	key := w.model.destroyed[keyName(text)]
	return key != nil && key.done.seq != 0 && key.done.seq < a.began && a.node.knows(key.done.seq, key.done.by)
}
