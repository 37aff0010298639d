package contract

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.yaml.in/yaml/v3"
)

// validated has every request and every answer judged by an OpenAPI document.
func validated(t *testing.T, document *openapi3.T, handler http.HandlerFunc) http.HandlerFunc {
	t.Helper()
	document.Servers = nil
	router, err := gorillamux.NewRouter(document)
	if err != nil {
		t.Fatal(err)
	}
	options := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, MultiError: true, IncludeResponseStatus: true}
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		route, params, err := router.FindRoute(r)
		if err != nil {
			t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
			return
		}
		input := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route, Options: options}
		if err := openapi3filter.ValidateRequest(r.Context(), input); err != nil {
			t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		}
		unknown(t, route, body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		recorded := httptest.NewRecorder()
		handler(recorded, r)
		if recorded.Code < 300 {
			answer := &openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: recorded.Code, Header: recorded.Header(), Options: options}
			answer.SetBodyBytes(recorded.Body.Bytes())
			if err := openapi3filter.ValidateResponse(r.Context(), answer); err != nil {
				t.Errorf("the answer of this test to %s %s: %v", r.Method, r.URL.Path, err)
			}
		}
		for name, values := range recorded.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(recorded.Code)
		_, _ = w.Write(recorded.Body.Bytes())
	}
}

// unknown refuses members of a body that the document does not have: schemas allow others.
func unknown(t *testing.T, route *routers.Route, body []byte) {
	t.Helper()
	if len(body) == 0 || route.Operation.RequestBody == nil {
		return
	}
	media := route.Operation.RequestBody.Value.Content.Get("application/json")
	var value any
	if err := json.Unmarshal(body, &value); err != nil || media == nil {
		t.Errorf("%s: %v", body, err)
		return
	}
	var visit func(at string, value any, schema *openapi3.Schema)
	visit = func(at string, value any, schema *openapi3.Schema) {
		switch v := value.(type) {
		case map[string]any:
			for name, one := range v {
				property := schema.Properties[name]
				if property == nil {
					t.Errorf("%s has the member %q, which the document does not know", at, name)
					continue
				}
				visit(at+"."+name, one, property.Value)
			}
		case []any:
			for _, one := range v {
				visit(at+"[]", one, schema.Items.Value)
			}
		}
	}
	visit("body", value, media.Schema.Value)
}

func TestHarbor(t *testing.T) {
	text, err := os.ReadFile("testdata/harbor-v2.0.swagger.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var plain any
	if err := yaml.Unmarshal(text, &plain); err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	var v2 openapi2.T
	if err := json.Unmarshal(encoded, &v2); err != nil {
		t.Fatal(err)
	}
	document, err := openapi2conv.ToV3(&v2)
	if err != nil {
		t.Fatal(err)
	}
	s := newService(t)
	hold(t, s, sample{
		provider: "harbor", basePath: "",
		credential: map[string]any{"username": "admin", "password": "good"}, bad: map[string]any{"username": "admin", "password": "bad"},
		params: map[string]any{"projects": "library,team", "permissions": "repository:pull,repository:push"},
	}, stripped("/api/v2.0", validated(t, document, func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		switch {
		case password != "good":
			say(w, 401, map[string]any{"errors": []any{map[string]any{"code": "UNAUTHORIZED", "message": "unauthorized"}}})
		case r.Method == http.MethodPost:
			var in struct {
				Name     string
				Level    string
				Duration int64
			}
			if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Name != strings.ToLower(in.Name) || in.Level != "system" || in.Duration != 1 {
				t.Errorf("%+v, %v", in, err)
			}
			say(w, 201, map[string]any{"id": s.mint("robot$" + in.Name), "name": "robot$" + in.Name, "secret": "s", "creation_time": time.Now().Format(time.RFC3339), "expires_at": time.Now().Unix() + in.Duration*86400})
		case r.Method == http.MethodGet && r.URL.Path == "/projects":
			say(w, 200, []any{map[string]any{"project_id": 1, "name": "library"}})
		case r.Method == http.MethodGet:
			q := r.URL.Query().Get("q")
			fuzzy, isName := strings.CutPrefix(q, "name=~")
			if !isName && q != "" && q != "Level=project,ProjectID=1" {
				t.Errorf("q=%s", q)
			}
			robots := []any{}
			s.each(r, 100, func(id, name string) {
				if q == "" || isName && strings.Contains(name, fuzzy) {
					robots = append(robots, map[string]any{
						"id": int(id[0] - '0'), "name": name, "level": "system", "creation_time": time.Now().Format(time.RFC3339), "expires_at": -1,
						"permissions": []any{map[string]any{"kind": "project", "namespace": "library", "access": []any{map[string]any{"resource": "repository", "action": "pull"}}}},
					})
				}
			})
			say(w, 200, robots)
		case r.Method == http.MethodDelete:
			if !s.end(strings.TrimPrefix(r.URL.Path, "/robots/")) {
				say(w, 404, map[string]any{"errors": []any{map[string]any{"code": "NOT_FOUND", "message": "robot not found"}}})
				return
			}
			w.WriteHeader(http.StatusOK)
		}
	})))
}

