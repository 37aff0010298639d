package backend

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
)

const full = `max_tokens: role "reader" has reached its limit of live tokens, which is 2: revoke those`

func TestMaxTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "max_ttl": "3h", "max_tokens": 2})
		first, second := e.creds("reader", nil), e.creds("reader", nil)
		writes := e.storage.writes.Load()
		refused := func() {
			t.Helper()
			e.refused(logical.UpdateOperation, "creds/reader", nil, full)
			e.refused(logical.ReadOperation, "creds/reader", nil, full)
		}
		refused()
		if n := e.storage.writes.Load() - writes; n != 0 {
			t.Errorf("a refused request has written %d times", n)
		}

		// Revoking frees a place, by whatever door, within a second.
		e.revokeLease(first)
		time.Sleep(time.Second)
		third := e.creds("reader", nil)
		refused()
		e.write("revoke", data{"token_id": third.id})
		time.Sleep(time.Second)
		e.creds("reader", nil)
		refused()

		// So does expiry; renewing keeps the place.
		if resp, err := e.renew(second, 2*time.Hour); err != nil || resp.IsError() {
			t.Fatal(resp, err)
		}
		time.Sleep(time.Hour + time.Second)
		e.creds("reader", nil)
		refused()
		e.minute()
		refused()

		// A new version of the role keeps the count, and so does a new process.
		e.write("roles/reader", data{"scopes": "a,b"})
		refused()
		e = e.restart()
		refused()
		e.write("roles/reader", data{"max_tokens": 3})
		e.creds("reader", nil)
		e.refused(logical.ReadOperation, "creds/reader", nil, "limit of live tokens, which is 3")
		e.write("roles/reader", data{"max_tokens": 2})
		refused()

		// What is deleted and created again starts at nothing.
		e.do(logical.DeleteOperation, "roles/reader", nil)
		e.write("roles/reader", data{"scopes": "a", "max_tokens": 2})
		e.creds("reader", nil)
		e.creds("reader", nil)
		refused()
		e.write("roles/reader", data{"max_tokens": 0})
		e.creds("reader", nil)
	})
}

// A grant has one place, whatever is refreshed or exchanged.
func TestMaxTokensOfGrants(t *testing.T) {
	e := newIssuer(t)
	e.write("roles/reader", data{"token_format": "jwt", "audience": "x", "scopes": "a", "refresh": true, "access_ttl": "1m", "exchange": true, "max_tokens": 2})
	c := e.creds("reader", nil)
	e.mustRefresh(c.data["refresh_token"].(string))
	if status, answer := e.exchange(c.token, data{}); status != 200 {
		t.Fatal(answer)
	}
	e.creds("reader", nil)
	e.refused(logical.ReadOperation, "creds/reader", nil, full)
}

func TestMaxTokensRefuses(t *testing.T) {
	e := newIssuer(t)
	e.refused(logical.UpdateOperation, "roles/reader", data{"scopes": "a", "max_tokens": -1}, "max_tokens: -1 is less than 0")
	jwt := data{"token_format": "jwt", "audience": "x", "scopes": "a", "generate_lease": false, "max_tokens": 1}
	e.refused(logical.UpdateOperation, "roles/reader", jwt, "max_tokens: needs leases: with generate_lease=false the engine stores nothing of a token")
}

// A place is taken before the token is made, and is free again where no token came of it.
// A limit counts the tokens that were issued while the role had none.
func TestMaxTokensAfterNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		limit := func(n int) { e.write("roles/reader", data{"scopes": "a", "max_tokens": n}) }
		limit(1)
		e.creds("reader", nil)
		e.refused(logical.ReadOperation, "creds/reader", nil, "which is 1")
		limit(0)
		e.creds("reader", nil)
		limit(2)
		e.refused(logical.ReadOperation, "creds/reader", nil, full)
	})
}

func TestMaxTokensAtOnce(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a", "max_tokens": 10, "metadata": data{"who": "{{identity.entity.name}}"}})
	for range 20 {
		e.refused(logical.ReadOperation, "creds/reader", nil, "the caller has no entity")
	}
	for range 3 {
		var issued atomic.Int32
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				resp, err := e.request(&logical.Request{Operation: logical.ReadOperation, Path: "creds/reader", EntityID: entityAnn})
				if err == nil && !resp.IsError() {
					issued.Add(1)
				}
			})
		}
		wg.Wait()
		if n := issued.Load(); n != 10 {
			t.Errorf("%d tokens were issued, max_tokens is 10", n)
		}
		e.do(logical.DeleteOperation, "roles/reader", nil)
		e.write("roles/reader", data{"scopes": "a", "max_tokens": 10})
	}
}

