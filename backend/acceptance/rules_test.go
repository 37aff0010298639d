package acceptance

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/geoip/geoiptest"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/vaultserver"
)

// ruled is a real Vault server whose rules of misuse are tried.
type ruled struct {
	t        *testing.T
	c        *api.Client
	sequence int
}

func (v *ruled) write(path string, data map[string]any) map[string]any {
	v.t.Helper()
	secret, err := v.c.Logical().WriteWithContext(v.t.Context(), path, data)
	if err != nil {
		v.t.Fatal(err)
	}
	if secret == nil {
		return nil
	}
	return secret.Data
}

// token issues a token, and returns its text and its token_id.
func (v *ruled) token() (text, id string) {
	v.t.Helper()
	issued := v.write("apitoken/creds/reader", nil)
	return issued["token"].(string), issued["token_id"].(string)
}

// report reports rows about a token, each in a batch of its own, as a verifier does over time.
func (v *ruled) report(id string, rows ...map[string]any) {
	v.t.Helper()
	for _, row := range rows {
		row["token_id"] = id
		v.sequence++
		v.write("apitoken/usage", map[string]any{"reporter": "api", "sequence": v.sequence, "tokens": []any{row}})
	}
}

// from is a row of uses from an address, some time ago.
func from(ip string, ago time.Duration, uses int) map[string]any {
	return map[string]any{"uses": uses, "last_ip": ip, "last_used_at": time.Now().Add(-ago).UTC().Format(time.RFC3339)}
}

func refusals(reason string, n int) map[string]any {
	return map[string]any{"refusals": map[string]any{reason: n}}
}

// cause misuses a token in the way of a rule, and returns its token_id; empty: the rule concerns an address.
var cause = map[detect.Rule]func(v *ruled) (id string){
	detect.ImpossibleTravel: func(v *ruled) string {
		_, id := v.token()
		v.report(id, from("192.0.2.1", time.Hour, 1), from("198.51.100.1", 30*time.Minute, 1))
		return id
	},
	detect.NewRegion:       func(v *ruled) string { return v.moved("198.18.0.1") },
	detect.NewNetwork:      func(v *ruled) string { return v.moved("203.0.113.1") },
	detect.SeveralNetworks: func(v *ruled) string { return v.moved("203.0.113.1") },
	detect.RefusedBurst: func(v *ruled) string {
		_, id := v.token()
		v.report(id, refusals("insufficient_scope", 20))
		return id
	},
	detect.Guessing: func(v *ruled) string {
		v.sequence++
		v.write("apitoken/usage", map[string]any{"reporter": "api", "sequence": v.sequence, "unknown": []any{
			map[string]any{"ip": "192.0.2.66", "refusals": 30},
		}})
		return ""
	},
	detect.Shared: func(v *ruled) string {
		_, id := v.token()
		for n := range 7 {
			v.report(id, from(fmt.Sprintf("10.%d.0.1", n), time.Minute, 1))
		}
		return id
	},
	detect.DormantAwake: func(v *ruled) string {
		_, id := v.token()
		v.report(id, from("192.0.2.1", 40*24*time.Hour, 1), from("192.0.2.1", 0, 1))
		return id
	},
	detect.UsedAfterEnd: func(v *ruled) string {
		text, id := v.token()
		v.write("apitoken/revoke", map[string]any{"token_id": id})
		for range 2 {
			v.write("apitoken/introspect", map[string]any{"token": text, "client_ip": "192.0.2.9"})
			time.Sleep(1100 * time.Millisecond)
		}
		return id
	},
	detect.Surge: func(v *ruled) string {
		_, id := v.token()
		for ago := 9; ago > 0; ago-- {
			v.report(id, from("192.0.2.1", time.Duration(ago)*time.Minute, 1))
		}
		v.report(id, from("192.0.2.1", 0, 1000))
		return id
	},
	detect.RefreshReuse: func(v *ruled) string {
		issued := v.write("apitoken/creds/refreshed", nil)
		used := issued["refresh_token"].(string)
		for range 3 { // a second use may be that of a client whose answer was lost
			next, err := v.refresh(used)
			if err == nil {
				_, _ = v.refresh(next)
			}
		}
		grant, _, _ := strings.Cut(issued["token_id"].(string), ".")
		return grant
	},
	detect.ProofFailed: func(v *ruled) string {
		_, id := v.token()
		v.report(id, refusals("proof_required", 1))
		return id
	},
	detect.WrongEnvironment: func(v *ruled) string {
		other := v.write("other/creds/reader", nil)["token"]
		v.write("apitoken/introspect", map[string]any{"token": other, "client_ip": "192.0.2.8"})
		return ""
	},
	detect.Leaked: func(v *ruled) string {
		text, id := v.token()
		v.write("apitoken/leaked", map[string]any{"tokens": []any{text}})
		return id
	},
}

// moved uses a token in a familiar place, and then elsewhere.
func (v *ruled) moved(to string) (id string) {
	v.t.Helper()
	_, id = v.token()
	v.report(id, from("192.0.2.1", 5*time.Minute, 1), from(to, 0, 1))
	return id
}

