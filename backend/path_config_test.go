package backend

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestConfig(t *testing.T) {
	e := newEngine(t)
	c := e.read("config")
	if c["environment"] != "apitoken" || c["token_prefix"] != "apt" || c["key_rotation_period"] != int64(30*24*3600) {
		t.Errorf("the defaults are %v", c)
	}
	e.write("config", data{"environment": "production"})
	e.write("config", data{"key_rotation_period": "24h"})
	e.write("config", data{"privileged_scopes": "root,billing:*"})
	for _, e := range []*engine{e, e.restart()} {
		c = e.read("config")
		if c["environment"] != "production" || c["key_rotation_period"] != int64(24*3600) || strings.Join(c["privileged_scopes"].([]string), " ") != "root billing:*" {
			t.Errorf("a partial update has not kept the rest: %v", c)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	e := newEngine(t)
	before := e.read("config")
	for _, c := range []struct {
		field string
		value any
		want  string
	}{
		{"token_prefix", "", "token_prefix: "},
		{"token_prefix", "A", "must be 2 to 16 of a-z"},
		{"token_prefix", "1ab", "must be 2 to 16 of a-z"},
		{"token_prefix", "abcdefghijklmnopq", "must be 2 to 16 of a-z"},
		{"token_prefix", "a-b", "must be 2 to 16 of a-z"},
		{"environment", strings.Repeat("x", 129), "environment: must be at most 128"},
		{"environment", "a\nb", "printable"},
		{"key_rotation_period", "1m", "key_rotation_period: must be between 1h and"},
		{"key_rotation_period", "-1h", "key_rotation_period"},
		{"key_rotation_period", "forever", "key_rotation_period"},
		{"privileged_scopes", "a b", "privileged_scopes: scope"},
		{"privileged_scopes", "a,a", "given twice"},
		{"isuer", "https://example.com", "isuer: is not a field"},
	} {
		e.refused(logical.UpdateOperation, "config", data{"environment": "changed", c.field: c.value}, c.want)
	}
	if after := e.read("config"); after["environment"] != before["environment"] {
		t.Error("a refused update has changed something")
	}
}

// After a change of the prefix old tokens keep working, and scanners go on looking for them as long as
// they can be live.
func TestTokenPrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "max_ttl": "2h"})
		old := e.creds("reader", nil)
		e.write("config", data{"token_prefix": "acme_prod"})
		fresh := e.creds("reader", nil)
		if !strings.HasPrefix(fresh.token, "acme_prod_") {
			t.Errorf("the token is %s", fresh.token)
		}
		e.expect("active", old.token, nil)
		e.expect("active", fresh.token, nil)
		finds := func(token string) bool {
			return regexp.MustCompile(e.read("config")["token_pattern"].(string)).FindString("x="+token) == token
		}
		if !finds(old.token) || !finds(fresh.token) {
			t.Error("token_pattern does not find the mount's tokens")
		}
		time.Sleep(2*time.Hour + time.Second)
		if finds(old.token) || !finds(fresh.token) {
			t.Error("token_pattern still has the prefix that no live token can have")
		}
	})
}

// API servers look for keys and endpoints below the issuer, so that an issuer that does not lead to the mount makes
// JWTs that nobody can verify.
func TestIssuerLeadsToTheMount(t *testing.T) {
	e := newEngine(t)
	for _, good := range []string{
		"https://vault.example.com/v1/apitoken", "https://vault.example.com:8200/v1/apitoken", "https://vault.example.com/v1/team/billing/apitoken",
		"https://example.com/vault/v1/apitoken", "http://127.0.0.1:8200/v1/apitoken", "http://localhost:8200/v1/apitoken",
	} {
		e.write("config", data{"issuer": good})
		if got := e.read("config")["issuer"]; got != good {
			t.Errorf("%s is kept as %s", good, got)
		}
	}
	for _, bad := range []string{
		"https://vault.example.com", "https://vault.example.com/v1", "https://vault.example.com/apitoken", "https://v1/apitoken", "https://vault.example.com/v1/apitoken2",
		"https://vault.example.com/v1/other", "https://vault.example.com/v1/apitoken/x", "https://vault.example.com/v1xapitoken",
		"https://vault.example.com/v1//apitoken", "https://vault.example.com/v1/../apitoken", "https://vault.example.com/v1%2fapitoken",
	} {
		e.refused(logical.UpdateOperation, "config", data{"issuer": bad}, "must end with the path of this mount: https://<host>/v1/apitoken, with a namespace https://<host>/v1/<namespace>/apitoken")
	}
}

// A process that was not told of a change by another one does not undo the change with its next update.
func TestUpdatesAreBasedOnStorage(t *testing.T) {
	one := newEngine(t)
	one.write("config", data{"environment": "staging"})
	one.write("roles/reader", data{"scopes": "a,b"})
	other := mountOn(t, one.storage, one.system)
	one.write("config", data{"environment": "production"})
	one.write("roles/reader", data{"scopes": "a"})
	other.write("config", data{"key_rotation_period": "24h"})
	other.write("roles/reader", data{"description": "reads"})
	if c := one.restart().read("config"); c["environment"] != "production" || c["key_rotation_period"] != int64(24*3600) {
		t.Errorf("an update of the config was undone: %v", c)
	}
	if r := one.restart().read("roles/reader"); len(r["scopes"].([]string)) != 1 || r["version"] != 2 || r["description"] != "reads" {
		t.Errorf("an update of the role was undone: %v", r)
	}

	one.write("config", data{"issuer": issuer})
	jwt := data{"token_format": "jwt", "scopes": "a", "audience": "x"}
	other.write("roles/signed", jwt)
	one.refused(logical.UpdateOperation, "config", data{"issuer": ""}, `role "signed" issues JWTs`)
	other.do(logical.DeleteOperation, "roles/signed", nil)
	one.write("config", data{"issuer": ""})
	other.refused(logical.UpdateOperation, "roles/signed", jwt, "token_format: JWTs need an issuer")
}

// The config does not grow with every change of the prefix.
func TestPastPrefixesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("roles/reader", data{"scopes": "a", "ttl": "1h", "max_ttl": "2h"})
		old := e.creds("reader", nil)
		for i := range 20 {
			e.write("config", data{"token_prefix": fmt.Sprintf("p%d", i)})
		}
		e.refused(logical.UpdateOperation, "config", data{"token_prefix": "one_more"}, "token_prefix: live tokens may still have 21 former prefixes, at most 20 are allowed")
		e.write("config", data{"token_prefix": "apt"})
		e.expect("active", old.token, nil)
		time.Sleep(2*time.Hour + time.Second)
		e.write("config", data{"token_prefix": "one_more"})
	})
}
