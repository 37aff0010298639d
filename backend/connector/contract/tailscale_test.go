package contract

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"tailscale.com/client/tailscale/v2"
)

func TestTailscale(t *testing.T) {
	s := newService(t)
	const where = "/api/v2/tailnet/-/keys"
	hold(t, s, sample{
		provider: "tailscale", credential: map[string]any{"token": "good"}, bad: map[string]any{"token": "bad"},
		params: map[string]any{"tags": "tag:ci", "reusable": true},
	}, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer good":
			say(w, 401, tailscale.APIError{Message: "API token invalid"})
		case r.Method == http.MethodPost && r.URL.Path == where:
			in := decode[tailscale.CreateKeyRequest](t, r)
			create := in.Capabilities.Devices.Create
			if in.ExpirySeconds < 90*60 || in.ExpirySeconds > 90*24*60*60 || !create.Reusable || !create.Ephemeral || create.Preauthorized || len(create.Tags) != 1 {
				t.Errorf("%+v", in)
			}
			// "A short string specifying the purpose of the key": at most 50 letters, digits, hyphens and spaces.
			if !regexp.MustCompile(`^[A-Za-z0-9 -]{1,50}$`).MatchString(in.Description) {
				t.Errorf("description %q", in.Description)
			}
			id := s.mint(in.Description)
			say(w, 200, tailscale.Key{ID: string(rune('0' + id)), Key: "tskey-auth-x", Description: in.Description, Created: time.Now(),
				Expires: time.Now().Add(time.Duration(in.ExpirySeconds) * time.Second), Capabilities: in.Capabilities})
		case r.Method == http.MethodGet && r.URL.Path == where:
			if len(r.URL.Query()) > 1 || r.URL.Query().Get("all") == "" && len(r.URL.Query()) == 1 {
				t.Error(r.URL.Query())
			}
			keys := []tailscale.Key{}
			s.each(r, 1000, func(id, name string) {
				keys = append(keys, tailscale.Key{ID: id, Description: name, Created: time.Now(), UserID: "u1"})
			})
			say(w, 200, map[string]any{"keys": keys})
		case r.Method == http.MethodDelete && strings.HasPrefix(r.URL.Path, where+"/"):
			if !s.end(strings.TrimPrefix(r.URL.Path, where+"/")) {
				say(w, 404, tailscale.APIError{Message: "not found"})
				return
			}
			say(w, 200, nil)
		default:
			t.Errorf("%s %s is not Tailscale's", r.Method, r.URL.Path)
		}
	})
}
