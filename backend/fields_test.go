package backend

import (
	"reflect"
	"strings"
	"testing"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/values"
)

// Each pointer of a request struct has the json tag of a field of the path: otherwise the field would be ignored.
func TestRequestStructsHaveFields(t *testing.T) {
	e := newEngine(t)
	for path, request := range map[string]any{
		"config":         native.ConfigChange{},
		"roles/x":        role.Change{},
		"connections/x":  upstream.Change{},
		"static-roles/x": static.Change{},
		"creds/x":        role.Request{},
		"introspect":     native.UseRequest{},
	} {
		taken := e.b.Route(path).Fields
		for _, field := range reflect.VisibleFields(reflect.TypeOf(request)) {
			name := strings.Split(field.Tag.Get("json"), ",")[0]
			if field.Type.Kind() == reflect.Pointer && taken[name] == nil {
				t.Errorf("%s: %T.%s has the json tag %q, which is no field of the path", path, request, field.Name, name)
			}
		}
	}
}

// Each member that is read from a struct is in the struct.
func TestAnswersHaveMembers(t *testing.T) {
	for _, c := range []struct {
		schema fields
		from   any
		added  string // members that the path file adds
	}{
		{roleAnswer, role.Entry{}, "generate_lease attested"},
		{configAnswer, native.Config{}, "token_pattern"},
		{connectionAnswer, upstream.Entry{}, "tokens queue attested"},
		{staticRoleAnswer, static.Status{}, "attested"},
		{staticCredsAnswer, static.Status{}, ""},
		{keysAnswer, native.KeysInUse{}, ""},
		{tokenRowFields, mount.Record{}, ""},
	} {
		members := values.Members(c.from)
		for name := range c.schema {
			if _, found := members[name]; !found && !strings.Contains(" "+c.added+" ", " "+name+" ") {
				t.Errorf("%T has no member %s", c.from, name)
			}
		}
	}
}
