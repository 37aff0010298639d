// Package schema describes the fields of requests and the members of answers: the type, the text, the default and the allowed
// values. A room has the table of its fields in fields.go, beside the structs that hold the values. Package backend renders
// the tables for Vault. Package schema does not depend on Vault.
package schema

import (
	"maps"
	"slices"
)

// Fields are the fields of a request, or the members of an answer, by name.
type Fields = map[string]*Field

// Type is the type of a value.
type Type int

// The types. A request may give a number, a duration or a boolean as a string, too: the command line sends only strings.
const (
	TypeString  Type = iota
	TypeStrings      // list of strings
	TypeCommas       // list of strings, which a request may give as one string with commas
	TypeSeconds      // duration in whole seconds, or such as 15m
	TypeInt
	TypeInt64
	TypeFloat
	TypeBool
	TypeObject
	TypePairs // object of strings
	TypeSlice // list of any values
	TypeTime  // RFC 3339, or seconds since 1970
)

// Field describes a field of a request, or a member of an answer.
type Field struct {
	Type        Type
	Description string // in sentences

	Required  bool   // in a request; or present in every answer, even if empty
	FromQuery bool   // from the query of a GET, LIST or DELETE
	Title     string // that Vault's UI shows; empty: the name
	Editor    string // kind of editor that Vault's UI shows; empty: one for the type
	Sensitive bool   // Vault's UI hides the value
	Default   any    // that Vault's UI shows; nil: none
	Allowed   []any  // values that are allowed; nil: not listed. The rooms refuse other values
}

// The constructors are named after the type of the value.

// Str returns a field with a string.
func Str(description string) *Field { return &Field{Type: TypeString, Description: description} }

// Strs returns a field with a list of strings.
func Strs(description string) *Field { return &Field{Type: TypeStrings, Description: description} }

// Commas returns a field with a list of strings, which a request may give as one string with commas.
func Commas(description string) *Field { return &Field{Type: TypeCommas, Description: description} }

// Secs returns a field with a duration.
func Secs(description string) *Field { return &Field{Type: TypeSeconds, Description: description} }

// Num returns a field with an int.
func Num(description string) *Field { return &Field{Type: TypeInt, Description: description} }

// Num64 returns a field with an int64.
func Num64(description string) *Field { return &Field{Type: TypeInt64, Description: description} }

// Float returns a field with a float64.
func Float(description string) *Field { return &Field{Type: TypeFloat, Description: description} }

// Flag returns a field with a boolean.
func Flag(description string) *Field { return &Field{Type: TypeBool, Description: description} }

// Object returns a field with an object.
func Object(description string) *Field { return &Field{Type: TypeObject, Description: description} }

// Pairs returns a field with an object of strings.
func Pairs(description string) *Field { return &Field{Type: TypePairs, Description: description} }

// Slice returns a field with a list of any values.
func Slice(description string) *Field { return &Field{Type: TypeSlice, Description: description} }

// Date returns a field with a time.
func Date(description string) *Field { return &Field{Type: TypeTime, Description: description} }

// Must makes a field required in a request, or a member present in every answer.
func (f *Field) Must() *Field {
	f.Required = true
	return f
}

// Query has a field come from the query of a GET, LIST or DELETE.
func (f *Field) Query() *Field {
	f.FromQuery = true
	return f
}

// Titled adds the title that Vault's UI shows.
func (f *Field) Titled(title string) *Field {
	f.Title = title
	return f
}

// Edited adds the kind of editor that Vault's UI shows.
func (f *Field) Edited(by string) *Field {
	f.Editor = by
	return f
}

// Secret has Vault's UI hide the value.
func (f *Field) Secret() *Field {
	f.Sensitive = true
	return f
}

// Preset adds the default that Vault's UI shows.
func (f *Field) Preset(value any) *Field {
	f.Default = value
	return f
}

// OneOf adds the values that are allowed.
func (f *Field) OneOf(allowed ...any) *Field {
	f.Allowed = allowed
	return f
}

// Any returns a list as Preset and OneOf take it.
func Any[T any](list []T) []any {
	values := make([]any, len(list))
	for i, value := range list {
		values[i] = value
	}
	return values
}

// Read adds to the members of a read the fields of a write, but for the fields that a read omits. An answer has every field
// of a write, even if the field is empty.
func Read(read, written Fields, omitted ...string) Fields {
	for name, field := range written {
		if slices.Contains(omitted, name) {
			continue
		}
		read[name] = &Field{Type: field.Type, Description: field.Description, Required: true}
		if field.Type == TypeCommas {
			read[name].Type = TypeStrings
		}
	}
	return read
}

// Optional returns copies of the fields that are not required, but for the fields that are named.
func Optional(all Fields, but ...string) Fields {
	optional := make(Fields, len(all))
	for name, field := range all {
		f := *field
		f.Required = slices.Contains(but, name)
		optional[name] = &f
	}
	return optional
}

// Joined returns the fields of several tables. The later table wins.
func Joined(tables ...Fields) Fields {
	all := make(Fields)
	for _, table := range tables {
		maps.Copy(all, table)
	}
	return all
}
