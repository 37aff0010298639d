package schema

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/values"
)

// checks are the checks of the values of each type. A type without a check takes any value but null.
var checks = map[Type]values.Check{
	TypeString:  values.Text,
	TypeStrings: values.Strings,
	TypeCommas:  values.Strings,
	TypeSeconds: values.Duration,
	TypeInt:     values.Number,
	TypeInt64:   values.Number,
	TypeFloat:   values.Float,
	TypeBool:    values.Bool,
	TypeObject:  values.Map,
	TypePairs:   values.Pairs,
	TypeSlice:   values.Null,
	TypeTime:    values.Time,
}

// Check refuses a request with a value that does not have the type of its field, before a lenient decoder converts the value.
func Check(all Fields, request map[string]any) error {
	for name, value := range request {
		if field, known := all[name]; known {
			if err := checks[field.Type](name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckNames refuses a request with a field that the table does not have. inPath are the fields that are part of the path.
func CheckNames(all Fields, request map[string]any, inPath []string) error {
	for name := range request {
		if all[name] == nil {
			return refusal.Field(name, "is not a field of this path, which %s", takes(all, inPath))
		}
	}
	return nil
}

// maxNames is the maximum number of names of fields in an error.
const maxNames = 30

// takes returns a phrase with the names of the fields that a request may have in its body or query.
func takes(all Fields, inPath []string) string {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(name string) bool { return slices.Contains(inPath, name) })
	switch {
	case len(names) == 0:
		return "takes no fields"
	case len(names) > maxNames:
		return fmt.Sprintf("has %d fields: vault path-help lists them", len(names))
	}
	return "has " + strings.Join(names, ", ")
}
