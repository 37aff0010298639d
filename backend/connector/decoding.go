package connector

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

var (
	unknownKey = regexp.MustCompile(`^(line \d+: )field (\S+) not found in type (.+)$`)
	wrongType  = regexp.MustCompile("^(line \\d+: )cannot unmarshal !!(\\w+)(?: `.*`)? into (.+)$")
	goTypes    = map[string]string{
		"bool": "true or false", "int": "a whole number", "string": "a string", "connector.Expiry": "a string",
		"[]string": "a list of strings", "[]int": "a list of whole numbers", "[]connector.Request": "a list of requests",
	}
	yamlTypes = map[string]string{
		"seq": "a list", "map": "a mapping", "str": "a string", "int": "a number", "float": "a number", "bool": "true or false",
	}
)

// decodingError rewrites the error of the YAML decoder, which names Go types: it says what is allowed.
func decodingError(err error) error {
	typed, ok := errors.AsType[*yaml.TypeError](err)
	if !ok {
		return errors.New(strings.TrimPrefix(strings.Join(strings.Fields(err.Error()), " "), "yaml: "))
	}
	texts := make([]string, len(typed.Errors))
	for i, text := range typed.Errors {
		texts[i] = strings.Join(strings.Fields(inWords(text)), " ")
	}
	return errors.New(strings.Join(texts, "; "))
}

// inWords returns an error of the YAML decoder in words of YAML.
func inWords(text string) string {
	if m := unknownKey.FindStringSubmatch(text); m != nil {
		if keys := keysOf(m[3]); len(keys) > 0 {
			return fmt.Sprintf("%s%q is not one of: %s", m[1], clip(m[2]), strings.Join(keys, ", "))
		}
		return fmt.Sprintf("%s%q is not known", m[1], clip(m[2]))
	}
	if m := wrongType.FindStringSubmatch(text); m != nil {
		want, known := goTypes[m[3]]
		if !known {
			want = "a mapping"
			if keys := keysOf(m[3]); len(keys) > 0 {
				want += " with " + strings.Join(keys, ", ")
			}
		}
		if is, known := yamlTypes[m[2]]; known {
			return m[1] + "must be " + want + ", not " + is
		}
		return m[1] + "must be " + want
	}
	return text
}

// keysOf returns the keys of a type that checks no keys of its own, by the type's name in Go.
func keysOf(name string) (keys []string) {
	for _, t := range []reflect.Type{reflect.TypeFor[Definition](), reflect.TypeOf(Definition{}.Operations)} {
		if t.String() == name {
			for i := range t.NumField() {
				keys = append(keys, t.Field(i).Tag.Get("yaml"))
			}
		}
	}
	return keys
}
