package backend

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
)

// leaks reports tokens without a Vault token, and returns the labels.
func (e *engine) leaks(tokens ...any) []string {
	e.t.Helper()
	answer := e.write("leaked", data{"tokens": tokens})
	results := answer["results"].([]any)
	if len(results) != len(tokens) {
		e.t.Fatalf("%d answers to %d reports", len(results), len(tokens))
	}
	labels := make([]string, len(results))
	for i, result := range results {
		labels[i] = result.(map[string]any)["label"].(string)
		if text, is := tokens[i].(string); is {
			sum := sha256.Sum256([]byte(text))
			if result.(map[string]any)["token_hash"] != hex.EncodeToString(sum[:]) {
				e.t.Errorf("token %d has the hash %v", i, result)
			}
			if len(text) > 20 && strings.Contains(fmt.Sprint(answer), text) {
				e.t.Error("the answer shows a token")
			}
		}
	}
	return labels
}

func (e *engine) expectLabels(want string, got []string) {
	e.t.Helper()
	if short := strings.NewReplacer("_positive", "").Replace(strings.Join(got, " ")); short != want {
		e.t.Errorf("the labels are %s, want %s", short, want)
	}
}

// A reported token is revoked with its grant, whichever of the grant's tokens is reported, and yields a finding.
func TestLeaked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config", data{"issuer": "https://vault.example.com/v1/apitoken"})
		e.write("roles/opaque", data{"scopes": "a"})
		e.write("roles/refresh", data{"scopes": "a", "refresh": true, "access_ttl": "10m"})
		e.write("roles/jwt", data{"scopes": "a", "token_format": "jwt", "audience": "x"})
		e.write("roles/bound", data{"scopes": "a", "token_bound_cidrs": "10.0.0.0/8"})
		opaque, pair, refresh := e.creds("opaque", nil), e.creds("refresh", nil), e.creds("refresh", nil)
		jwt, bound, suspended, kept := e.creds("jwt", nil), e.creds("bound", nil), e.creds("opaque", nil), e.creds("opaque", nil)
		e.write("suspend", data{"token": suspended.token})

		e.expectLabels("true true true true true true", e.leaks(
			data{"token": opaque.token, "type": "apitoken", "url": "https://ann:pw@example.com/x?y#L5", "source": "content"},
			pair.token, refresh.data["refresh_token"], jwt.token, bound.token, suspended.token))
		for _, c := range []*creds{opaque, pair, refresh, jwt, bound, suspended} {
			e.expect("revoked", c.token, nil)
		}
		e.expect("active", kept.token, nil)
		e.restart().expect("revoked", opaque.token, nil)

		time.Sleep(time.Minute)
		list := e.findings(data{"rule": "leaked"})
		if len(list) != 6 {
			t.Fatalf("%d findings: %v", len(list), list)
		}
		for _, f := range list {
			if f["response"] != "revoked" || f["severity"] != "high" || f["entity_id"] != entityAnn || f["role"] == "" {
				t.Errorf("finding %v", f)
			}
			seen := f["evidence"].([]any)[0].(map[string]any)
			if f["token_id"] == opaque.id && (seen["url"] != "https://example.com/x#L5" || seen["source"] != "content" || seen["address"] != "127.0.0.1") {
				t.Errorf("evidence %v", seen)
			}
		}
	})
}

// A second report has the same answer, and changes nothing: the reporter does not learn whether the token was alive.
func TestLeakedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/r", data{"scopes": "a", "ttl": "1h"})
		live, expired, revoked := e.creds("r", data{"ttl": "1h"}), e.creds("r", data{"ttl": "1m"}), e.creds("r", nil)
		e.write("revoke", data{"token": revoked.token})
		time.Sleep(12 * time.Minute)
		first := e.write("leaked", data{"tokens": []any{live.token, expired.token, revoked.token}})
		time.Sleep(time.Minute)
		found := fmt.Sprint(e.findings(nil))
		writes := e.storage.writes.Load()
		for range 3 {
			again := e.write("leaked", data{"tokens": []any{live.token, expired.token, revoked.token}})
			if fmt.Sprint(again) != fmt.Sprint(first) {
				t.Errorf("the second answer is %v, the first %v", again, first)
			}
		}
		time.Sleep(time.Minute)
		if n := e.storage.writes.Load() - writes; n > 0 {
			t.Errorf("%d writes", n)
		}
		if again := fmt.Sprint(e.findings(nil)); again != found || len(e.findings(nil)) != 1 {
			t.Errorf("findings %s, before %s", again, found)
		}
	})
}

// Noise is answered as noise, and costs two reads for each of at most eight unknown keys.
func TestLeakedNoise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, other := newEngine(t), newEngine(t)
		for _, mount := range []*engine{e, other} {
			mount.write("roles/r", data{"scopes": "a"})
		}
		mine, strange := e.creds("r", nil), other.creds("r", nil)
		forged := strings.Replace(mine.token, "apt_", "two_", 1)
		reads := e.storage.reads.Load()
		e.expectLabels("false false false false false false", e.leaks("x", mine.token[:40], forged, strings.Repeat("a", 5000), "a\nb", "a.b.c"))
		if n := e.storage.reads.Load() - reads; n > 0 {
			t.Errorf("%d reads for noise", n)
		}
		e.expectLabels("false false true", e.leaks(strange.token, strange.token, mine.token))
		if n := e.storage.reads.Load() - reads; n > 10 {
			t.Errorf("%d reads for an unknown key, twice, and a revocation", n)
		}
		time.Sleep(time.Minute) // the finding is stored
		reads = e.storage.reads.Load()
		writes := e.storage.writes.Load()
		var many []any
		for range 20 {
			stranger := newEngine(t)
			stranger.write("roles/r", data{"scopes": "a"})
			many = append(many, stranger.creds("r", nil).token)
		}
		if got := e.leaks(many...); strings.Contains(fmt.Sprint(got), "true") {
			t.Errorf("labels %q", got)
		}
		if n := e.storage.reads.Load() - reads; n > 16 {
			t.Errorf("%d reads for 20 unknown keys", n)
		}
		if n := e.storage.writes.Load() - writes; n > 0 {
			t.Errorf("%d writes for noise", n)
		}
	})
}

