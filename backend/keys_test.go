package backend

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// A key lives for as long as what it has made, also where that came of nothing but refreshes and exchanges.
func TestKeysOutliveWhatRefreshesMake(t *testing.T) {
	for _, tokenFormat := range []string{"opaque", "jwt"} {
		synctest.Test(t, func(t *testing.T) {
			e := newIssuer(t)
			e.write("roles/app", data{"token_format": tokenFormat, "scopes": "a", "audience": "x", "refresh": true, "exchange": true, "access_ttl": "2h", "ttl": "12h", "max_ttl": "24h"})
			c := e.creds("app", nil)
			time.Sleep(10 * time.Minute)
			e.write("keys/rotate", nil)
			access, refresh := e.mustRefresh(c.data["refresh_token"].(string))
			time.Sleep(10 * time.Minute)
			e.write("keys/rotate", nil)
			_, answer := e.exchange(access, nil)
			exchanged := answer["access_token"].(string)
			time.Sleep(10 * time.Minute)
			e.write("keys/rotate", nil)
			time.Sleep(time.Hour)
			e.minute()
			for name, text := range map[string]string{"refreshed": access, "exchanged": exchanged} {
				if reason := e.reason(text, nil); reason != "active" {
					t.Errorf("a %s %s token is %s", name, tokenFormat, reason)
				}
			}
			e.vaultRenews(c, 24*time.Hour)
			time.Sleep(20 * time.Hour)
			e.minute()
			if status, answer := e.refresh(refresh); status != 200 {
				t.Errorf("the refresh token of a live grant: %d %v", status, answer)
			}
		})
	}
}

// What is remembered of a refresh goes when the grant can have no more refresh tokens, not when no token of the
// mount can be left.
func TestRefreshesAreForgottenWithTheirGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/long", data{"scopes": "a"})
		e.creds("long", nil)
		e.write("roles/app", data{"scopes": "a", "refresh": true, "access_ttl": "5m", "ttl": "1h", "max_ttl": "1h"})
		e.mustRefresh(e.creds("app", nil).data["refresh_token"].(string))
		time.Sleep(2 * time.Hour)
		e.minute()
		left, err := e.storage.List(context.Background(), "ledger/refreshes/")
		if err != nil || len(left) > 0 {
			t.Errorf("%q, %v", left, err)
		}
	})
}

// Of the expired keys the oldest are forgotten, and never one that a live token was made with.
func TestForgettingKeysSparesLiveOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/long", data{"scopes": "a"})
		c := e.creds("long", nil)
		for range 1005 {
			e.write("keys/rotate", nil)
			time.Sleep(time.Second)
		}
		time.Sleep(time.Hour)
		e.minute()
		for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
			e.expect("active", c.token, nil)
			if n := strings.Count(e.keyStates(), "expired"); n != 1000 {
				t.Errorf("%d expired keys are remembered", n)
			}
		}
	})
}

// A process that is behind neither loses a key that another one has made, nor uses again one that was retired.
func TestAProcessBehindLosesNoKey(t *testing.T) {
	for _, tokenFormat := range []string{"opaque", "jwt"} {
		synctest.Test(t, func(t *testing.T) {
			ahead := newIssuer(t)
			role := data{"token_format": tokenFormat, "scopes": "a", "audience": "x", "ttl": "1h", "max_ttl": "1h"}
			ahead.write("roles/app", role)
			first := ahead.creds("app", nil)
			time.Sleep(10 * time.Minute)
			behind := mountOn(t, ahead.storage, ahead.system)
			ahead.write("keys/rotate", nil)
			second := ahead.creds("app", nil)

			// Told of nothing, the other one issues what lives for longer, and does its work of the minute.
			behind.write("roles/longer", data{"token_format": tokenFormat, "scopes": "a", "audience": "x", "ttl": "24h", "max_ttl": "24h"})
			third := behind.creds("longer", nil)
			behind.minute()
			now := mountOn(t, ahead.storage, ahead.system)
			for i, c := range []*creds{first, second, third} {
				if reason := now.reason(c.token, nil); reason != "active" {
					t.Errorf("%s token %d is %s", tokenFormat, i, reason)
				}
			}
			time.Sleep(23 * time.Hour)
			now.minute()
			if reason := now.reason(third.token, nil); reason != "active" {
				t.Errorf("the %s token with the longest life is %s", tokenFormat, reason)
			}
		})
	}
}