func TestMaxTokensOfAnUpstream(t *testing.T) {
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("roles/reader", data{"max_tokens": 2, "params": data{"books": "forbidden"}})
	for range 3 {
		e.refused(logical.ReadOperation, "creds/reader", nil, "no token was issued")
	}
	e.write("roles/reader", data{"params": data{"books": "a"}})
	first := e.creds("reader", nil)
	e.creds("reader", nil)
	e.refused(logical.ReadOperation, "creds/reader", nil, full)
	if n := s.live(); n != 2 {
		t.Errorf("%d tokens are at the upstream", n)
	}
	e.revokeLease(first)
	e.b.World.Limits.Forget(e.b.Loaded().Roles.Get("reader").ID) // as a second later
	e.creds("reader", nil)
	e.refused(logical.ReadOperation, "creds/reader", nil, full)

	// A token that is given again needs no place.
	e.write("roles/shared", data{"connection": "shelf", "params": data{"books": "a"}, "ttl": "1h", "max_tokens": 1, "reuse": "10m"})
	for range 3 {
		e.creds("shared", nil)
	}
}

// A static role's token takes no place, and is never refused one.
func TestMaxTokensAndStaticRoles(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a", "max_tokens": 2})
	e.write("static-roles/one", data{"role": "reader", "rotation_period": "24h", "overlap": "1h"})
	e.write("rotate-role/one", nil)
	e.creds("reader", nil)
	e.creds("reader", nil)
	e.refused(logical.ReadOperation, "creds/reader", nil, full)
	e.write("rotate-role/one", nil)
}

// Nor does one of them take a place that was rotated out, and could not be revoked yet.
func TestMaxTokensAndEndedStaticTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a", "max_tokens": 1})
		e.write("static-roles/one", data{"role": "reader", "rotation_period": "24h", "overlap": "1h"})
		e.write("rotate-role/one", nil)
		failing := &refusing{Storage: e.storage, prefix: ledger.DeviationsPrefix}
		if resp, err := e.ask(failing, logical.UpdateOperation, "rotate-role/one", nil); err == nil && !resp.IsError() {
			t.Fatal("the token before the last one was ended")
		}
		e.creds("reader", nil)
		e.refused(logical.ReadOperation, "creds/reader", nil, "limit of live tokens, which is 1")
	})
}

// A shared token whose row a crash has lost counts from when it is given again, also if the live tokens were counted just before.
func TestMaxTokensAndASharedTokenWhoseRowIsLost(t *testing.T) {
	e := onShelf(t, newShelf(t))
	e.write("roles/reader", data{"max_tokens": 2})
	for range 2 {
		e.revokeLease(e.creds("reader", nil))
	}
	e = e.restart() // the rows of revoked tokens are stored: from here on the live tokens are counted
	e.write("roles/reader", data{"reuse": "10m", "params": data{"books": "a"}})
	e.creds("reader", nil)
	next := mountOn(t, e.storage, e.system) // the row of the token is not stored
	for _, books := range []string{"b", "a"} {
		next.write("roles/reader", data{"params": data{"books": books}})
		next.creds("reader", nil)
	}
	next.write("roles/reader", data{"params": data{"books": "c"}})
	next.refused(logical.ReadOperation, "creds/reader", nil, full)
}

// A shared token counts if its first requester hangs up, since others get the same token.
func TestMaxTokensAndASharedTokenWhoseFirstRequesterHangsUp(t *testing.T) {
	s := newShelf(t)
	e := onShelf(t, s)
	e.write("roles/reader", data{"reuse": "10m", "max_tokens": 1})
	ctx, cancel := context.WithCancel(t.Context())
	s.setFault(once(http.MethodPost, func(http.ResponseWriter, *http.Request, func()) bool {
		cancel()
		return false
	}))
	if resp, err := e.b.HandleRequest(ctx, &logical.Request{
		Operation: logical.ReadOperation, Path: "creds/reader", Storage: e.storage, MountPoint: "apitoken/",
		Connection: &logical.Connection{RemoteAddr: "127.0.0.1"},
	}); err == nil {
		t.Fatalf("the client that hung up got %v", resp)
	}
	c := e.creds("reader", nil)
	if s.live() != 1 {
		t.Errorf("%d tokens are at the service", s.live())
	}
	if role := e.read("tokens/" + c.id)["role"]; role != "reader" {
		t.Errorf("the token is listed with role %v", role)
	}
	e.write("roles/reader", data{"params": data{"books": "a"}}) // which needs another token
	e.refused(logical.ReadOperation, "creds/reader", nil, "which is 1")
}

// A shared token counts for as long as one of its leases is renewed.
func TestMaxTokensAndARenewedSharedToken(t *testing.T) {
	s := newShelf(t)
	clock := new(clock)
	e := onShelfPrepared(t, s, clock.hurried)
	e.write("roles/reader", data{"reuse": "1m", "max_tokens": 1, "ttl": "1h", "max_ttl": "4h"})
	c := e.creds("reader", nil)
	clock.pass(50 * time.Minute)
	if resp, err := e.renew(c, 2*time.Hour); err != nil || resp.IsError() {
		t.Fatal(resp, err)
	}
	clock.pass(time.Hour)
	e.refused(logical.ReadOperation, "creds/reader", nil, "which is 1")
}
