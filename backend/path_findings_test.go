package backend

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/geoip/geoiptest"
)

// findings are the findings that a list shows, the newest first.
func (e *engine) findings(filter data) []data {
	e.t.Helper()
	resp := e.do(logical.ListOperation, "findings/", filter)
	keys, _ := resp.Data["keys"].([]string)
	list := make([]data, len(keys))
	for i, key := range keys {
		list[i] = resp.Data["key_info"].(map[string]any)[key].(data)
	}
	return list
}

// A token that is used on two continents makes findings that explain themselves, and that survive a restart.
func TestFindings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(30 * 365 * 24 * time.Hour) // geoip reads the file by the clock of the mount
		e := newEngine(t)
		file := filepath.Join(t.TempDir(), "city.mmdb")
		geoiptest.WritePlaces(t, file, map[string]geoiptest.Place{
			"192.0.2.0/24":    {Country: "DE", City: 2950159, Latitude: 52.5, Longitude: 13.4, Radius: 20, Network: 64496},
			"198.51.100.0/24": {Country: "AU", City: 2147714, Latitude: -33.9, Longitude: 151.2, Radius: 20, Network: 64497},
		})
		if got := e.read("config/detection"); len(got["unavailable"].(data)) != 3 || got["impossible_travel"] != "on" || got["impossible_travel_speed"] != 900 {
			t.Errorf("the settings are %v", got)
		}
		e.write("config", data{"geoip_database": file})
		if got := e.read("config/detection"); got["unavailable"] != nil {
			t.Errorf("with a database of cities: %v", got["unavailable"])
		}
		e.write("roles/r", data{"scopes": []string{"a:read"}})
		c := e.creds("r", nil)
		e.expect("active", c.token, data{"client_ip": "192.0.2.7"})
		time.Sleep(time.Minute)
		e.expect("active", c.token, data{"client_ip": "198.51.100.7"})
		time.Sleep(time.Minute)
		list := e.findings(data{"rule": "impossible_travel"})
		if len(list) != 1 || list[0]["token_id"] != c.id || list[0]["role"] != "r" || list[0]["entity_id"] != entityAnn || list[0]["severity"] != "high" ||
			!strings.Contains(list[0]["summary"].(string), "km/h") || list[0]["state"] != "open" || list[0]["count"] != int64(1) {
			t.Fatalf("found %v", list)
		}
		if got := fmt.Sprint(list[0]["evidence"]); !strings.Contains(got, "192.0.2.7") || !strings.Contains(got, "AU") || !strings.Contains(got, "AS64497") {
			t.Errorf("the evidence is %s", got)
		}
		if got := list[0]["commands"].([]string); !slices.ContainsFunc(got, func(s string) bool {
			return strings.HasPrefix(s, "vault write apitoken/revoke token_id="+c.id)
		}) {
			t.Errorf("the commands are %q", got)
		}
		if got := e.findings(data{"rule": "several_networks"}); len(got) != 1 || got[0]["severity"] != "high" {
			t.Errorf("several_networks: %v", got)
		}
		id := list[0]["id"].(string)
		if got := e.read("findings/" + id); fmt.Sprint(got) != fmt.Sprint(list[0]) {
			t.Errorf("read %v, listed %v", got, list[0])
		}
		if all := fmt.Sprint(e.findings(nil)); strings.Contains(all, c.token) {
			t.Error("a finding shows the token")
		}

		// Acknowledged, and after a restart.
		e.write("findings/"+id, data{"note": "ann moved"})
		e = e.restart()
		got := e.read("findings/" + id)
		if got["state"] != "acknowledged" || got["note"] != "ann moved" || got["acknowledged_at"] == nil || got["summary"] != list[0]["summary"] {
			t.Errorf("after a restart: %v", got)
		}
		if n := len(e.findings(data{"state": "open"})); n != 1 {
			t.Errorf("%d open findings are left", n)
		}
		if n := len(e.findings(data{"role": "other"})); n != 0 {
			t.Errorf("%d findings of another role", n)
		}
		if n := len(e.findings(data{"since": time.Now().Format(time.RFC3339)})); n != 0 {
			t.Errorf("%d findings of the future", n)
		}
		e.b.Cleanup(context.Background())
	})
}

