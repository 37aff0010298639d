package backend

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/report"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/values"
)

// decoded are the types of decoded values.
var decoded = map[schema.Type]reflect.Type{
	schema.TypeString:  reflect.TypeFor[string](),
	schema.TypeStrings: reflect.TypeFor[[]string](),
	schema.TypeCommas:  reflect.TypeFor[[]string](),
	schema.TypeSeconds: reflect.TypeFor[time.Duration](),
	schema.TypeInt:     reflect.TypeFor[int](),
	schema.TypeInt64:   reflect.TypeFor[int64](),
	schema.TypeFloat:   reflect.TypeFor[float64](),
	schema.TypeBool:    reflect.TypeFor[bool](),
	schema.TypeObject:  reflect.TypeFor[map[string]any](),
	schema.TypePairs:   reflect.TypeFor[map[string]string](),
	schema.TypeSlice:   reflect.TypeFor[[]any](),
	schema.TypeTime:    reflect.TypeFor[time.Time](),
}

// Each pointer of a request struct has the json tag of a field, and the type that the decoded field has: otherwise the field
// would be ignored, or decoding would panic.
func TestRequestStructsHaveFields(t *testing.T) {
	for _, c := range []struct {
		table   fields
		request any
	}{
		{native.ConfigFields, native.ConfigChange{}},
		{role.Fields, role.Change{}},
		{role.Fields, native.WriteRoleRequest{}},
		{upstream.ConnectionFields, upstream.Change{}},
		{upstream.ProviderFields, upstream.ProviderChange{}},
		{static.Fields, static.Change{}},
		{role.RequestFields, role.Request{}},
		{native.UseFields, native.UseRequest{}},
		{review.AttestFields, review.Attestation{}},
		{detect.QueryFields, detect.Query{}},
		{mount.ListFields, mount.ListRequest{}},
		{mount.FeedFields, mount.FeedRequest{}},
		{mount.RevokeFields, mount.TargetRequest{}},
		{mount.SuspendFields, mount.TargetRequest{}},
		{schema.Page("name"), schema.PageRequest{}},
		{schema.Joined(report.StaleFields, report.BroadFields, report.RightSizeFields), report.Request{}},
	} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(c.request)) {
			name := strings.Split(field.Tag.Get("json"), ",")[0]
			if field.Type.Kind() != reflect.Pointer || name == "" && field.Type == reflect.TypeFor[*role.Change]() {
				continue
			}
			if f := c.table[name]; f == nil {
				t.Errorf("%T.%s has the json tag %q, which is no field of the table", c.request, field.Name, name)
			} else if want := decoded[f.Type]; field.Type.Elem() != want {
				t.Errorf("%T.%s points to a %s, and the field is decoded to a %s", c.request, field.Name, field.Type.Elem(), want)
			}
		}
	}
}

// Each type has a type of the framework. The constant behind the last type has none.
func TestTypesAreRendered(t *testing.T) {
	for kind := range schema.TypeTime + 2 {
		if _, rendered := types[kind]; rendered != (kind <= schema.TypeTime) {
			t.Errorf("type %d is rendered: %v", kind, rendered)
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
		{role.Answer, role.Entry{}, "generate_lease attested"},
		{native.ConfigAnswer, native.Config{}, "token_pattern"},
		{upstream.ConnectionAnswer, upstream.Entry{}, "tokens queue attested"},
		{static.Answer, static.Status{}, "attested"},
		{static.TokenAnswer, static.Status{}, ""},
		{native.KeysAnswer, native.KeysInUse{}, ""},
		{mount.RecordAnswer, mount.Record{}, ""},
		{detect.FindingAnswer, detect.Finding{}, "commands"},
		{insight.OutcomeAnswer, insight.Outcome{}, ""},
		{report.SummaryAnswer, report.Summary{}, ""},
		{review.AttestAnswer, review.Review{}, "attested"},
	} {
		members := values.Members(c.from)
		for name := range c.schema {
			if _, found := members[name]; !found && !strings.Contains(" "+c.added+" ", " "+name+" ") {
				t.Errorf("%T has no member %s", c.from, name)
			}
		}
	}
}
