package backend

import (
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/values"
)

// fields are the fields of a request, or the members of an answer, by name.
type fields = schema.Fields

// types are the types of the framework.
var types = map[schema.Type]framework.FieldType{
	schema.TypeString:  framework.TypeString,
	schema.TypeStrings: framework.TypeStringSlice,
	schema.TypeCommas:  framework.TypeCommaStringSlice,
	schema.TypeSeconds: framework.TypeDurationSecond,
	schema.TypeInt:     framework.TypeInt,
	schema.TypeInt64:   framework.TypeInt64,
	schema.TypeFloat:   framework.TypeFloat,
	schema.TypeBool:    framework.TypeBool,
	schema.TypeObject:  framework.TypeMap,
	schema.TypePairs:   framework.TypeKVPairs,
	schema.TypeSlice:   framework.TypeSlice,
	schema.TypeTime:    framework.TypeTime,
}

// rendered returns fields as the framework takes fields.
func rendered(all fields) map[string]*framework.FieldSchema {
	if all == nil {
		return nil
	}
	schemas := make(map[string]*framework.FieldSchema, len(all))
	for name, f := range all {
		schemas[name] = &framework.FieldSchema{
			Type: types[f.Type], Description: f.Description, Required: f.Required, Query: f.FromQuery, AllowedValues: f.Allowed,
		}
		shown := framework.DisplayAttributes{Name: f.Title, EditType: f.Editor, Sensitive: f.Sensitive, Value: f.Default}
		if shown != (framework.DisplayAttributes{}) {
			schemas[name].DisplayAttrs = &shown
		}
	}
	return schemas
}

// named returns the field "name", which is part of the path.
func named(description string) fields { return fields{"name": schema.Str(description).Must()} }

// ok returns the schema of a 200 answer with these fields.
func ok(fields fields) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: http.StatusText(http.StatusOK), Fields: rendered(fields)}}}
}

var noContent = map[int][]framework.Response{http.StatusNoContent: {{Description: http.StatusText(http.StatusNoContent)}}}

// members returns the answer with the members that a schema has, from structs with json tags and from maps. A member that
// is not required is absent if empty.
func members(schema fields, of ...any) *logical.Response {
	data := make(map[string]any, len(schema))
	for _, v := range of {
		for name, value := range values.Members(v) {
			if field, known := schema[name]; known && (field.Required || !values.IsEmpty(value)) {
				data[name] = value
			}
		}
	}
	return &logical.Response{Data: data}
}

// given returns the request struct of a room, with the fields that the request gives.
func given[T any](d *input) *T {
	request := new(T)
	values.Fill(request, d.GetOk)
	return request
}