// A list has pages without gaps, whatever the filter.
func TestFindingsPages(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": []string{"a:read"}})
	var rows []any
	for range 7 {
		rows = append(rows, data{"token_id": e.creds("r", nil).id, "refusals": data{"host_not_allowed": 20}})
	}
	e.report("api-1", 1, rows...)
	all := e.list("findings/", nil)
	var paged []string
	for after := ""; ; {
		d := data{"limit": 3, "rule": "refused_burst"}
		if after != "" {
			d["after"] = after
		}
		page := e.list("findings/", d)
		if paged = append(paged, page...); len(page) < 3 {
			break
		}
		after = page[2]
	}
	if len(all) != 7 || !slices.Equal(all, paged) {
		t.Errorf("listed %q, in pages %q", all, paged)
	}
}

func TestFindingsErrors(t *testing.T) {
	e := newEngine(t)
	for want, d := range map[string]data{
		`rule: "x" is no rule of config/detection, which has impossible_travel, new_region`: {"rule": "x"},
		`state: "x" is not one of: open, acknowledged`:                                      {"state": "x"},
		`after: "x" is not the id of a finding`:                                             {"after": "x"},
		"limit: 1001 is too large, at most 1000":                                            {"limit": 1001},
		"limit: must be at least 1":                                                         {"limit": 0},
		"token: is not a field of this path":                                                {"token": "x"},
	} {
		e.refused(logical.ListOperation, "findings/", d, want)
	}
	if got := e.read("findings/000000000000000000000000"); got != nil {
		t.Errorf("a finding that does not exist: %v", got)
	}
	e.refused(logical.UpdateOperation, "findings/000000000000000000000000", data{"note": "x"}, `id: "000000000000000000000000" is not the ID of a finding`)
	e.refused(logical.UpdateOperation, "findings/x", data{}, "note: takes a line of text")
	e.refused(logical.UpdateOperation, "findings/x", data{"note": "a\nb"}, "note: takes a line of text")
	e.write("roles/r", data{"scopes": "a"})
	e.refused(logical.UpdateOperation, "findings/x", data{"note": e.creds("r", nil).token}, "note: contains a token")
	e.refused(logical.UpdateOperation, "findings/x", data{"note": strings.Repeat("x", 513)}, "note: is 513 bytes long, at most 512 are allowed")
	for want, d := range map[string]data{
		`shared: "maybe" is not one of: off, on, suspend, revoke`:         {"shared": "maybe"},
		`guessing: "revoke" is not one of: off, on`:                       {"guessing": "revoke"},
		"shared_addresses: must be between 1 and 5":                       {"shared_addresses": 6},
		"shared_window: must be between 1m and 24h":                       {"shared_window": "59s"},
		"learn_for: must be between 1h and 60d":                           {"learn_for": "61d"},
		"known_ranges: ":                                                  {"known_ranges": "10.0.0.0/33"},
		`hosting_networks: "x" is not the number of an autonomous system`: {"hosting_networks": "x"},
		"impossible_travel_speed: takes a whole number":                   {"impossible_travel_speed": "fast"},
		"speed: is not a field of this path, which has 40 fields":         {"speed": 1},
	} {
		e.refused(logical.UpdateOperation, "config/detection", d, want)
	}
	before := e.read("config/detection")
	e.write("config/detection", data{"shared": "off", "shared_window": "30m", "known_ranges": "10.0.0.0/8,192.0.2.0/24", "hosting_networks": "AS64496"})
	e.write("config/detection", data{"surge_floor": 7})
	e = e.restart()
	after := e.read("config/detection")
	for name, want := range (data{
		"shared": "off", "shared_window": 1800, "surge_floor": 7, "known_ranges": []string{"10.0.0.0/8", "192.0.2.0/24"}, "hosting_networks": []string{"AS64496"},
	}) {
		if fmt.Sprint(after[name]) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v", name, after[name], want)
		}
		before[name] = after[name]
	}
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("another setting has changed: %v, before %v", after, before)
	}
}

