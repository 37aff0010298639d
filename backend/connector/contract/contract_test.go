// Package contract holds the built-in providers to what the vendors publish of their APIs: their OpenAPI
// documents, or the types of their own Go libraries. It is a module of its own, so that none of that is a
// dependency of the plugin.
package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
)

// service is a vendor's service: it has tokens, and a say in what requests must be.
type service struct {
	t      *testing.T
	mu     sync.Mutex
	next   int
	tokens map[string]string // id -> name
}

func newService(t *testing.T) *service { return &service{t: t, tokens: make(map[string]string)} }

// mint makes a token.
func (s *service) mint(name string) (id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	s.tokens[fmt.Sprint(s.next)] = name
	return s.next
}

// end deletes a token, and tells whether it was there.
func (s *service) end(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, there := s.tokens[id]
	delete(s.tokens, id)
	return there
}

// each visits the tokens of one page of a list.
func (s *service) each(r *http.Request, perPage int, visit func(id, name string)) {
	page := 1
	if text := r.URL.Query().Get("page"); text != "" {
		if _, err := fmt.Sscan(text, &page); err != nil || page < 1 {
			s.t.Errorf("page %q", text)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.tokens))
	for id := range s.tokens {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for i, id := range ids {
		if i/perPage == page-1 {
			visit(id, s.tokens[id])
		}
	}
}

// decode reads a JSON body into a type of the vendor's, which must have all of its members.
func decode[T any](t *testing.T, r *http.Request) T {
	t.Helper()
	var in T
	if got := r.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("%s %s: Content-Type %q", r.Method, r.URL.Path, got)
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
	}
	return in
}

// query refuses parameters that a type of the vendor's does not have under this tag.
func query[T any](t *testing.T, r *http.Request, tag string) url.Values {
	t.Helper()
	known := tagged(reflect.TypeFor[T](), tag)
	for name := range r.URL.Query() {
		if !slices.Contains(known, name) {
			t.Errorf("%s %s: the parameter %q is not one of %q", r.Method, r.URL.Path, name, known)
		}
	}
	return r.URL.Query()
}

func tagged(t reflect.Type, tag string) (names []string) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get(tag), ",")
		switch {
		case field.Anonymous:
			names = append(names, tagged(field.Type, tag)...)
		case name != "" && name != "-":
			names = append(names, name)
		}
	}
	return names
}

// holdList has a provider list the tokens: the two that are left of three, and not the revoked one.
func holdList(t *testing.T, up *connector.Service, params map[string]any, made []*connector.Created) {
	t.Helper()
	listed := make(map[string]*connector.Item)
	complete, err := up.List(t.Context(), []map[string]any{params}, func(one *connector.Item) { listed[one.ID] = one })
	if err != nil || !complete {
		t.Errorf("list: %v, %v", complete, err)
	}
	for i, one := range made {
		item := listed[one.ID]
		if (item != nil) != (i != 1) {
			t.Errorf("list: token %s of %v", one.ID, listed)
		} else if item != nil && (!strings.HasSuffix(strings.ToLower(item.Name), strings.ToLower(one.Name)) || item.Owner == "" || item.CreatedAt.IsZero()) {
			t.Errorf("list: %+v", item)
		}
	}
}

func say(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// sample is what a provider is tried with.
type sample struct {
	provider   string
	basePath   string
	credential map[string]any
	bad        map[string]any // a credential that the service does not accept
	settings   map[string]any
	params     map[string]any
}

// hold has a provider do all that it can at a service, whose handler judges each request.
func hold(t *testing.T, s *service, c sample, handler http.HandlerFunc) {
	t.Helper()
	server := httptest.NewServer(handler)
	defer server.Close()
	providers, err := connector.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	client, err := connector.NewClient(connector.ClientConfig{URL: server.URL + c.basePath, Timeout: 5 * time.Second, UserAgent: "contract"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	p := providers[c.provider]
	values := func(fields map[string]connector.Field, given map[string]any) map[string]any {
		v, err := connector.Values(fields, given)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	up := &connector.Service{
		Connection: "test", Provider: p, Client: client,
		Credential: values(p.Credential, c.credential), Settings: values(p.Settings, c.settings),
	}
	params := values(p.Params, c.params)
	ctx := t.Context()
	if _, err := up.Check(ctx); err != nil {
		t.Errorf("check: %v", err)
	}
	now := time.Now()
	var made []*connector.Created
	for i := range 3 {
		one, err := up.Create(ctx, fmt.Sprintf("vault-apitoken-role-aBcDeF12345%d", i), "role", params, now, now.Add(90*time.Minute))
		if err != nil {
			t.Fatalf("create: %v", err)
		}
		if one.ID == "" || one.Text == "" || len(one.Granted) > 0 {
			t.Errorf("%+v", one)
		}
		if p.Expiry != connector.ExpiryNone && c.provider != "github-app" && one.ExpiresAt.Before(now.Add(90*time.Minute)) {
			t.Errorf("it ends at %s, before its lease", one.ExpiresAt)
		}
		made = append(made, one)
	}
	if p.CanFind() {
		found, err := up.Find(ctx, []string{made[1].Name}, params)
		if err != nil || len(found) != 1 || found[0].ID != made[1].ID {
			t.Errorf("find: %+v, %v; want %s", found, err, made[1].ID)
		}
		if found, err := up.Find(ctx, []string{"vault-of-another"}, params); err != nil || len(found) != 0 {
			t.Errorf("find: %+v, %v", found, err)
		}
	}
	if err := up.Revoke(ctx, &made[1].Token); err != nil {
		t.Errorf("revoke: %v", err)
	}
	if err := up.Revoke(ctx, &made[1].Token); err != nil && !errors.Is(err, connector.ErrGone) {
		t.Errorf("revoke once more: %v", err)
	}
	if len(s.tokens) != 2 {
		t.Errorf("%d tokens are left", len(s.tokens))
	}
	if p.CanList() {
		holdList(t, up, params, made)
	}
	if p.CanRotateRoot() {
		const name = "vault-apitoken-root-aBcDeF123456"
		if credential, err := up.RotateRoot(ctx, name, "generated", now, now.Add(100*24*time.Hour)); err != nil || reflect.DeepEqual(credential, up.Credential) {
			t.Errorf("rotate_root: %v", err)
		}
		if p.CanFindRoot() {
			found, err := up.FindRoot(ctx, name)
			if err != nil || len(found) != 1 {
				t.Fatalf("find_root: %+v, %v", found, err)
			}
			if err := up.RevokeRoot(ctx, &found[0]); err != nil {
				t.Errorf("revoke_root: %v", err)
			}
			if len(s.tokens) != 2 {
				t.Errorf("%d tokens are left", len(s.tokens))
			}
		}
		if err := up.RetireRoot(ctx); err != nil {
			t.Errorf("retire_root: %v", err)
		}
	}

	up.Credential = values(p.Credential, c.bad)
	var e *connector.Error
	if _, err := up.Check(ctx); !errors.As(err, &e) || !e.Denied {
		t.Errorf("a bad credential: %v", err)
	}
	if _, err := up.Create(ctx, "vault-x", "role", params, now, now.Add(time.Hour)); !errors.As(err, &e) || !e.Denied || e.Unsure {
		t.Errorf("a bad credential: %v", err)
	}
}
