package values

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

// Fill sets the pointers of a struct to the values that a request gives, by the names in the json tags of the fields. Fill
// leaves a pointer nil if the request does not give the field, and leaves fields alone that are no pointers. given returns
// the value of a field, decoded: a duration as an int of seconds, any other value in the type that the pointer points to.
func Fill(into any, given func(name string) (value any, ok bool)) {
	v := reflect.ValueOf(into).Elem()
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Type.Kind() != reflect.Pointer || nameOf(field) == "" {
			continue
		}
		value, ok := given(nameOf(field))
		if !ok {
			continue
		}
		if field.Type == reflect.TypeFor[*time.Duration]() {
			value = time.Duration(value.(int)) * time.Second
		}
		pointer := reflect.New(field.Type.Elem())
		pointer.Elem().Set(reflect.ValueOf(value))
		v.Field(i).Set(pointer)
	}
}

// Object returns the object of a value that the command line wrote: a name=value, a list of name=value, or JSON. Object
// returns any other value unchanged.
func Object(value any) any {
	var pairs []any
	switch v := value.(type) {
	case string:
		var m map[string]any
		if json.Unmarshal([]byte(v), &m) == nil && m != nil { // nil is null
			return m
		}
		pairs = []any{v}
	case []any:
		pairs = v
	}
	if len(pairs) == 0 {
		return value
	}
	m := make(map[string]any, len(pairs))
	for _, pair := range pairs {
		text, _ := pair.(string)
		name, one, found := strings.Cut(text, "=")
		if !found {
			return value
		}
		m[name] = one
	}
	return m
}