// A rule suspends or revokes the grant of a token within seconds, and says so.
func TestFindingActs(t *testing.T) {
	for mode, state := range map[string]string{"revoke": "revoked", "suspend": "suspended"} {
		synctest.Test(t, func(t *testing.T) {
			e := newEngine(t)
			e.write("roles/r", data{"scopes": []string{"a:read"}})
			e.write("config/detection", data{"proof_failed": mode})
			c, other := e.creds("r", nil), e.creds("r", nil)
			e.report("api-1", 1, data{"token_id": c.id, "refusals": data{"proof_replayed": 1}}, data{"token_id": other.id, "refusals": data{"rate_limited": 1}})
			time.Sleep(2 * time.Second)
			e.expect(state, c.token, nil)
			e.expect("active", other.token, nil)
			list := e.findings(nil)
			if len(list) != 1 || list[0]["response"] != state {
				t.Errorf("found %v", list)
			}
			if mode == "suspend" {
				e.write("resume", data{"token_id": c.id})
				e.expect("active", c.token, nil)
			}
			e.b.Cleanup(context.Background())
		})
	}
}

// A role has its own response to a finding. A change of the responses makes no new version of the role.
func TestFindingActsByRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.write("config/detection", data{"proof_failed": "suspend", "surge": "off"})
		for role, detection := range map[string]data{
			"plain": nil, "watched": {"proof_failed": "on", "surge": "revoke"}, "harsh": {"proof_failed": "revoke", "surge": "revoke"}, "gone": {"proof_failed": "on"},
			"other": {"shared": "revoke"},
		} {
			e.write("roles/"+role, data{"scopes": []string{"a:read"}, "detection": detection})
		}
		e.write("roles/late", data{"scopes": []string{"a:read"}})
		e.write("roles/late", data{"detection": data{"proof_failed": "revoke"}})
		e.write("roles/late", data{"description": "keeps its responses"})
		if got := e.read("roles/late"); fmt.Sprint(got["detection"]) != "map[proof_failed:revoke]" || fmt.Sprint(got["version"]) != "1" {
			t.Errorf("the role is %v", got)
		}
		e.write("roles/cleared", data{"scopes": []string{"a:read"}, "detection": data{"proof_failed": "revoke"}})
		e.write("roles/cleared", data{"detection": data{}})
		e = e.restart()
		states := map[string]string{
			"plain": "suspended", "watched": "active", "harsh": "revoked", "gone": "role_deleted", "other": "suspended", "late": "revoked",
			"cleared": "suspended",
		}
		tokens := make(map[string]*creds)
		sequence := 0
		for role := range states {
			tokens[role] = e.creds(role, nil)
		}
		e.do(logical.DeleteOperation, "roles/gone", nil)
		for _, c := range tokens {
			sequence++
			e.report("api-1", sequence, data{"token_id": c.id, "refusals": data{"proof_replayed": 1}})
		}
		for n := range 30 { // a surge, if surge were on
			sequence++
			e.report("api-1", sequence, data{"token_id": tokens["watched"].id, "uses": 1 + n/29*1000, "last_used_at": time.Now().UTC().Format(time.RFC3339)})
			time.Sleep(time.Minute)
		}
		for role, want := range states {
			if got := e.reason(tokens[role].token, nil); got != want {
				t.Errorf("the token of role %s is %s, want %s", role, got, want)
			}
		}
		response := map[string]any{"plain": "suspended", "watched": nil, "harsh": "revoked", "other": "suspended", "late": "revoked", "cleared": "suspended"}
		for _, f := range e.findings(data{"rule": "proof_failed"}) {
			role := f["role"].(string)
			if role != "gone" && f["response"] != response[role] {
				t.Errorf("the response to the finding about role %s is %v, want %v", role, f["response"], response[role])
			}
		}
		if got := e.findings(data{"rule": "surge"}); len(got) != 0 {
			t.Errorf("surge is off, and has found %v", got)
		}
		e.b.Cleanup(context.Background())
	})
}