// A process that does not know how long a key's tokens live revokes a grant for as long as the grant lives.
func TestAProcessBehindRevokesForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind := newIssuer(t)
		behind.write("roles/app", data{"scopes": "a", "refresh": true, "access_ttl": "5m", "ttl": "12h", "max_ttl": "12h"})
		behind.write("keys/rotate", nil)
		ahead := mountOn(t, behind.storage, behind.system)
		grant := ahead.creds("app", nil)
		behind.form("oauth/revoke", data{"token": grant.data["refresh_token"]})
		time.Sleep(time.Hour)
		now := mountOn(t, behind.storage, behind.system)
		now.minute()
		now = mountOn(t, behind.storage, behind.system)
		if status, _ := now.form("oauth/token", data{"grant_type": "refresh_token", "refresh_token": grant.data["refresh_token"]}); status == 200 {
			t.Error("a revoked grant is refreshed")
		}
	})
}

// A process that does not know the status list of a JWT has that list show the revocation of the JWT by its id.
func TestAProcessBehindRevokesInTheStatusList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind := newIssuer(t)
		behind.write("roles/app", data{"token_format": "jwt", "scopes": "a", "audience": "x"})
		ahead := mountOn(t, behind.storage, behind.system)
		grant := ahead.creds("app", nil)
		if resp := behind.do(logical.UpdateOperation, "revoke", data{"token_id": grant.id}); resp != nil && len(resp.Warnings) > 0 {
			t.Error(resp.Warnings)
		}
		now := mountOn(t, behind.storage, behind.system)
		claims, err := now.b.Loaded().Open(t.Context(), behind.storage, grant.token)
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := now.b.Loaded().Deviations.Get(claims.Grant); !ok || d.Status != claims.Status {
			t.Errorf("the revocation names the place %v, want %v", d.Status, claims.Status)
		}
	})
}

// However many keys there are, an entry holds one.
func TestAnEntryHoldsOneKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		e.write("config", data{"signing_algorithm": "RS256"})
		e.write("roles/app", data{"token_format": "jwt", "scopes": "a", "audience": "x"})
		e.creds("app", nil)
		for range 4 {
			time.Sleep(10 * time.Minute)
			e.write("keys/rotate", nil)
			e.creds("app", nil)
		}
		keys, err := logical.CollectKeysWithPrefix(t.Context(), e.storage, "keys/")
		if err != nil || len(keys) < 9 {
			t.Errorf("%q, %v", keys, err)
		}
		for _, key := range keys {
			entry, err := e.storage.Get(t.Context(), key)
			if err != nil || len(entry.Value) > 4096 {
				t.Errorf("%s holds %d bytes, %v", key, len(entry.Value), err)
			}
		}
	})
}

func (e *engine) kid(c *creds) string {
	e.t.Helper()
	return jwtHeader(e.t.(*testing.T), c.token)["kid"].(string)
}

func TestDestroyAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		e.write("roles/app", data{"scopes": "a", "refresh": true, "access_ttl": "1h", "max_ttl": "24h"})
		first := e.creds("app", nil)
		key := strings.TrimPrefix(e.sealingKey(), "keys/opaque/")
		before := e.do(logical.UpdateOperation, "keys/rotate", nil).Data["key"]
		second := e.creds("app", nil)

		// A retired one.
		resp := e.do(logical.DeleteOperation, "keys/"+key, nil)
		if resp.Data["key"] != before || len(resp.Warnings) > 0 {
			t.Errorf("%v", resp)
		}
		// The current one: another takes its place.
		third := e.creds("app", nil)
		resp = e.do(logical.DeleteOperation, "keys/"+before.(string), nil)
		if resp.Data["key"] == before {
			t.Errorf("%v", resp)
		}
		fourth := e.creds("app", nil)
		e.do(logical.DeleteOperation, "keys/"+key, nil) // once more
		e.refused(logical.DeleteOperation, "keys/12345678", nil, `key: there is no key "12345678"`)
		for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
			for _, c := range []*creds{first, second, third} {
				e.expect("revoked", c.token, nil)
				e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": c.data["refresh_token"]}, "invalid_grant")
				e.write("revoke", data{"token": c.token}) // is no error
			}
			e.expect("active", fourth.token, nil)
			if states := e.keyStates(); states != "destroyed destroyed current" {
				t.Error(states)
			}
		}
		// It stays so after the tokens would have expired.
		time.Sleep(26 * time.Hour)
		e.minute()
		e.expect("revoked", first.token, nil)
	})
}

