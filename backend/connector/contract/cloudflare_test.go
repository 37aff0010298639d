package contract

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudflare/cloudflare-go/v6/accounts"
	"github.com/cloudflare/cloudflare-go/v6/shared"
	"github.com/cloudflare/cloudflare-go/v6/user"
)

// conform holds a JSON value to a type of cloudflare-go, whose members are param.Field[T]: it must have all that
// are required, and none that the type does not have.
func conform(t *testing.T, at string, value any, want reflect.Type) {
	t.Helper()
	if want.Kind() == reflect.Struct && strings.HasPrefix(want.Name(), "Field[") {
		field, _ := want.FieldByName("Value")
		want = field.Type
	}
	switch {
	case want == reflect.TypeFor[time.Time]():
		text, _ := value.(string)
		if _, err := time.Parse(time.RFC3339, text); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	case want == reflect.TypeFor[shared.TokenPolicyResourcesUnionParam]():
		conform(t, at, value, reflect.TypeFor[shared.TokenPolicyResourcesIAMResourcesTypeObjectStringParam]())
	case want.Kind() == reflect.Struct:
		members, ok := value.(map[string]any)
		if !ok {
			t.Errorf("%s: %v is no object", at, value)
			return
		}
		known := tagged(want, "json")
		for name := range members {
			if !slices.Contains(known, name) {
				t.Errorf("%s has the member %q, which is not one of %q", at, name, known)
			}
		}
		for i := range want.NumField() {
			field := want.Field(i)
			name := field.Tag.Get("json")
			member, given := members[name]
			if name == "" || name == "-" {
				continue
			}
			if given {
				conform(t, at+"."+name, member, field.Type)
			} else if field.Tag.Get("api") == "required" {
				t.Errorf("%s: %s is required", at, name)
			}
		}
	case want.Kind() == reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			t.Errorf("%s: %v is no list", at, value)
		}
		for i, one := range list {
			conform(t, fmt.Sprintf("%s[%d]", at, i), one, want.Elem())
		}
	case want.Kind() == reflect.Map:
		members, ok := value.(map[string]any)
		if !ok {
			t.Errorf("%s: %v is no object", at, value)
		}
		for name, one := range members {
			conform(t, at+"."+name, one, want.Elem())
		}
	case want.Kind() == reflect.String:
		if _, ok := value.(string); !ok {
			t.Errorf("%s: %v is no string", at, value)
		}
	default:
		t.Errorf("%s: what is a %s?", at, want)
	}
}

func TestCloudflare(t *testing.T) {
	account := strings.Repeat("a1", 16)
	for of, where := range map[string]string{"": "/client/v4/user/tokens", account: "/client/v4/accounts/" + account + "/tokens"} {
		t.Run("of "+of, func(t *testing.T) {
			s := newService(t)
			params, list := reflect.TypeFor[user.TokenNewParams](), query[user.TokenListParams]
			if of != "" {
				params, list = reflect.TypeFor[accounts.TokenNewParams](), query[accounts.TokenListParams]
			}
			result := func(w http.ResponseWriter, value any) {
				say(w, 200, map[string]any{"success": true, "errors": []any{}, "messages": []any{}, "result": value})
			}
			refuse := func(w http.ResponseWriter, status, code int, message string) {
				say(w, status, map[string]any{"success": false, "errors": []any{map[string]any{"code": code, "message": message}}, "messages": []any{}, "result": nil})
			}
			hold(t, s, sample{
				provider: "cloudflare", credential: map[string]any{"token": "good"}, bad: map[string]any{"token": "bad"},
				settings: map[string]any{"account_id": of},
				params: map[string]any{
					"permission_groups": strings.Repeat("c8", 16), "resources": "com.cloudflare.api.account.zone." + strings.Repeat("f0", 16),
					"request_ips": "192.0.2.0/24,2001:db8::/32",
				},
			}, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Header.Get("Authorization") != "Bearer good":
					refuse(w, 401, 1000, "Invalid API Token")
				case r.Method == http.MethodGet && r.URL.Path == where+"/verify":
					result(w, map[string]any{"id": "x", "status": "active"})
				case r.Method == http.MethodPost && r.URL.Path == where:
					var in map[string]any
					if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
						t.Error(err)
					}
					conform(t, "body", in, params)
					name, _ := in["name"].(string)
					if len(name) > 120 {
						t.Errorf("name %q", name)
					}
					result(w, map[string]any{"id": fmt.Sprint(s.mint(name)), "name": name, "value": "v", "status": "active", "expires_on": in["expires_on"], "policies": in["policies"]})
				case r.Method == http.MethodGet && r.URL.Path == where:
					list(t, r, "query")
					tokens := []any{}
					s.each(r, 50, func(id, name string) {
						tokens = append(tokens, map[string]any{"id": id, "name": name, "status": "active", "issued_on": time.Now().Format(time.RFC3339),
							"policies": []any{map[string]any{"permission_groups": []any{map[string]any{"id": "c8", "name": "DNS Read"}}}}})
					})
					result(w, tokens)
				case r.Method == http.MethodDelete && strings.HasPrefix(r.URL.Path, where+"/"):
					if !s.end(strings.TrimPrefix(r.URL.Path, where+"/")) {
						refuse(w, 404, 1003, "Token not found")
						return
					}
					result(w, map[string]any{"id": "x"})
				default:
					t.Errorf("%s %s is not Cloudflare's", r.Method, r.URL.Path)
				}
			})
		})
	}
}
