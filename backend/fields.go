package backend

import (
	"maps"
	"net/http"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/values"
)

// fields are the fields of a request, or the members of an answer, by name.
type fields = map[string]*framework.FieldSchema

// The constructors of a schema are named after the type of the value.

func str(description string) *framework.FieldSchema { return typed(framework.TypeString, description) }
func strs(description string) *framework.FieldSchema {
	return typed(framework.TypeStringSlice, description)
}
func commas(description string) *framework.FieldSchema {
	return typed(framework.TypeCommaStringSlice, description)
}
func secs(description string) *framework.FieldSchema {
	return typed(framework.TypeDurationSecond, description)
}
func num(description string) *framework.FieldSchema { return typed(framework.TypeInt, description) }
func num64(description string) *framework.FieldSchema {
	return typed(framework.TypeInt64, description)
}
func float(description string) *framework.FieldSchema {
	return typed(framework.TypeFloat, description)
}
func flag(description string) *framework.FieldSchema   { return typed(framework.TypeBool, description) }
func object(description string) *framework.FieldSchema { return typed(framework.TypeMap, description) }
func pairs(description string) *framework.FieldSchema {
	return typed(framework.TypeKVPairs, description)
}
func slice(description string) *framework.FieldSchema {
	return typed(framework.TypeSlice, description)
}
func date(description string) *framework.FieldSchema { return typed(framework.TypeTime, description) }

func typed(kind framework.FieldType, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: kind, Description: description}
}

// must makes a field required in a request, or a member present in every answer.
func must(f *framework.FieldSchema) *framework.FieldSchema {
	f.Required = true
	return f
}

// query has a field come from the query of a GET, LIST or DELETE.
func query(f *framework.FieldSchema) *framework.FieldSchema {
	f.Query = true
	return f
}

// titled adds the title that Vault's UI shows.
func titled(title string, f *framework.FieldSchema) *framework.FieldSchema {
	shown(f).Name = title
	return f
}

// edited adds the kind of editor that Vault's UI shows.
func edited(by string, f *framework.FieldSchema) *framework.FieldSchema {
	shown(f).EditType = by
	return f
}

// secret has Vault's UI hide a value.
func secret(f *framework.FieldSchema) *framework.FieldSchema {
	shown(f).Sensitive = true
	return f
}

func shown(f *framework.FieldSchema) *framework.DisplayAttributes {
	if f.DisplayAttrs == nil {
		f.DisplayAttrs = new(framework.DisplayAttributes)
	}
	return f.DisplayAttrs
}

// preset adds to a field the default that Vault's UI shows.
func preset(f *framework.FieldSchema, value any) *framework.FieldSchema {
	shown(f).Value = value
	return f
}

// oneOf adds to a field the values that are allowed.
func oneOf(f *framework.FieldSchema, allowed ...any) *framework.FieldSchema {
	f.AllowedValues = allowed
	return f
}

// named returns the field "name", which is part of the path.
func named(description string) fields { return fields{"name": must(str(description))} }

// pageFields returns the fields of a path that lists in pages.
func pageFields(key string) fields {
	return fields{
		"after": query(str("List only entries after this " + key + ", the last of the previous page. Default: the first page.")),
		"limit": query(num("Maximum number of entries to return. Default: all.")),
	}
}

// listAnswer returns the members of the answer of a list.
func listAnswer(key string) fields {
	return fields{"keys": strs("List of " + key + "s; absent if empty.")}
}

// readFields adds to the fields of a read those of a write, but for the fields that a read omits.
func readFields(read, written fields, omitted ...string) fields {
	for name, field := range written {
		if slices.Contains(omitted, name) {
			continue
		}
		read[name] = must(typed(field.Type, field.Description))
		if field.Type == framework.TypeCommaStringSlice {
			read[name].Type = framework.TypeStringSlice
		}
	}
	return read
}

// joined returns the fields of several tables.
func joined(tables ...fields) fields {
	all := make(fields)
	for _, table := range tables {
		maps.Copy(all, table)
	}
	return all
}

// ok returns the schema of a 200 answer with these fields.
func ok(fields fields) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: http.StatusText(http.StatusOK), Fields: fields}}}
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