func TestLeakedRefuses(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": "a"})
	c := e.creds("r", nil)
	for want, d := range map[string]data{
		"tokens: is required":           {},
		"tokens: is null":               {"tokens": nil},
		"tokens: takes an array":        {"tokens": 5},
		"tokens: is empty":              {"tokens": []any{}},
		"tokens: has 101 tokens":        {"tokens": make([]any, 101)},
		"tokens[1]: takes a token":      {"tokens": []any{c.token, 5}},
		`"lines" is no member`:          {"tokens": []any{map[string]any{"token": c.token, "lines": "1"}}},
		"url: is not a field of this":   {"tokens": []any{c.token}, "url": "x"},
		"tokens[0].token: is missing":   {"tokens": []any{map[string]any{}}},
		"tokens[0].type: is 200 bytes ": {"tokens": []any{map[string]any{"token": c.token, "type": strings.Repeat("x", 200)}}},
	} {
		e.refused(logical.UpdateOperation, "leaked", d, want)
	}
	e.expect("active", c.token, nil)

	e.write("config", data{"public_revocation": false})
	e.refused(logical.UpdateOperation, "leaked", data{"tokens": c.token}, "public_revocation of config is off")
	e.expect("active", c.token, nil)
	e.write("config", data{"public_revocation": true})
	e.write("leaked", data{"tokens": c.token}) // as the command line writes it
	e.expect("revoked", c.token, nil)
}

// If storage fails, the answer is an error, and the request can be repeated. The other tokens of the request are revoked.
func TestLeakedWhileStorageFails(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": "a"})
	c := e.creds("r", nil)
	e.storage.broken.Store(true)
	e.refused(logical.UpdateOperation, "leaked", data{"tokens": []any{"noise", c.token}}, "1 of 2 tokens were not revoked: repeat the request")
	if len(e.findings(nil)) > 0 {
		t.Error("a finding of a token that was not revoked")
	}
	e.storage.broken.Store(false)
	e.expectLabels("false true", e.leaks("noise", c.token))
	e.expect("revoked", c.token, nil)
}

// The rule can be off: the token is revoked without a finding.
func TestLeakedWithoutTheRule(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": "a"})
	e.write("config/detection", data{"leaked": "off"})
	e.refused(logical.UpdateOperation, "config/detection", data{"leaked": string(detect.Suspend)}, "leaked: ")
	c := e.creds("r", nil)
	e.expectLabels("true", e.leaks(c.token))
	e.expect("revoked", c.token, nil)
	if list := e.findings(nil); len(list) > 0 {
		t.Errorf("found %v", list)
	}
}

// A refresh token lives as long as its grant, also after a renewal of the lease. An access token that has expired is no danger:
// its report does not end the grant.
func TestLeakedOfAGrantThatLivesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/r", data{"scopes": "a", "refresh": true, "access_ttl": "5m", "ttl": "1h", "max_ttl": "24h"})
		c := e.creds("r", nil)
		time.Sleep(50 * time.Minute)
		if _, err := e.renew(c, time.Hour); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Minute)
		e.expectLabels("true", e.leaks(c.token))
		_, pair := e.form("oauth/token", data{"grant_type": "refresh_token", "refresh_token": c.data["refresh_token"]})
		fresh := pair["access_token"].(string)
		e.expect("active", fresh, nil)
		e.expectLabels("true", e.leaks(pair["refresh_token"]))
		e.expect("revoked", fresh, nil)
	})
}

// The token of a service is revoked at the service.
func TestLeakedOfAService(t *testing.T) {
	s := newShelf(t)
	e := onShelf(t, s)
	c := e.creds("reader", nil)
	e.expectLabels("true false", e.leaks(c.token, c.token+"x"))
	e.settled()
	if s.live() != 0 {
		t.Error("the leaked token lives on at the service")
	}
	if list := e.findings(data{"rule": "leaked"}); len(list) != 1 || list[0]["token_id"] != c.id || list[0]["role"] != "reader" {
		t.Errorf("found %v", list)
	}
	e.expectLabels("false", e.leaks(c.token)) // the service has confirmed, and the engine has forgotten the token
}

// A leaked token of a static role is replaced at once.
func TestLeakedOfAStaticRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a"})
		e.write("static-roles/box", data{"role": "reader", "rotation_period": "24h"})
		first := e.read("static-creds/box")["token"].(string)
		time.Sleep(90 * time.Second)
		e.leaks(first)
		time.Sleep(2 * time.Second)
		if second := e.read("static-creds/box")["token"].(string); second == first {
			t.Error("the leaked token is still given out")
		}
	})
}
