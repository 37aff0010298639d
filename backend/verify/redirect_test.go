package verify

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A node that is no longer active redirects a request to the active node, which gets the whole request.
func TestAskingThroughARedirect(t *testing.T) {
	t.Parallel()
	var asked map[string]any
	active := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || r.Header.Get("X-Vault-Token") != "the verifier's" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_, _ = w.Write([]byte(`{"data": {"active": true}}`))
	}))
	defer active.Close()
	standby := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, active.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer standby.Close()
	c := Config{AnyAudience: true, Vault: &VaultConfig{Address: standby.URL, Token: "the verifier's"}}
	if err := c.defaults(); err != nil {
		t.Fatal(err)
	}
	v, err := newVault(&c)
	if err != nil {
		t.Fatal(err)
	}
	v.client.SetToken("the verifier's")
	a, err := v.introspect(t.Context(), "text", 7)
	if err != nil || !a.Active || asked["token"] != "text" || asked["min_cursor"] != 7.0 {
		t.Error(a, err, asked)
	}
}
