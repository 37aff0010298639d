package backend

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
)

func TestIntrospectTellsTokensApart(t *testing.T) {
	e, other := newEngine(t), newEngine(t)
	for _, mount := range []*engine{e, other} {
		mount.write("roles/reader", data{"scopes": "a"})
	}
	c, stranger := e.creds("reader", nil), other.creds("reader", nil)
	e.expect("active", c.token, nil)
	e.expect("wrong_environment", stranger.token, nil)
	e.expect("malformed", c.token[:len(c.token)-1], nil)
	e.expect("malformed", "random noise", nil)
	e.expect("malformed", strings.Replace(c.token, c.token[20:22], c.token[21:22]+c.token[20:21], 1)+"x", nil)

	answer := e.write("introspect", data{"token": stranger.token})
	for name := range answer {
		if !slices.Contains([]string{"active", "reason", "detail", "epoch", "cursor"}, name) {
			t.Errorf("of another mount's token %s is told", name)
		}
	}
	e.refused(logical.UpdateOperation, "introspect", nil, "token: is missing")
	e.refused(logical.UpdateOperation, "introspect", data{"token": strings.Repeat("x", 10<<20)}, "token: is 10485760 bytes long, the longest token has 4096")
	e.refused(logical.UpdateOperation, "introspect", data{"token": "apt_\x00\xff"}, "token: has bytes that are not printable")
	for field, want := range map[string]string{"required_scopes": "required_scopes: scope", "client_ip": "client_ip: ", "region": "region: must be a code of ISO 3166-1", "host": "host: "} {
		e.refused(logical.UpdateOperation, "introspect", data{"token": c.token, field: "a b"}, want)
	}
}

func TestIntrospectAnswersWithTheMembersOfRFC7662(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a,b", "audience": "billing", "ttl": "1h"})
	c := e.creds("reader", nil)
	got := e.write("introspect", data{"token": c.token})
	want := data{
		"active": true, "scope": "a b", "client_id": "reader", "token_type": "Bearer", "sub": entityAnn,
		"aud": []string{"billing"}, "jti": c.id, "token_id": c.id, "role": "reader", "environment": "apitoken",
		"exp": got["exp"], "iat": got["exp"].(int64) - 3600, "epoch": got["epoch"], "cursor": int64(0),
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	anonymous := e.credsAs("", "reader", nil)
	if sub, told := e.write("introspect", data{"token": anonymous.token})["sub"]; told {
		t.Errorf("sub %v of a token that nobody's entity asked for", sub)
	}
}

// The detail tells a token of another audience from a refresh token, which both have the reason wrong_audience.
func TestIntrospectDetailsOfWrongAudience(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a", "audience": "billing", "refresh": true, "access_ttl": "5m", "ttl": "1h"})
	c := e.creds("reader", nil)
	for token, want := range map[string]string{
		c.token:                          `the token is for audience ["billing"], not for "orders"`,
		c.data["refresh_token"].(string): "this is a refresh token, which is for oauth/token and for no API",
	} {
		got := e.write("introspect", data{"token": token, "audience": "orders"})
		if got["reason"] != "wrong_audience" || got["detail"] != want {
			t.Errorf("%v: %v, want %s", got["reason"], got["detail"], want)
		}
	}
}

func TestIntrospectReadsNoStorageOnceWarm(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a"})
	c := e.creds("reader", nil)
	e.expect("active", c.token, nil)
	reads, writes, asked := e.storage.reads.Load(), e.storage.writes.Load(), e.system.asked.Load()
	for range 100 {
		e.expect("active", c.token, data{"required_scopes": "a"})
		e.expect("malformed", "noise", nil)
	}
	if r, w, a := e.storage.reads.Load()-reads, e.storage.writes.Load()-writes, e.system.asked.Load()-asked; r+w+a != 0 {
		t.Errorf("%d reads, %d writes, %d questions about entities", r, w, a)
	}
}

func TestExpiredToTheSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a", "ttl": "1h"})
		c := e.creds("reader", nil)
		time.Sleep(time.Hour - time.Second)
		e.expect("active", c.token, nil)
		time.Sleep(time.Second)
		for _, e := range []*engine{e, e.restart()} { // whether or not Vault has revoked the lease
			e.expect("expired", c.token, nil)
		}
		e.revokeLease(c)
		if n := e.b.Loaded().Deviations.Len(); n != 0 {
			t.Errorf("a lease that has ended in time has left %d deviations", n)
		}
	})
}

func TestSubjectDisabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a"})
		c := e.creds("reader", nil)
		anonymous := e.credsAs("", "reader", nil)
		e.expect("active", c.token, nil)
		e.system.become(entityAnn, &logical.Entity{ID: entityAnn, Disabled: true})
		time.Sleep(native.SubjectTTL + time.Second)
		e.expect("subject_disabled", c.token, nil)
		if state := e.write("lookup", data{"token": c.token})["state"]; state != "subject_disabled" {
			t.Errorf("lookup says %s", state)
		}
		e.expect("active", anonymous.token, nil)
		e.system.become(entityAnn, &logical.Entity{ID: entityAnn})
		time.Sleep(native.SubjectTTL + time.Second)
		e.expect("active", c.token, nil)
		e.system.become(entityAnn, nil)
		time.Sleep(native.SubjectTTL + time.Second)
		e.expect("subject_disabled", c.token, nil)
	})
}

func BenchmarkIntrospect(b *testing.B) {
	e := newEngine(b)
	e.do(logical.UpdateOperation, "roles/reader", data{"scopes": "a:b"})
	token := e.creds("reader", nil).token
	b.ReportAllocs()
	for b.Loop() {
		e.do(logical.UpdateOperation, "introspect", data{"token": token, "required_scopes": "a:b"})
	}
}

// A verifier that keeps the answer must not take a limit of which nothing is left for no limit.
func TestIntrospectShowsThatNothingIsLeft(t *testing.T) {
	e := newEngine(t)
	e.write("roles/reader", data{"scopes": "a", "bound_hosts": "a.example.com", "token_bound_cidrs": "10.0.0.0/8"})
	c := e.creds("reader", nil)
	e.write("roles/reader", data{"bound_hosts": "b.example.com"})
	got := e.write("introspect", data{"token": c.token})
	if list, told := got["token_bound_cidrs"].([]string); !told || len(list) > 0 || got["active"] != false {
		t.Errorf("%v", got)
	}
	if got := e.write("introspect", data{"token": c.token, "client_ip": "10.1.2.3", "host": "b.example.com"}); got["reason"] != "host_not_allowed" {
		t.Errorf("%v", got)
	}
}
