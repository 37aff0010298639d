package simulation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
)

// listDelay is after what time the library notices what the active node knows of JWTs: three times status_list_ttl in the
// longest case, and some polls.
const listDelay = 3*time.Minute + 20*time.Second

// library is an API server that checks tokens with package verify. Its requests go to the node that is active, as Vault
// sends them.
type library struct {
	world    *world
	verifier *verify.Verifier
	active   atomic.Pointer[node] // the node that was active after the last step
	standby  atomic.Pointer[node] // nil: none
	since    time.Time            // when the node was noticed to be active
	allowed  int                  // decisions so far
	refused  int
}

// attach lets a world have a library.
func (w *world) attach() *library {
	l := &library{world: w}
	l.follow()
	v, err := verify.New(context.Background(), verify.Config{
		AnyAudience: true, HTTPClient: &http.Client{Transport: l}, Logger: slog.New(slog.DiscardHandler),
		ReportInterval: -1, // the world counts the uses that its own actors report
		Vault:          &verify.VaultConfig{Address: "https://vault.example.com", Token: "the verifier's"},
	})
	if err != nil {
		w.broken(0, "the library does not start: %v", err)
		return nil
	}
	l.verifier = v
	return l
}

// follow has the library's requests go to the nodes that are there after a step.
func (l *library) follow() {
	if l.active.Swap(l.world.active) != l.world.active {
		l.since = time.Now()
	}
	l.standby.Store(l.world.standby)
}

// RoundTrip does what Vault does with a request.
func (l *library) RoundTrip(r *http.Request) (*http.Response, error) {
	path, mine := strings.CutPrefix(r.URL.Path, "/v1/apitoken/")
	if !mine {
		return respond(r, http.StatusNotFound, []byte(`{"errors":[]}`)), nil
	}
	req := &logical.Request{Operation: logical.ReadOperation, Path: path, Data: map[string]any{}}
	if r.Body != nil {
		req.Operation = logical.UpdateOperation
		if err := json.NewDecoder(r.Body).Decode(&req.Data); err != nil {
			return nil, err
		}
	}
	for name, values := range r.URL.Query() {
		req.Data[name] = values[0]
	}
	n := l.active.Load()
	if s := l.standby.Load(); s != nil && path == "introspect" {
		n = s
	}
	resp, err := l.send(r.Context(), n, req)
	if errors.Is(err, logical.ErrReadOnly) && n != nil && n.standby {
		n = l.active.Load()
		resp, err = l.send(r.Context(), n, req)
	}
	switch {
	case n == nil || n.dead():
		return nil, errors.New("connection reset by peer")
	case err != nil:
		return respond(r, http.StatusInternalServerError, []byte(`{"errors":["internal error"]}`)), nil
	case resp != nil && resp.IsError():
		return respond(r, http.StatusBadRequest, []byte(`{"errors":["refused"]}`)), nil
	}
	if body, status := rawBody(resp); status != 0 {
		return respond(r, status, []byte(body)), nil
	}
	if resp == nil {
		return respond(r, http.StatusNoContent, nil), nil
	}
	body, err := json.Marshal(map[string]any{"data": resp.Data})
	return respond(r, http.StatusOK, body), err
}

func (l *library) send(ctx context.Context, n *node, req *logical.Request) (*logical.Response, error) {
	if n == nil {
		return nil, errors.New("no node is active")
	}
	again := *req
	again.ID, again.Storage, again.MountPoint, again.MountType = "request", n.storage, "apitoken/", "apitoken"
	again.Connection = &logical.Connection{RemoteAddr: "127.0.0.1"}
	return n.b.HandleRequest(context.WithValue(ctx, operationsKey{}, new(operations)), &again)
}

func respond(r *http.Request, status int, body []byte) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Request: r,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// checkLibrary has the library decide on a token, and holds the decision against the model: invariants 1 and 2. What the
// active node knew when the feed was last read, the library must know.
func (w *world) checkLibrary(l *library, r *rand.Rand) {
	w.advance(time.Duration(r.IntN(3)) * time.Second)
	l.follow()
	w.mu.Lock()
	g := pick(r, w.model.grants)
	if g == nil || len(g.tokens) == 0 || g.upstream != nil {
		w.mu.Unlock()
		return
	}
	tok := g.tokens[r.IntN(len(g.tokens))]
	if r.IntN(8) == 0 && len(g.refreshes) > 0 {
		tok = g.refreshes[r.IntN(len(g.refreshes))]
	}
	region := tok.nextRegion()
	w.mu.Unlock()
	use := &verify.Use{Region: region, Client: netip.MustParseAddr("127.0.0.1"), Audience: "https://api.example.com"}
	at, fed, n, began := time.Now(), l.verifier.State().FeedAt, w.active, w.stamp()
	d, err := l.verifier.Check(context.Background(), tok.text, use)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil || !d.Allowed {
		l.refused++
		return
	}
	l.allowed++
	signed := token.IsJWT(tok.text)
	if signed {
		fed = at.Add(-listDelay)
	}
	settled := n != nil && n == w.active && l.since.Before(fed) // the library knows what the node knew then
	switch {
	case tok.refresh:
		w.broken(1, "the library allows a refresh token of grant %d", g.n)
	case !within(d.Scopes, tok.scopes):
		w.broken(1, "the library grants %q to grant %d (%s), which was issued with %q", d.Scopes, g.n, g.role.name, tok.scopes)
	case !settled || signed && tok.list == "":
	case !at.Before(g.period(n).hi.Add(w.spread() + time.Second)):
		w.broken(1, "the library allows grant %d (%s) %s after its end", g.n, g.role.name, at.Sub(g.period(n).hi))
	case g.revoked.seq != 0 && g.revoked.at.Before(fed) && n.knows(g.revoked.seq, g.revoked.by) && !(signed && g.unlisted):
		w.broken(2, "the library allows grant %d (%s) %s after its revocation was acknowledged", g.n, g.role.name, at.Sub(g.revoked.at))
	case !signed && (g.suspended.binding(n, began, until(fed)) != nil || w.entity(g.subject).binding(n, began, until(fed)) != nil) ||
		signed && w.mustBeListed(n, g, began, until(fed)):
		w.broken(2, "the library allows grant %d (%s), which is suspended", g.n, g.role.name)
	case !g.role.states[len(g.role.states)-1].at.Before(fed): // the role has just changed
	default:
		w.checkLibraryRole(n, g, signed, d.Scopes)
	}
}

// checkLibraryRole holds what the library allows against the role. The caller holds mu.
func (w *world) checkLibraryRole(n *node, g *grant, signed bool, scopes []string) {
	if _, maybe := w.roleAlive(n, g); !maybe {
		w.broken(2, "the library allows grant %d of the deleted role %s", g.n, g.role.name)
	}
	if allowed := w.possiblyAllowed(n, g); !signed && !within(scopes, allowed) {
		w.broken(1, "the library grants %q to grant %d, and its role %s allows %q", scopes, g.n, g.role.name, allowed)
	}
}
