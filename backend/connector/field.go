package connector

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// maxValue is the largest length of a value in bytes. Certificates and keys fit.
const maxValue = 16 << 10

// Values checks values against their fields, converts them and adds defaults. A string may be given for any type, since
// the command line has only strings. Errors name the field and what is allowed.
func Values(fields map[string]Field, given map[string]any) (map[string]any, error) {
	for _, name := range sortedKeys(given) {
		if _, known := fields[name]; !known {
			if len(fields) == 0 {
				return nil, fmt.Errorf("%s: is unknown, there are no fields", clip(name))
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

// zero returns the value of a field that was not given.
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

// convert returns a string, an int64, a bool or a []string. Its error says what is allowed.
func (f *Field) convert(value any) (any, error) {
	switch f.Type {
	case TypeString:
		s, ok := value.(string)
		if !ok {
			return nil, fmt.Errorf("must be a string, not %T", value)
		}
		return s, f.checkValues(s)
	case TypeInt:
		n, err := toInt(value)
		if err != nil {
			return nil, err
		}
		return n, f.checkValues(strconv.FormatInt(n, 10))
	case TypeBool:
		return toBool(value)
	case TypeList:
		list, err := toList(value)
		if err != nil {
			return nil, err
		}
		if f.Required && len(list) == 0 {
			return nil, errors.New("needs at least one")
		}
		return list, f.checkValues(list...)
	}
	return nil, fmt.Errorf("is of the unknown type %q", f.Type)
}

// toInt returns a whole number. JSON has only floats, and the command line has only strings.
func toInt(value any) (int64, error) {
	switch v := value.(type) {
	case int:
		return int64(v), nil
	case int64:
		return v, nil
	case float64:
		if v != math.Trunc(v) || math.Abs(v) > 1<<53 {
			return 0, fmt.Errorf("%v is not a whole number", v)
		}
		return int64(v), nil
	case json.Number:
		return toInt(v.String())
	case string:
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is not a whole number", clip(v))
		}
		return n, nil
	}
	return 0, fmt.Errorf("must be a whole number, not %T", value)
}

func toBool(value any) (bool, error) {
	switch v := value.(type) {
	case bool:
		return v, nil
	case string:
		b, err := strconv.ParseBool(v)
		if err != nil {
			return false, fmt.Errorf("%q is not true or false", clip(v))
		}
		return b, nil
	}
	return false, fmt.Errorf("must be true or false, not %T", value)
}

// toList returns a list, or the values of a comma-separated string. The list is never nil.
func toList(value any) ([]string, error) {
	list := []string{}
	switch v := value.(type) {
	case []string:
		return append(list, v...), nil
	case []any:
		for _, one := range v {
			s, ok := one.(string)
			if !ok {
				return nil, fmt.Errorf("must be a list of strings, not of %T", one)
			}
			list = append(list, s)
		}
		return list, nil
	case string:
		for s := range strings.SplitSeq(v, ",") {
			if s = strings.TrimSpace(s); s != "" {
				list = append(list, s)
			}
		}
		return list, nil
	}
	return nil, fmt.Errorf("must be a list, not %T", value)
}

// checkValues checks the length of values, the allowed values and the pattern. Its error does not contain a secret.
func (f *Field) checkValues(values ...string) error {
	re, err := f.pattern()
	if err != nil {
		return err
	}
	for _, s := range values {
		shown := strconv.Quote(clip(s)) + " "
		if f.Secret {
			shown = ""
		}
		switch {
		case len(s) > maxValue:
			return fmt.Errorf("is %d bytes long, at most %d are allowed", len(s), maxValue)
		case s == "" && f.Type == TypeString && !f.Required: // the same as a field that was not given
		case len(f.Allowed) > 0 && !slices.Contains(f.Allowed, s):
			return fmt.Errorf("%sis not one of: %s", shown, strings.Join(f.Allowed, ", "))
		case re != nil && !re.MatchString(s):
			return fmt.Errorf("%sdoes not match %s", shown, f.Pattern)
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
