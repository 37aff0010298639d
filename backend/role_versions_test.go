package backend

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// size returns how large the stored entry of a role is.
func (e *engine) size(name string) int {
	e.t.Helper()
	entry, err := e.storage.Get(context.Background(), role.Prefix+name)
	if err != nil || entry == nil {
		e.t.Fatal(entry, err)
	}
	return len(entry.Value)
}

// An operator who changes a role every minute must be able to go on, for Vault refuses an entry of 1 MiB. And no token
// gets more by it than it was issued with.
func TestPastVersionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		random := rand.New(rand.NewPCG(1, 2))
		all := []string{"a", "b", "c", "d", "e"}
		networks := []string{"10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24"}
		type issued struct {
			token    string
			scopes   []string
			networks []string
		}
		some := func(from []string) []string {
			random.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
			return slices.Clone(from[:1+random.IntN(len(from))])
		}
		var tokens []issued
		for i := range 600 {
			scopes, from := some(all), some(networks)
			e.write("roles/reader", data{"scopes": scopes, "token_bound_cidrs": from, "description": strings.Repeat("x", 1000), "metadata": data{"k": strings.Repeat("v", 500)}})
			if i%20 == 0 {
				tokens = append(tokens, issued{e.creds("reader", nil).token, scopes, from})
			}
			time.Sleep(time.Minute)
		}
		if n := len(e.b.Loaded().Roles.Get("reader").Past); n > 100 {
			t.Errorf("%d past versions are remembered", n)
		}
		e.write("roles/reader", data{"scopes": all, "token_bound_cidrs": networks})
		alive := 0
		for _, e := range []*engine{e, e.restart()} {
			for _, issued := range tokens {
				for _, ip := range []string{"10.1.1.1", "10.9.9.9", "192.0.2.9"} {
					inside := slices.ContainsFunc(issued.networks, func(n string) bool {
						return n == "10.0.0.0/8" && ip[:3] == "10." || n == "10.1.0.0/16" && ip[:5] == "10.1." || n == "192.0.2.0/24" && ip[:4] == "192."
					})
					for _, scope := range all {
						good := e.reason(issued.token, data{"required_scopes": scope, "client_ip": ip}) == "active"
						if good && (!inside || !slices.Contains(issued.scopes, scope)) {
							t.Fatalf("a token of %v from %v is good for %s from %s", issued.scopes, issued.networks, scope, ip)
						}
						if good {
							alive++
						}
					}
				}
			}
		}
		if alive == 0 {
			t.Error("no token is good for anything any more")
		}
	})
}

// What was in force for long keeps its tokens as they are, when a burst of changes follows.
func TestABurstOfChangesLeavesLongVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a,b"})
		old := e.creds("reader", nil)
		time.Sleep(24 * time.Hour)
		for i := range 300 {
			e.write("roles/reader", data{"scopes": []string{"a", "a,c"}[i%2]})
			time.Sleep(time.Second)
		}
		e.write("roles/reader", data{"scopes": "a,b,c"})
		e.expect("active", old.token, data{"required_scopes": "a,b"})
		e.expect("insufficient_scope", old.token, data{"required_scopes": "c"})
		if n := len(e.b.Loaded().Roles.Get("reader").Past); n > 100 {
			t.Errorf("%d past versions are remembered", n)
		}
	})
}

// Versions that have nothing in common cannot be joined. The tokens of the older are good for nothing; none becomes good for any audience,
// address or host.
func TestVersionsWithNothingInCommon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		var tokens []string
		for i := range 100 + 50 {
			e.write("roles/reader", data{"scopes": "a", "audience": fmt.Sprintf("api-%d", i), "token_bound_cidrs": fmt.Sprintf("10.0.%d.0/24", i), "bound_hosts": fmt.Sprintf("h%d.example.com", i)})
			tokens = append(tokens, e.creds("reader", nil).token)
			time.Sleep(time.Second)
		}
		e.write("roles/reader", data{"audience": "", "token_bound_cidrs": "", "bound_hosts": ""})
		for i, token := range tokens {
			e.expect("wrong_audience", token, data{"audience": "other"})
			use := data{"audience": fmt.Sprintf("api-%d", i), "client_ip": fmt.Sprintf("10.0.%d.1", i), "host": fmt.Sprintf("h%d.example.com", i)}
			if want := map[bool]string{true: "active", false: "wrong_audience"}[i >= 50]; e.reason(token, use) != want {
				t.Errorf("token %d is %s, want %s", i, e.reason(token, use), want)
			}
		}
	})
}

// A role with all that it may have is stored with its past versions in less than 1 MiB.
func TestRoleSize(t *testing.T) {
	e := newEngine(t)
	long := func(n, length int, format string) []string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf(format, i)
			list[i] += strings.Repeat("x", length-len(list[i]))
		}
		return list
	}
	ranges := make([]string, 1000)
	for i := range ranges {
		ranges[i] = fmt.Sprintf("2001:db8:1111:2222:3333:4444:%x:0/112", i+0x1000)
	}
	for field, d := range map[string]data{
		"audience":          {"audience": long(100, 512, "%d"), "allowed_scopes": append(long(99, 128, "%d"), "a"), "bound_hosts": long(100, 60, "h%d")},
		"token_bound_cidrs": {"token_bound_cidrs": ranges, "bound_hosts": long(100, 60, "h%d"), "audience": long(40, 500, "%d")},
	} {
		d["scopes"] = "a"
		e.refused(logical.UpdateOperation, "roles/large", d, field+": the role takes ")
		e.refused(logical.UpdateOperation, "roles/large", d, "bytes of storage, at most 65536 are allowed")
	}
	for i := range 60 {
		ranges[0] = fmt.Sprintf("2001:db8:1111:2222:3333:5555:%x:0/112", i)
		e.write("roles/large", data{"scopes": "a", "token_bound_cidrs": ranges})
		if size := e.size("large"); size >= 1<<20 {
			t.Fatalf("after %d changes the role takes %d bytes of storage", i, size)
		}
	}
}

// A deleted role is remembered for as long as tokens of it may live that another process has issued.
func TestAProcessBehindDeletesARole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ahead := newIssuer(t)
		ahead.write("roles/app", data{"token_format": "jwt", "scopes": "a", "audience": "x", "ttl": "2h"})
		behind := mountOn(t, ahead.storage, ahead.system)
		c := ahead.creds("app", nil)
		behind.do(logical.DeleteOperation, "roles/app", nil)
		time.Sleep(time.Hour)
		behind.minute()
		if !mountOn(t, ahead.storage, ahead.system).listedAsRevoked(c.token) {
			t.Error("a status list does not show any more that the role was deleted")
		}
	})
}