func TestRoleDetectionErrors(t *testing.T) {
	e := newEngine(t)
	for want, detection := range map[string]data{
		`detection: "x" is no rule of config/detection, which has impossible_travel, new_region`:              {"x": "on"},
		`detection: shared: "on,surge=on" has a comma: give each pair by itself, such as detection=shared=on`: {"shared": "on,surge=on"},
		`detection: shared: "off" is not one of: on, suspend, revoke`:                                         {"shared": "off"},
		`detection: surge: "" is not one of: on, suspend, revoke`:                                             {"shared": "on", "surge": ""},
		"detection: guessing takes no mode from a role: set guessing in config/detection":                     {"guessing": "on"},
		"detection: wrong_environment takes no mode from a role: set wrong_environment in config/detection":   {"wrong_environment": "on"},
		"detection: leaked takes no mode from a role: set leaked in config/detection":                         {"leaked": "revoke"},
	} {
		e.refused(logical.UpdateOperation, "roles/r", data{"scopes": "a", "detection": detection}, want)
	}
	if names := e.list("roles/", nil); len(names) > 0 {
		t.Errorf("a refused role was written: %q", names)
	}
	e.connection("gitea")
	of := data{"connection": "gitea", "params": data{"scopes": []string{"read:user"}}, "detection": data{"shared": "suspend"}}
	e.refused(logical.UpdateOperation, "roles/r", of,
		`detection: shared: "suspend" is for native tokens, since services cannot suspend tokens; a role with a connection has on, revoke`)
	of["detection"] = data{"shared": "revoke"}
	e.write("roles/r", of)
	e.refused(logical.UpdateOperation, "roles/r", data{"detection": data{"shared": "suspend"}}, "is for native tokens")
	if got := fmt.Sprint(e.read("roles/r")["detection"]); got != "map[shared:revoke]" {
		t.Errorf("the role has %s", got)
	}
	issuer := newIssuer(t)
	issuer.refused(logical.UpdateOperation, "roles/j", data{
		"scopes": "a", "token_format": "jwt", "audience": "x", "generate_lease": false, "ttl": "5m", "detection": data{"shared": "revoke"},
	}, "detection: needs leases")
}

// A reused refresh token, a token of another mount and a token that is shown after its end are findings.
func TestFindingsOfTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, elsewhere := newEngine(t), newEngine(t)
		e.write("roles/r", data{"scopes": []string{"a:read"}})
		elsewhere.write("roles/r", data{"scopes": []string{"a:read"}})
		e.expect("wrong_environment", elsewhere.creds("r", nil).token, data{"client_ip": "192.0.2.9"})
		c := e.creds("r", nil)
		e.revokeLease(c)
		for range 2 {
			e.expect("revoked", c.token, data{"client_ip": "192.0.2.8"})
			time.Sleep(10 * time.Minute)
		}
		e.expect("revoked", c.token, data{"client_ip": "192.0.2.8"})
		if list := e.findings(data{"rule": "used_after_end"}); len(list) != 1 || list[0]["count"] != int64(2) || list[0]["address"] != "192.0.2.8" {
			t.Errorf("after its end: %v", list)
		}
		if list := e.findings(data{"rule": "wrong_environment"}); len(list) != 1 || list[0]["address"] != "192.0.2.9" {
			t.Errorf("of another mount: %v", list)
		}
		for i := range 25 {
			e.expect("malformed", fmt.Sprintf("noise-%d", i), data{"client_ip": "192.0.2.7"})
		}
		if list := e.findings(data{"rule": "guessing"}); len(list) != 1 || list[0]["address"] != "192.0.2.7" {
			t.Errorf("guessing: %v", list)
		}
		e.b.Cleanup(context.Background())
		elsewhere.b.Cleanup(context.Background())
	})
}

