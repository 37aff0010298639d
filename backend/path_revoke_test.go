package backend

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestRevokeByTokenAndByID(t *testing.T) {
	e, other := newEngine(t), newEngine(t)
	for _, mount := range []*engine{e, other} {
		mount.write("roles/reader", data{"scopes": "a"})
	}
	a, b := e.creds("reader", nil), e.creds("reader", nil)
	for range 2 {
		e.write("revoke", data{"token": a.token})
		e.write("revoke", data{"token_id": b.id})
	}
	for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
		e.expect("revoked", a.token, nil)
		e.expect("revoked", b.token, nil)
	}
	e.write("revoke", data{"token_id": strings.Repeat("0", 24)}) // of nothing that is known

	stranger := other.creds("reader", nil)
	e.refused(logical.UpdateOperation, "revoke", data{"token": stranger.token}, "was not made by this mount: revoke the token at the mount that issued it. Nothing was revoked")
	e.refused(logical.UpdateOperation, "revoke", data{"token": a.token[:30]}, "may be mistyped or cut short. Nothing was revoked")
	e.refused(logical.UpdateOperation, "revoke", data{"token_id": "xyz"}, "token_id: must be 24")
	for _, path := range []string{"revoke", "lookup"} { // a token in the wrong field is not shown
		resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: path, Data: data{"token_id": a.token}})
		if e.saysNo(resp, err, "token_id: must be 24"); strings.Contains(resp.Error().Error(), a.token[:12]) {
			t.Errorf("%s shows the token: %s", path, resp.Error())
		}
	}
	e.refused(logical.UpdateOperation, "revoke", data{"token": a.token, "token_id": a.id}, "give exactly one of token, token_id and subject")
	e.refused(logical.UpdateOperation, "revoke", nil, "give exactly one of token, token_id and subject")
}

// A node whose clock is ahead takes a token for ended that is live by the clock of its successor: a revocation is
// remembered there.
func TestRevokeOnANodeAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "refresh": true, "access_ttl": "1h"})
		ahead := mountPrepared(t, e.storage, e.system, func(b *backend) { b.Now = func() time.Time { return time.Now().Add(9 * time.Minute) } })
		for _, by := range []func(c *creds) data{
			func(c *creds) data { return data{"token": c.token} },
			func(c *creds) data { return data{"token": c.data["refresh_token"]} },
			func(c *creds) data { return data{"token_id": c.id} },
		} {
			e := mountOn(t, e.storage, e.system)
			c := e.creds("reader", nil)
			time.Sleep(52 * time.Minute)
			ahead.write("revoke", by(c))
			mountOn(t, e.storage, e.system).expect("revoked", c.token, nil)
		}
	})
}

// A token issued in the last second before a crash is not in the inventory; its id can be revoked.
func TestRevokeAnIDThatTheInventoryHasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "max_ttl": "24h"})
		c := e.creds("reader", nil)
		crashed := mountOn(t, e.storage, e.system)
		if crashed.read("tokens/"+c.id) != nil {
			t.Fatal("the inventory has it")
		}
		crashed.write("revoke", data{"token_id": c.id})
		crashed.expect("revoked", c.token, nil)
		crashed.minute()
		time.Sleep(59 * time.Minute)
		crashed.expect("revoked", c.token, nil)
	})
}

func TestLookup(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a", "token_bound_cidrs": "10.0.0.0/8"})
	c := e.creds("reader", nil)
	for _, by := range []data{{"token": c.token}, {"token_id": c.id}} {
		got := e.write("lookup", by)
		if got["state"] != "active" || got["role"] != "reader" || got["entity_id"] != entityAnn || got["display_name"] != "approle" || got["token_id"] != c.id {
			t.Errorf("by %v: %v", by, got)
		}
	}
	for state, by := range map[string]data{
		"unknown":   {"token_id": strings.Repeat("0", 24)},
		"malformed": {"token": "noise"},
	} {
		if got := e.write("lookup", by); got["state"] != state || got["detail"] == "" {
			t.Errorf("%v: %v", by, got)
		}
	}
	e.write("revoke", data{"token": c.token})
	if got := e.write("lookup", data{"token_id": c.id}); got["state"] != "revoked" {
		t.Errorf("%v", got)
	}
	e.refused(logical.UpdateOperation, "lookup", nil, "give exactly one of token and token_id")
}
