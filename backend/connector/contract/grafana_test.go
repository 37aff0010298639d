package contract

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/grafana/grafana-openapi-client-go/models"
)

func TestGrafana(t *testing.T) {
	s := newService(t)
	const where = "/api/serviceaccounts/5/tokens"
	hold(t, s, sample{
		provider: "grafana", credential: map[string]any{"token": "good"}, bad: map[string]any{"token": "bad"},
		settings: map[string]any{"org_id": 3}, params: map[string]any{"service_account_id": 5},
	}, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer good":
			say(w, 401, models.ErrorResponseBody{Message: new("Invalid API key")})
		case r.Header.Get("X-Grafana-Org-Id") != "3":
			t.Error(r.Header)
		case r.Method == http.MethodGet && r.URL.Path == "/api/serviceaccounts/search":
			say(w, 200, models.SearchOrgServiceAccountsResult{TotalCount: 1, ServiceAccounts: []*models.ServiceAccountDTO{{ID: 5, Name: "ci", Role: "Viewer"}}})
		case r.Method == http.MethodPost && r.URL.Path == where:
			in := decode[models.AddServiceAccountTokenCommand](t, r)
			if in.Name == "" || in.SecondsToLive < 90*60 || in.SecondsToLive > 92*60 {
				t.Errorf("%+v", in)
			}
			say(w, 200, models.NewAPIKeyResult{ID: int64(s.mint(in.Name)), Name: in.Name, Key: "glsa_x"})
		case r.Method == http.MethodGet && r.URL.Path == where:
			tokens := []*models.TokenDTO{}
			s.each(r, 1000, func(id, name string) {
				one := new(models.TokenDTO)
				if err := json.Unmarshal(fmt.Appendf(nil, `{"id": %s, "name": %q, "created": "2026-01-02T03:04:05Z"}`, id, name), one); err != nil {
					t.Error(err)
				}
				tokens = append(tokens, one)
			})
			say(w, 200, tokens)
		case r.Method == http.MethodDelete && strings.HasPrefix(r.URL.Path, where+"/"):
			if !s.end(strings.TrimPrefix(r.URL.Path, where+"/")) {
				say(w, 404, models.ErrorResponseBody{Message: new("service account token not found")})
				return
			}
			say(w, 200, models.SuccessResponseBody{Message: "Service account token deleted"})
		default:
			t.Errorf("%s %s is not Grafana's", r.Method, r.URL.Path)
		}
	})
}