func (v *ruled) refresh(token string) (next string, _ error) {
	resp, err := v.c.Logical().WriteRawWithContext(v.t.Context(), "apitoken/oauth/token",
		[]byte(fmt.Sprintf(`{"grant_type": "refresh_token", "refresh_token": %q}`, token)))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var pair struct {
		Next string `json:"refresh_token"`
	}
	return pair.Next, json.NewDecoder(resp.Body).Decode(&pair)
}

// found waits for an open finding of a rule about a token, and returns the finding; nil: there is none.
func (v *ruled) found(rule detect.Rule, id string) map[string]any {
	v.t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		list, err := v.c.Logical().ListWithContext(v.t.Context(), "apitoken/findings")
		if err != nil {
			v.t.Fatal(err)
		}
		if list == nil {
			continue
		}
		for _, info := range list.Data["key_info"].(map[string]any) {
			f := info.(map[string]any)
			if f["rule"] == string(rule) && (id == "" || f["token_id"] == id) {
				return f
			}
		}
	}
	return nil
}

// TestRules has each rule of misuse find what it promises to find, on a real Vault server; and has rules suspend and revoke.
func TestRules(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	server, err := vaultserver.Start(ctx, vaultserver.Config{Binary: vault, Dir: filepath.Join(dir, "node1"), PluginDir: filepath.Dir(plugin)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	v := &ruled{t: t, c: server.Client()}
	if err := errors.Join(
		server.Register(ctx, vaultserver.PluginName),
		v.c.Sys().MountWithContext(ctx, "apitoken", &api.MountInput{Type: vaultserver.PluginName}),
		v.c.Sys().MountWithContext(ctx, "other", &api.MountInput{Type: vaultserver.PluginName}),
	); err != nil {
		t.Fatal(err)
	}
	places := filepath.Join(dir, "places.mmdb")
	geoiptest.WritePlaces(t, places, map[string]geoiptest.Place{
		"192.0.2.0/24":    {Country: "DE", City: 1, Latitude: 52.5, Longitude: 13.4, Radius: 10, Network: 64496},
		"198.51.100.0/24": {Country: "AU", City: 2, Latitude: -33.9, Longitude: 151.2, Radius: 10, Network: 64497},
		"198.18.0.0/24":   {Country: "US", City: 4, Latitude: 40.7, Longitude: -74, Radius: 10, Network: 64499},
		"203.0.113.0/24":  {Country: "DE", City: 3, Latitude: 52.4, Longitude: 13.1, Radius: 10, Network: 64498},
	})
	v.write("apitoken/config", map[string]any{"geoip_database": places, "environment": "here"})
	v.write("other/config", map[string]any{"environment": "there"})
	v.write("apitoken/config/detection", map[string]any{
		"learn_uses": 1, "surge_learn": 5, "used_after_end_after": "0s",
		"shared": "suspend", "surge": "revoke", "new_region": "off",
	})
	for _, mount := range []string{"apitoken", "other"} {
		v.write(mount+"/roles/reader", map[string]any{
			"scopes": "orders:read", "ttl": "1h", "detection": map[string]any{"dormant_awake": "suspend"},
		})
	}
	v.write("apitoken/roles/refreshed", map[string]any{"scopes": "orders:read", "ttl": "1h", "refresh": true, "access_ttl": "10m"})
	if v.moved("198.51.100.1"); v.found(detect.NewRegion, "") != nil {
		t.Error("new_region is off, and has made a finding")
	}
	v.write("apitoken/config/detection", map[string]any{"new_region": "on"})

	for _, r := range detect.Rules {
		misuse := cause[r.Rule]
		if misuse == nil {
			t.Errorf("%s is not tried", r.Rule)
			continue
		}
		id := misuse(v)
		f := v.found(r.Rule, id)
		if f == nil {
			t.Errorf("%s has found nothing", r.Rule)
			continue
		}
		if f["summary"] == "" || f["severity"] == "" || len(f["commands"].([]any)) == 0 || f["state"] != detect.Open {
			t.Errorf("%s: %v", r.Rule, f)
		}
		if id == "" {
			continue
		}
		want, ended := map[detect.Rule]string{
			detect.Shared: "suspended", detect.DormantAwake: "suspended", detect.Surge: "revoked", detect.UsedAfterEnd: "revoked", detect.RefreshReuse: "revoked",
			detect.Leaked: "revoked",
		}[r.Rule]
		if !ended {
			want = "active"
		}
		state := func() any {
			listed, err := v.c.Logical().ReadWithContext(ctx, "apitoken/tokens/"+id)
			if err != nil || listed == nil {
				t.Fatal(listed, err)
			}
			return listed.Data["state"]
		}
		got := state()
		for end := time.Now().Add(5 * time.Second); got != want && time.Now().Before(end); got = state() {
			time.Sleep(50 * time.Millisecond) // the engine responds within about a second
		}
		if got != want {
			t.Errorf("%s: the token is %v, want %s", r.Rule, got, want)
		}
	}
}
