package contract

import (
	"net/http"
	"strings"
	"testing"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go"
)

// The requests are those that GitLab's own library can make; answers are its types.
func TestGitLab(t *testing.T) {
	for kind, where := range map[string]string{
		"project": "/api/v4/projects/team%2Fsite/access_tokens", "group": "/api/v4/groups/team%2Fsite/access_tokens",
		"service_account": "/api/v4/groups/team%2Fsite/service_accounts/7/personal_access_tokens", "personal": "/api/v4/users/7/personal_access_tokens",
	} {
		t.Run(kind, func(t *testing.T) {
			s := newService(t)
			// check says what documentation requires of every token.
			check := func(name *string, scopes *[]string, expires *gitlab.ISOTime) {
				if name == nil || scopes == nil || len(*scopes) == 0 || expires == nil {
					t.Error("name, scopes and expires_at are required")
				} else if end := time.Time(*expires); end.Before(time.Now()) || end.After(time.Now().AddDate(1, 0, 0)) {
					t.Errorf("expires_at %s is not within a year", end)
				}
			}
			answer := func(name string, scopes []string, expires *gitlab.ISOTime) gitlab.PersonalAccessToken {
				id := s.mint(name)
				return gitlab.PersonalAccessToken{ID: int64(id), Name: name, Scopes: scopes, ExpiresAt: expires, UserID: 7, Active: true, Token: "glpat-xxxxxxxxxxxxxxxxxxxx"}
			}
			list := func(r *http.Request, name string) any {
				tokens := []gitlab.PersonalAccessToken{}
				s.each(r, 100, func(id, n string) {
					if name == "" || strings.Contains(n, name) {
						tokens = append(tokens, gitlab.PersonalAccessToken{ID: int64(id[0] - '0'), Name: n, UserID: 7, CreatedAt: new(time.Now())})
					}
				})
				return tokens
			}
			hold(t, s, sample{
				provider: "gitlab", credential: map[string]any{"token": "good"}, bad: map[string]any{"token": "bad"},
				params: map[string]any{"kind": kind, "path": "team/site", "user_id": 7, "scopes": "read_repository"},
			}, func(w http.ResponseWriter, r *http.Request) {
				path := r.URL.EscapedPath()
				ended := func(prefix string) {
					if !s.end(strings.TrimPrefix(path, prefix+"/")) {
						say(w, 404, map[string]any{"message": "404 Not found"})
						return
					}
					w.WriteHeader(http.StatusNoContent)
				}
				switch {
				case r.Header.Get("PRIVATE-TOKEN") != "good":
					say(w, 401, map[string]any{"message": "401 Unauthorized"})
				case r.Method == http.MethodGet && path == "/api/v4/personal_access_tokens/self":
					say(w, 200, gitlab.PersonalAccessToken{ID: 1, Name: "root", Scopes: []string{"api"}, UserID: 1, Active: true})
				case r.Method == http.MethodGet && path == "/api/v4/user":
					say(w, 200, gitlab.User{ID: 1, Username: "root", IsAdmin: kind == "project"})
				case r.Method == http.MethodDelete && path == "/api/v4/personal_access_tokens/self":
					w.WriteHeader(http.StatusNoContent)
				case r.Method == http.MethodPost && (path == "/api/v4/users/1/personal_access_tokens" || kind == "personal" && path == where):
					in := decode[gitlab.CreatePersonalAccessTokenOptions](t, r)
					check(in.Name, in.Scopes, in.ExpiresAt)
					say(w, 201, answer(*in.Name, *in.Scopes, in.ExpiresAt))
				case r.Method == http.MethodPost && path == where && kind == "service_account":
					in := decode[gitlab.CreateServiceAccountPersonalAccessTokenOptions](t, r)
					check(in.Name, in.Scopes, in.ExpiresAt)
					say(w, 201, answer(*in.Name, *in.Scopes, in.ExpiresAt))
				case r.Method == http.MethodPost && path == where:
					in := decode[gitlab.CreateProjectAccessTokenOptions](t, r)
					check(in.Name, in.Scopes, in.ExpiresAt)
					if in.AccessLevel == nil || *in.AccessLevel != gitlab.DeveloperPermissions {
						t.Error("access_level is not that of a developer")
					}
					say(w, 201, answer(*in.Name, *in.Scopes, in.ExpiresAt))
				case r.Method == http.MethodGet && path == where && kind == "project":
					query[gitlab.ListProjectAccessTokensOptions](t, r, "url")
					say(w, 200, list(r, ""))
				case r.Method == http.MethodGet && path == where && kind == "group":
					query[gitlab.ListGroupAccessTokensOptions](t, r, "url")
					say(w, 200, list(r, ""))
				case r.Method == http.MethodGet && path == "/api/v4/personal_access_tokens":
					q := query[gitlab.ListPersonalAccessTokensOptions](t, r, "url")
					// The user of the credential for what replaces it, that of the role's params for its tokens. An
					// administrator lists the tokens of all users.
					want := map[bool]string{true: "1", false: "7"}[strings.Contains(q.Get("search"), "root")]
					if kind == "project" && q.Get("search") == "" {
						want = ""
					}
					if q.Get("user_id") != want || q.Get("state") != "active" {
						t.Error(q)
					}
					say(w, 200, list(r, q.Get("search")))
				case r.Method == http.MethodDelete && strings.HasPrefix(path, "/api/v4/personal_access_tokens/"):
					ended("/api/v4/personal_access_tokens")
				case r.Method == http.MethodDelete:
					ended(where)
				default:
					t.Errorf("%s %s is not GitLab's", r.Method, path)
				}
			})
		})
	}
}