// stripped takes the base path away, which is not part of the document's paths.
func stripped(base string, next http.HandlerFunc) http.HandlerFunc {
	return http.StripPrefix(base, next).ServeHTTP
}

func TestGitHubApp(t *testing.T) {
	document := gitHubDocument(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private := func(k *rsa.PrivateKey) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}))
	}
	s := newService(t)
	hold(t, s, sample{
		provider: "github-app", credential: map[string]any{"client_id": "Iv1.0123456789abcdef", "private_key": private(key)},
		bad:    map[string]any{"client_id": "Iv1.0123456789abcdef", "private_key": private(other)},
		params: map[string]any{"installation_id": 42, "repositories": "site", "permissions": "contents:read,issues:write"},
	}, validated(t, document, func(w http.ResponseWriter, r *http.Request) {
		bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if r.Header.Get("X-GitHub-Api-Version") != "2022-11-28" || r.Header.Get("Accept") != "application/vnd.github+json" {
			t.Error(r.Header)
		}
		if r.Method == http.MethodDelete {
			if !s.end(strings.TrimPrefix(bearer, "ghs_")) {
				say(w, 401, map[string]any{"message": "Bad credentials", "documentation_url": "https://docs.github.com/rest"})
				return
			}
			w.WriteHeader(http.StatusNoContent)
			return
		}
		var claims jwt.Claims
		signed, err := jwt.ParseSigned(bearer, []jose.SignatureAlgorithm{jose.RS256})
		if err == nil {
			err = signed.Claims(&key.PublicKey, &claims)
		}
		if err != nil {
			say(w, 401, map[string]any{"message": "A JSON web token could not be decoded", "documentation_url": "https://docs.github.com/rest"})
			return
		}
		// "The time must be no more than 10 minutes into the future", and iat should be in the past.
		if claims.Issuer != "Iv1.0123456789abcdef" || claims.Expiry.Time().After(time.Now().Add(10*time.Minute)) || !claims.IssuedAt.Time().Before(time.Now()) {
			t.Errorf("%+v", claims)
		}
		if r.Method == http.MethodGet {
			owner := map[string]any{}
			for _, name := range []string{"login", "node_id", "avatar_url", "gravatar_id", "url", "html_url", "followers_url", "following_url", "gists_url", "starred_url", "subscriptions_url", "organizations_url", "repos_url", "events_url", "received_events_url", "type"} {
				owner[name] = "https://example.com"
			}
			owner["id"], owner["site_admin"] = 1, false
			say(w, 200, map[string]any{
				"id": 1, "slug": "vault", "node_id": "x", "owner": owner, "name": "Vault", "description": nil, "external_url": "https://example.com",
				"html_url": "https://example.com", "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
				"permissions": map[string]any{"contents": "read"}, "events": []any{},
			})
			return
		}
		if !strings.HasSuffix(r.URL.Path, "/42/access_tokens") {
			t.Error(r.URL.Path)
		}
		var in struct{ Permissions map[string]string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || fmt.Sprint(in.Permissions) != "map[contents:read issues:write]" {
			t.Errorf("%+v, %v", in, err)
		}
		say(w, 201, map[string]any{"token": fmt.Sprint("ghs_", s.mint("")), "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339), "permissions": in.Permissions, "repository_selection": "selected"})
	}))
}

// gitHubDocument is GitHub's own, from npm, cut to the paths that are used: it is large.
func gitHubDocument(t *testing.T) *openapi3.T {
	t.Helper()
	const file = "node_modules/@octokit/openapi/generated/api.github.com.deref.json"
	if _, err := os.Stat(file); err != nil {
		if _, err := exec.LookPath("npm"); err != nil && os.Getenv("REQUIRE_NODE") == "" {
			t.Skip("GitHub's OpenAPI document comes from npm, which is not here")
		}
		if out, err := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund").CombinedOutput(); err != nil {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var whole struct {
		OpenAPI string                     `json:"openapi"`
		Info    json.RawMessage            `json:"info"`
		Paths   map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(text, &whole); err != nil {
		t.Fatal(err)
	}
	used := make(map[string]json.RawMessage)
	for _, path := range []string{"/app", "/app/installations/{installation_id}/access_tokens", "/installation/token"} {
		used[path] = whole.Paths[path]
	}
	whole.Paths = used
	cut, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	document, err := openapi3.NewLoader().LoadFromData(cut)
	if err != nil {
		t.Fatal(err)
	}
	return document
}
