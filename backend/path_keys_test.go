package backend

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func (e *engine) keyStates() string {
	e.t.Helper()
	resp := e.do(logical.ListOperation, "keys/", nil)
	var states []string
	keys, _ := resp.Data["keys"].([]string)
	for _, key := range keys {
		states = append(states, resp.Data["key_info"].(data)[key].(data)["state"].(string))
	}
	return strings.Join(states, " ")
}

func TestKeyRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config", data{"key_rotation_period": "24h"})
		e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "max_ttl": "2h"})
		if states := e.keyStates(); states != "" {
			t.Errorf("a mount that has issued nothing has keys: %s", states)
		}
		first := e.creds("reader", nil)
		e.write("keys/rotate", nil)
		second := e.creds("reader", nil)
		for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
			e.expect("active", first.token, nil)
			e.expect("active", second.token, nil)
			if states := e.keyStates(); states != "retired current" {
				t.Error(states)
			}
		}
		if _, err := e.renew(first, 2*time.Hour); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*time.Hour - time.Second)
		e.minute()
		e.expect("active", first.token, nil)
		time.Sleep(time.Second)
		e.minute()
		if states := e.keyStates(); states != "retired current" {
			t.Error("a node whose clock is slower has no key for a token that is live there")
		}
		time.Sleep(10*time.Minute + time.Second)
		e.minute()
		for _, e := range []*engine{e, mountOn(t, e.storage, e.system)} {
			e.expect("expired", first.token, nil)
			if states := e.keyStates(); states != "expired current" {
				t.Error(states)
			}
		}
		if secret := e.b.Loaded().Sealing.Keys()[0].Secret; secret != nil {
			t.Error("the secret of an expired key is kept")
		}
		e.write("revoke", data{"token": first.token}) // long gone

		time.Sleep(22 * time.Hour)
		e.minute()
		if states := e.keyStates(); states != "expired retired current" {
			t.Errorf("after the rotation period: %s", states)
		}
	})
}

func TestKeyRotationByCount(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	e.creds("reader", nil)
	e.minute()
	key := e.sealingKey()
	e.tamper(key, func(stored data) { stored["made"] = 1<<31 - 1 })
	e.creds("reader", nil)
	e.minute()
	if states := e.keyStates(); states != "retired current" {
		t.Error(states)
	}
	e.creds("reader", nil)
	e.minute()
	if made := e.restart().b.Loaded().Sealing.Keys().Current().Made; made != 1 {
		t.Errorf("%d tokens are counted for the new key", made)
	}
}

// tamper changes what storage holds.
func (e *engine) tamper(key string, f func(data)) {
	e.t.Helper()
	entry, err := e.storage.Get(context.Background(), key)
	if err != nil || entry == nil {
		e.t.Fatal(key, err)
	}
	var stored data
	if err := entry.DecodeJSON(&stored); err != nil {
		e.t.Fatal(err)
	}
	f(stored)
	if entry, err = logical.StorageEntryJSON(key, stored); err != nil {
		e.t.Fatal(err)
	}
	if err := e.storage.Put(context.Background(), entry); err != nil {
		e.t.Fatal(err)
	}
}

// No token is made with a key after the key was retired, so that none is good for longer than the key
// is kept.
func TestRotationWhileIssuing(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	var wg sync.WaitGroup
	tokens := make(chan string, 1000)
	for range 4 {
		wg.Go(func() {
			for range 50 {
				tokens <- e.creds("reader", nil).token
			}
		})
	}
	for range 10 {
		e.write("keys/rotate", nil)
	}
	wg.Wait()
	close(tokens)
	e = e.restart()
	for token := range tokens {
		e.expect("active", token, nil)
	}
}

func TestKeysListHasNoSecrets(t *testing.T) {
	e := newEngine(t)
	e.write("keys/rotate", nil)
	resp := e.do(logical.ListOperation, "keys/", nil)
	secret := e.b.Loaded().Sealing.Keys().Current().Secret
	for _, form := range []string{"%s", "%x", "%v"} {
		if strings.Contains(fmt.Sprint(resp.Data), fmt.Sprintf(form, secret)) {
			t.Error("the list has the key material")
		}
	}
	e.refused(logical.ReadOperation, "keys/00000000", nil, "unsupported operation")
}
