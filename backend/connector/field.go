package connector

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// maxValue bounds the length of a value, in bytes; certificates and keys fit.
const maxValue = 16 << 10

// Values checks values against what the fields allow, and fills in defaults. Strings are taken for the
// other types where they can be read as one, since the command line knows nothing else. Errors name the
// field and what is allowed.
func Values(fields map[string]Field, given map[string]any) (map[string]any, error) {
	for _, name := range sortedKeys(given) {
		if _, known := fields[name]; !known {
			if len(fields) == 0 {
				return nil, fmt.Errorf("%s: is not known, there are none", clip(name))
			}
			return nil, fmt.Errorf("%s: is not one of: %s", clip(name), strings.Join(sortedKeys(fields), ", "))
		}
	}
	values := make(map[string]any, len(fields))
	for _, name := range sortedKeys(fields) {
		field := fields[name]
		value, ok := given[name]
		switch {
		case ok:
			converted, err := field.convert(value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			values[name] = converted
		case field.Required:
			return nil, fmt.Errorf("%s: is needed: %s", name, strings.TrimSpace(field.Description))
		case field.Default != nil:
			converted, err := field.convert(field.Default)
			if err != nil {
				return nil, fmt.Errorf("%s: default %w", name, err)
			}
			values[name] = converted
		}
	}
	return values, nil
}

// zero is the value of a field that was not given.
func (f *Field) zero() any {
	switch f.Type {
	case TypeInt:
		return int64(0)
	case TypeBool:
		return false
	case TypeList:
		return []string{}
	}
	return ""
}

// convert gives a string, an int64, a bool or a []string.
func (f *Field) convert(value any) (any, error) {
	var texts []string // what allowed and pattern are about
	var converted any
	switch f.Type {
	case TypeString:
		s, ok := value.(string)
		if !ok {
			return nil, fmt.Errorf("must be a string, not %T", value)
		}
		converted, texts = s, []string{s}
	case TypeInt:
		var n int64
		switch v := value.(type) {
		case int:
			n = int64(v)
		case int64:
			n = v
		case float64:
			if v != math.Trunc(v) || math.Abs(v) > 1<<53 {
				return nil, fmt.Errorf("%v is not a whole number", v)
			}
			n = int64(v)
		case json.Number:
			return f.convert(v.String())
		case string:
			var err error
			if n, err = strconv.ParseInt(v, 10, 64); err != nil {
				return nil, fmt.Errorf("%q is not a whole number", clip(v))
			}
		default:
			return nil, fmt.Errorf("must be a whole number, not %T", value)
		}
		converted, texts = n, []string{strconv.FormatInt(n, 10)}
	case TypeBool:
		switch v := value.(type) {
		case bool:
			converted = v
		case string:
			b, err := strconv.ParseBool(v)
			if err != nil {
				return nil, fmt.Errorf("%q is not true or false", clip(v))
			}
			converted = b
		default:
			return nil, fmt.Errorf("must be true or false, not %T", value)
		}
	case TypeList:
		list := []string{}
		switch v := value.(type) {
		case []string:
			list = append(list, v...)
		case []any:
			for _, one := range v {
				s, ok := one.(string)
				if !ok {
					return nil, fmt.Errorf("must be a list of strings, not of %T", one)
				}
				list = append(list, s)
			}
		case string:
			for s := range strings.SplitSeq(v, ",") {
				if s = strings.TrimSpace(s); s != "" {
					list = append(list, s)
				}
			}
		default:
			return nil, fmt.Errorf("must be a list, not %T", value)
		}
		if f.Required && len(list) == 0 {
			return nil, fmt.Errorf("needs at least one")
		}
		converted, texts = list, list
	}
	re, err := f.pattern()
	if err != nil {
		return nil, err
	}
	for _, s := range texts {
		switch {
		case len(s) > maxValue:
			return nil, fmt.Errorf("is %d bytes long, at most %d are allowed", len(s), maxValue)
		case s == "" && f.Type == TypeString && !f.Required: // as if it was not given
		case len(f.Allowed) > 0 && !slices.Contains(f.Allowed, s):
			if f.Secret {
				return nil, fmt.Errorf("is not one of: %s", strings.Join(f.Allowed, ", "))
			}
			return nil, fmt.Errorf("%q is not one of: %s", clip(s), strings.Join(f.Allowed, ", "))
		case re != nil && !re.MatchString(s):
			if f.Secret {
				return nil, fmt.Errorf("does not match %s", f.Pattern)
			}
			return nil, fmt.Errorf("%q does not match %s", clip(s), f.Pattern)
		}
	}
	return converted, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
