// Package values converts the values of requests and answers between JSON and Go, and rejects what a request should not have
// sent.
package values

import (
	"encoding"
	"reflect"
	"strings"
	"time"
)

// Members returns the fields of a struct, or of what a pointer points to, by the names in their json tags; or the values of
// a map[string]any. A value has the form that answers have: a time in RFC 3339, a duration in seconds, an empty list or
// object in place of nil. Members leaves out fields without a name, and descends into embedded structs.
func Members(of any) map[string]any {
	members := make(map[string]any)
	object, isMap := of.(map[string]any)
	if !isMap {
		add(members, reflect.Indirect(reflect.ValueOf(of)))
	}
	for name, value := range object {
		if members[name] = value; value != nil {
			members[name] = shown(reflect.ValueOf(value))
		}
	}
	return members
}

func add(members map[string]any, v reflect.Value) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name := nameOf(field)
		switch {
		case field.Anonymous && name == "":
			if embedded := reflect.Indirect(v.Field(i)); embedded.Kind() == reflect.Struct {
				add(members, embedded)
			}
		case name != "" && field.IsExported():
			members[name] = shown(v.Field(i))
		}
	}
}

// nameOf returns the name in the json tag of a field; empty if the tag has no name.
func nameOf(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return strings.TrimPrefix(name, "-")
}

// shown returns a value as answers show the value.
func shown(v reflect.Value) any {
	switch x := v.Interface().(type) {
	case time.Time:
		if x.IsZero() {
			return ""
		}
		return x.UTC().Format(time.RFC3339)
	case time.Duration:
		return int64(x.Seconds())
	case encoding.TextMarshaler:
		text, _ := x.MarshalText()
		return string(text)
	}
	switch v.Kind() {
	case reflect.String:
		return v.String()
	case reflect.Uint32:
		return int(v.Uint()) //nolint:gosec // 32 bits fit
	case reflect.Slice:
		if v.IsNil() {
			v = reflect.MakeSlice(v.Type(), 0, 0)
		}
		if list := reflect.TypeFor[[]string](); v.CanConvert(list) {
			return v.Convert(list).Interface()
		}
	case reflect.Map:
		if v.IsNil() {
			v = reflect.MakeMap(v.Type())
		}
	}
	return v.Interface()
}

// IsEmpty reports whether a value of Members is the empty string, an empty list or object, 0, false or nil.
func IsEmpty(value any) bool {
	switch v := reflect.ValueOf(value); v.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	default:
		return v.IsZero()
	}
}