// A refresh token that was used before is a finding. The grant was revoked before the finding is made.
func TestFindingOfARefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newIssuer(t)
		e.write("roles/app", data{"scopes": "a", "refresh": true, "access_ttl": "5m"})
		c := e.creds("app", nil)
		_, second := e.mustRefresh(c.data["refresh_token"].(string))
		time.Sleep(time.Minute)
		e.mustRefresh(second)
		if list := e.findings(nil); len(list) != 0 {
			t.Errorf("found %v", list)
		}
		e.refused4xx("oauth/token", data{"grant_type": "refresh_token", "refresh_token": c.data["refresh_token"]}, "invalid_grant")
		list := e.findings(nil)
		if len(list) != 1 || list[0]["rule"] != "refresh_reuse" || list[0]["role"] != "app" || list[0]["response"] != "revoked" {
			t.Errorf("found %v", list)
		}
		e.b.Cleanup(context.Background())
	})
}

// A broken finding and broken settings cost only themselves.
func TestBrokenFinding(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": []string{"a:read"}})
	c := e.creds("r", nil)
	e.report("api-1", 1, data{"token_id": c.id, "refusals": data{"proof_replayed": 1}})
	id := e.list("findings/", nil)[0]
	e.write("findings/"+id, data{"note": "x"}) // which stores the finding
	e.write("config/detection", data{"shared": "off"})
	bad, settings := detect.Prefix+"finding/00000000000000000000000a", detect.Prefix+"settings"
	for _, key := range []string{bad, settings} {
		if err := e.storage.InmemStorage.Put(context.Background(), &logical.StorageEntry{Key: key, Value: []byte("noise")}); err != nil {
			t.Fatal(err)
		}
	}
	e = e.restart()
	if got := e.list("findings/", nil); !slices.Equal(got, []string{id}) {
		t.Errorf("listed %q, want %q", got, id)
	}
	if got := e.list("broken/", nil); !slices.Equal(got, []string{bad, settings}) {
		t.Errorf("listed as broken: %q", got)
	}
	if got := e.read("config/detection")["shared"]; got != "on" {
		t.Errorf("with broken settings, shared is %v", got)
	}
	e.do(logical.DeleteOperation, "broken/"+bad, nil)
	if resp := e.do(logical.UpdateOperation, "config/detection", data{"surge": "off"}); resp == nil || len(resp.Warnings) != 1 {
		t.Errorf("writing over broken settings: %v", resp)
	}
	if got := e.list("broken/", nil); len(got) != 0 {
		t.Errorf("listed as broken: %q", got)
	}
}

// A standby shows what the active node has stored, and forwards writes.
func TestFindingsOnAStandby(t *testing.T) {
	e := newEngine(t)
	e.write("roles/r", data{"scopes": []string{"a:read"}})
	standby := mountOn(t, e.storage, e.system)
	standby.list("findings/", nil)
	c := e.creds("r", nil)
	e.report("api-1", 1, data{"token_id": c.id, "refusals": data{"proof_replayed": 1}})
	id := e.list("findings/", nil)[0]
	e.write("findings/"+id, data{"note": "x"})
	standby.b.Mount.Invalidate(detect.Prefix + "finding/" + id)
	if got := standby.read("findings/" + id); got == nil || got["note"] != "x" {
		t.Errorf("the standby shows %v", got)
	}
	e.write("config/detection", data{"shared": "off"})
	standby.b.Mount.Invalidate(detect.Prefix + "settings")
	if got := standby.read("config/detection")["shared"]; got != "off" {
		t.Errorf("on the standby shared is %v", got)
	}
	e.system.state.Store(uint32(consts.ReplicationPerformanceStandby))
	standby = mountOn(t, e.storage, e.system)
	for path, d := range map[string]data{"findings/" + id: {"note": "y"}, "config/detection": {"shared": "on"}} {
		if _, err := standby.request(&logical.Request{Operation: logical.UpdateOperation, Path: path, Data: d}); err != logical.ErrReadOnly { //nolint:errorlint // Vault compares so
			t.Errorf("%s on a standby: %v", path, err)
		}
	}
}