// What is listed of tokens whose key was destroyed is what introspection says of them, and a static role gets another.
func TestDestroyedKeysShowEverywhere(t *testing.T) {
	for _, tokenFormat := range []string{"opaque", "jwt"} {
		synctest.Test(t, func(t *testing.T) {
			e := newIssuer(t)
			role := data{"token_format": tokenFormat, "scopes": "a", "audience": "x", "max_tokens": 1}
			e.write("roles/app", role)
			role["refresh"], role["access_ttl"] = true, "1h"
			e.write("roles/refreshed", role)
			e.write("roles/kept", data{"scopes": "a"})
			e.write("static-roles/box", data{"role": "kept", "rotation_period": "24h"})
			kept := e.read("static-creds/box")["token"].(string)
			e.write("roles/early", role)
			c, r, early := e.creds("app", nil), e.creds("refreshed", nil), e.creds("early", nil)
			time.Sleep(10 * time.Minute)
			e.refused(logical.UpdateOperation, "creds/app", nil, "max_tokens")
			e.mustRefresh(early.data["refresh_token"].(string)) // with the key that is to be destroyed
			time.Sleep(10 * time.Minute)
			e.write("keys/rotate", nil)
			time.Sleep(10 * time.Minute)
			_, refresh := e.mustRefresh(r.data["refresh_token"].(string))
			for key, about := range e.do(logical.ListOperation, "keys/", nil).Data["key_info"].(data) {
				if about.(data)["state"] == "retired" {
					e.do(logical.DeleteOperation, "keys/"+key, nil)
				}
			}
			time.Sleep(2 * time.Second)
			e.b.Flush(context.Background())
			for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
				e.expect("revoked", c.token, nil)
				for _, c := range []*creds{c, early} {
					if state := e.read("tokens/" + c.id)["state"]; state != "revoked" {
						t.Errorf("%s: %s: listed as %v", tokenFormat, c.data["role"], state)
					}
				}
				if state := e.read("tokens/" + r.id)["state"]; state != "active" {
					t.Errorf("%s: a grant that was refreshed with another key is listed as %v", tokenFormat, state)
				}
			}
			if status, _ := e.refresh(refresh); status != 200 {
				t.Errorf("%s: %d", tokenFormat, status)
			}
			e.creds("app", nil)
			e.expect("revoked", kept, nil)
			if now := e.read("static-creds/box")["token"].(string); now == kept {
				t.Errorf("%s: the static role gives out a token whose key was destroyed", tokenFormat)
			} else {
				e.expect("active", now, nil)
			}
		})
	}
}

func TestDestroyASigningKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		e.write("roles/app", data{"token_format": "jwt", "scopes": "a", "audience": "x"})
		first := e.creds("app", nil)
		published := len(e.keySet().Keys)
		behind := mountOn(t, e.storage, e.system)
		resp := e.do(logical.DeleteOperation, "keys/"+e.kid(first), nil)
		if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "may not know the key that signs from now on until "+time.Now().Add(5*time.Minute).UTC().Format(time.RFC3339)) {
			t.Errorf("%q", resp.Warnings)
		}
		second := e.creds("app", nil)
		if resp.Data["signing_key"] != e.kid(second) || e.kid(first) == e.kid(second) {
			t.Errorf("%v, and %s signs", resp.Data, e.kid(second))
		}
		// One that is behind writes what it remembers of the key, and brings nothing back.
		behind.write("roles/longer", data{"token_format": "jwt", "scopes": "a", "audience": "x", "ttl": "1h"})
		e.tamperBack(behind, e.kid(first))
		behind.minute()
		for _, e := range []*engine{e, behind, mountOn(t, e.storage, e.system)} {
			e.expect("revoked", first.token, nil)
			e.expect("active", second.token, nil)
			if keys := e.keySet(); len(keys.Keys) != published || len(keys.Key(e.kid(first))) > 0 {
				t.Errorf("%d keys are published, of which the destroyed one %d times", len(keys.Keys), len(keys.Key(e.kid(first))))
			}
		}
		if entry, err := e.storage.Get(t.Context(), "keys/signing/"+e.kid(first)); err != nil || entry != nil {
			t.Errorf("the private key is stored: %v", err)
		}

		// The successor, too, is replaced: it is published.
		successor := e.b.Loaded().Signing.Keys().Successor().Name
		if resp := e.do(logical.DeleteOperation, "keys/"+successor, nil); len(resp.Warnings) > 0 {
			t.Errorf("%q", resp.Warnings)
		}
		if keys := e.keySet(); len(keys.Keys) != published || len(keys.Key(successor)) > 0 {
			t.Error("the successor is still published")
		}
		e.expect("active", second.token, nil)
		time.Sleep(5 * time.Minute)
		if resp := e.do(logical.DeleteOperation, "keys/"+e.kid(second), nil); len(resp.Warnings) > 0 {
			t.Errorf("a successor that everybody knows: %q", resp.Warnings)
		}
		third := e.creds("app", nil)
		e.expect("revoked", second.token, nil)
		e.verify(third.token, "at+jwt")
	})
}

