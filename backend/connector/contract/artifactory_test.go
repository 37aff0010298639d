package contract

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Artifactory publishes neither an OpenAPI document nor a Go library of the access service: this is what its
// documentation says, at https://jfrog.com/help/r/jfrog-rest-apis/create-token and the pages beside it.
func TestArtifactory(t *testing.T) {
	type createToken struct {
		GrantType             string `json:"grant_type"`
		Username              string `json:"username"`
		ProjectKey            string `json:"project_key"`
		Scope                 string `json:"scope"`
		ExpiresIn             int64  `json:"expires_in"`
		Refreshable           bool   `json:"refreshable"`
		Description           string `json:"description"`
		Audience              string `json:"audience"`
		IncludeReferenceToken bool   `json:"include_reference_token"`
		ForceRevocable        bool   `json:"force_revocable"`
	}
	s := newService(t)
	const where = "/access/api/v1/tokens"
	hold(t, s, sample{
		provider: "artifactory", credential: map[string]any{"token": "good"}, bad: map[string]any{"token": "bad"},
		params: map[string]any{"scope": "applied-permissions/groups:readers"},
	}, func(w http.ResponseWriter, r *http.Request) {
		id := strings.TrimPrefix(r.URL.Path, where+"/")
		switch {
		case r.Header.Get("Authorization") != "Bearer good":
			say(w, 401, map[string]any{"errors": []any{map[string]any{"code": "UNAUTHORIZED", "message": "Invalid token"}}})
		case r.Method == http.MethodGet && id == "me":
			say(w, 200, map[string]any{"token_id": "0", "subject": "jfac@x/users/admin", "issued_at": 1, "issuer": "jfac@x", "refreshable": false})
		case r.Method == http.MethodDelete && id == "me":
			w.WriteHeader(http.StatusOK)
		case r.Method == http.MethodPost && r.URL.Path == where:
			in := decode[createToken](t, r)
			if in.Scope == "" || in.ExpiresIn < 90*60 || !in.ForceRevocable || in.Username != strings.ToLower(in.Username) || len(in.Username) > 255 || len(in.Description) > 1024 {
				t.Errorf("%+v", in)
			}
			say(w, 200, map[string]any{"token_id": fmt.Sprint(s.mint(in.Description)), "access_token": "eyJ", "expires_in": in.ExpiresIn, "scope": in.Scope, "token_type": "Bearer"})
		case r.Method == http.MethodGet && r.URL.Path == where:
			for name := range r.URL.Query() {
				if name != "description" && name != "username" && name != "refreshable" {
					t.Errorf("parameter %s", name)
				}
			}
			tokens := []any{}
			s.each(r, 1000, func(id, name string) {
				if filter := r.URL.Query().Get("description"); filter == "" || filter == name {
					tokens = append(tokens, map[string]any{"token_id": id, "subject": "x", "issued_at": 1, "issuer": "y", "description": name, "refreshable": false})
				}
			})
			say(w, 200, map[string]any{"tokens": tokens})
		case r.Method == http.MethodDelete:
			if !s.end(id) { // "If the token ID is not found (e.g., already revoked) - return 204"
				w.WriteHeader(http.StatusNoContent)
				return
			}
			w.WriteHeader(http.StatusOK)
		default:
			t.Errorf("%s %s is not Artifactory's", r.Method, r.URL.Path)
		}
	})
}
