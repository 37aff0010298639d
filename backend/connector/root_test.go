package connector

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// rotating are the operations of the small provider that are about the credential.
const (
	rotating = `  rotate_root:
    requests:
      - {method: POST, path: /api/keys, headers: {authorization: credential.key}, json: '{"name": name}'}
    result: {credential: '{"key": string(response.body.key)}'}
`
	findingRoot = `  find_root:
    requests: [{method: GET, path: /api/keys, headers: {authorization: credential.key}, query: {page: page}}]
    items: response.body
`
	revokingRoot = `  revoke_root:
    requests: [{method: DELETE, path: '/api/keys/{id}', gone: [404]}]
`
)

// small without params in its list of tokens, but in what revokes one.
var paramsToRevoke = strings.Replace(small, "      - method: DELETE\n", "      - method: DELETE\n        when: params.level > 0\n", 1)

// small that needs params to list tokens.
var paramsToFind = strings.Replace(small, "query: {page: page}", "query: {page: page, level: params.level}", 1)

// What rotate_root names must be found by that name, without what only a role knows.
func TestRootMustBeFound(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"find serves":           {small + rotating, ""},
		"nothing finds it":      {paramsToFind + rotating, "line 46: rotate_root: refers to name, but no operation finds the name"},
		"find_root":             {paramsToFind + rotating + findingRoot, ""},
		"both":                  {paramsToFind + rotating + findingRoot + revokingRoot, ""},
		"revoke needs params":   {paramsToRevoke + rotating, "line 34: revoke: refers to params, which a credential found by name does not have: revoke_root is required"},
		"revoke needs a token":  {strings.Replace(small, "{id}\n", "{id}\n        json: token\n", 1) + rotating, "line 34: revoke: refers to token, which a credential"},
		"revoke_root":           {paramsToRevoke + rotating + revokingRoot, ""},
		"chosen by the client":  {paramsToFind + strings.NewReplacer(`"name": name`, `"key": generated`, "string(response.body.key)", "generated").Replace(rotating), ""},
		"params in find_root":   {small + rotating + strings.Replace(findingRoot, "page: page", "level: params.level", 1), "find_root.query.level: undeclared reference to 'params"},
		"params in check":       {strings.Replace(small, "path: /api/self", "path: '/api/{params.level}'", 1), "check.path: undeclared reference to 'params"},
		"no rotate_root":        {small + findingRoot, "line 46: find_root: there is no rotate_root"},
		"find_root of no items": {small + rotating + strings.Replace(findingRoot, "    items: response.body\n", "", 1), "find_root.items: is missing"},
		"revoke_root alone":     {paramsToFind + strings.Replace(rotating, `"name": name`, `"a": 1`, 1) + revokingRoot, "line 50: revoke_root: find_root is required"},
	} {
		_, err := Compile([]byte(c.text))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestFindRoot(t *testing.T) {
	for text, paths := range map[string][2]string{
		small + rotating: {"GET /api/main/tokens", "DELETE /api/main/tokens/7"},
		paramsToFind + rotating + findingRoot + revokingRoot: {"GET /api/keys", "DELETE /api/keys/7"},
	} {
		var asked []string
		u := serve(t, ClientConfig{}, func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.Method+" "+r.URL.Path)
			fmt.Fprint(w, `[{"id": 7, "name": "root-1"}]`)
		})
		u.Settings = map[string]any{"tenant": "main"}
		var err error
		if u.Provider, err = Compile([]byte(text)); err != nil || !u.Provider.CanFindRoot() {
			t.Fatal(err)
		}
		found, err := u.FindRoot(t.Context(), "root-1")
		if err != nil || len(found) != 1 || found[0].ID != "7" {
			t.Fatalf("%+v, %v", found, err)
		}
		if err := u.RevokeRoot(t.Context(), &found[0]); err != nil {
			t.Error(err)
		}
		if asked[0] != paths[0] || asked[len(asked)-1] != paths[1] {
			t.Errorf("%q, want %q", asked, paths)
		}
	}
}

// A revocation says whether it was done, was not needed, or cannot be done.
func TestRevokeTellsApart(t *testing.T) {
	status := 204
	u := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	one := &Token{ID: "1", Text: "t"}
	if err := u.Revoke(t.Context(), one); err != nil {
		t.Error(err)
	}
	status = 404
	if err := u.Revoke(t.Context(), one); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	providers, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	u.Provider = providers["oauth2"]
	u.Credential = map[string]any{"client_id": "c", "client_secret": "s"}
	u.Settings = map[string]any{"token_path": "/token"}
	if err := u.Revoke(t.Context(), one); !errors.Is(err, ErrCannotRevoke) {
		t.Errorf("without revocation_path: %v", err)
	}
	u.Settings["revocation_path"], status = "/revoke", 200
	if err := u.Revoke(t.Context(), one); err != nil {
		t.Error(err)
	}
}