// tamperBack stores a signing key as another engine remembers it.
func (e *engine) tamperBack(behind *engine, kid string) {
	e.t.Helper()
	entry, err := logical.StorageEntryJSON("keys/signing/"+kid, behind.b.Loaded().Signing.Keys().Find(kid))
	if err == nil {
		err = e.storage.Put(context.Background(), entry)
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

// A key that cannot be read costs the tokens that were made with it, and is listed and can be destroyed. Its tokens
// are not called what they are not.
func TestAKeyThatCannotBeRead(t *testing.T) {
	for i := range 2 {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a"})
		first := e.creds("reader", nil)
		damaged := e.sealingKey()
		e.write("keys/rotate", nil)
		second := e.creds("reader", nil)
		if err := e.storage.Put(context.Background(), &logical.StorageEntry{Key: damaged, Value: []byte("{damaged")}); err != nil {
			t.Fatal(err)
		}
		e = e.restart()
		e.expect("active", second.token, nil)
		if resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "introspect", Data: data{"token": first.token}}); err == nil {
			t.Errorf("%v", resp)
		}
		name := strings.TrimPrefix(damaged, "keys/opaque/")
		info := e.do(logical.ListOperation, "keys/", nil).Data["key_info"].(data)
		if got := fmt.Sprint(info[name]); !strings.Contains(got, "broken") || !strings.Contains(got, "cannot be decoded") {
			t.Error(got)
		}
		if listed := e.list("broken/", nil); len(listed) != 1 || listed[0] != damaged {
			t.Errorf("%q", listed)
		}
		e.do(logical.DeleteOperation, []string{"keys/" + name, "broken/" + damaged}[i], nil)
		for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
			e.expect("revoked", first.token, nil)
			e.expect("active", second.token, nil)
			if listed := e.list("broken/", nil); len(listed) > 0 {
				t.Errorf("%q", listed)
			}
		}
	}
}

// A process that was told of nothing knows a token of a key that another one has made, and revokes it by any door.
func TestAProcessBehindLearnsKeys(t *testing.T) {
	for _, tokenFormat := range []string{"opaque", "jwt"} {
		synctest.Test(t, func(t *testing.T) {
			ahead := newIssuer(t)
			ahead.write("roles/app", data{"token_format": tokenFormat, "scopes": "a", "audience": "x", "refresh": true, "access_ttl": "1h"})
			ahead.creds("app", nil)
			behind := mountOn(t, ahead.storage, ahead.system)
			time.Sleep(10 * time.Minute)
			for range 2 {
				ahead.write("keys/rotate", nil)
				time.Sleep(10 * time.Minute)
			}
			c := ahead.creds("app", nil)
			behind.expect("active", c.token, nil)
			behind.form("oauth/revoke", data{"token": c.data["refresh_token"]})
			for _, e := range []*engine{behind, mountOn(t, ahead.storage, ahead.system)} {
				e.expect("revoked", c.token, nil)
			}
			behind.expect("wrong_environment", newTokenElsewhere(t), nil)
		})
	}
}

// newTokenElsewhere is a token of another mount.
func newTokenElsewhere(t *testing.T) string {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	return e.creds("reader", nil).token
}
