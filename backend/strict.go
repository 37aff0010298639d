package backend

import (
	"context"
	"encoding/json"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// strictHandler rejects unknown fields, and values that the framework would convert silently: a misspelt restriction must
// not be ignored, and 5 must not become the scope "5".
type strictHandler struct {
	framework.OperationHandler
	inPath []string // fields that are part of the path
}

// strict wraps the handler of an operation in a strictHandler. pattern is the pattern of the path.
func strict(pattern string, h framework.OperationHandler) framework.OperationHandler {
	return strictHandler{h, regexp.MustCompile(pattern).SubexpNames()}
}

func (h strictHandler) Handler() framework.OperationFunc {
	next := h.OperationHandler.Handler()
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		for name, value := range d.Raw {
			schema, known := d.Schema[name]
			if !known {
				return nil, refusal.Field(name, "is not a field of this path, which %s", h.takes(d.Schema))
			}
			if err := checkType(name, schema.Type, value); err != nil {
				return nil, err
			}
		}
		return next(ctx, req, d)
	}
}

// checkTypes rejects a request with a value of the wrong type.
func (b *backend) checkTypes(req *logical.Request) error {
	path := b.Route(req.Path)
	if path == nil {
		return nil
	}
	for name, value := range req.Data {
		if schema, known := path.Fields[name]; known {
			if err := checkType(name, schema.Type, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkType rejects a value of the wrong JSON type. Numbers, durations and booleans may be strings: the command line sends
// only strings. checkType rejects null for every field, since a null by mistake would remove a restriction. checkType
// rejects the empty string as a number, since the framework would read the empty string as 0, which often means no limit.
func checkType(name string, field framework.FieldType, value any) error {
	given := jsonType(value)
	if given == "null" {
		return refusal.Field(name, "is null: leave the field out, or give a value")
	}
	switch field {
	case framework.TypeInt, framework.TypeInt64, framework.TypeBool, framework.TypeDurationSecond:
		if value == "" {
			return refusal.Field(name, "is empty: leave the field out, or give a value")
		}
	}
	switch field {
	case framework.TypeString:
		if given != "a string" {
			return refusal.Field(name, "takes a string, not %s", given)
		}
	case framework.TypeInt, framework.TypeInt64:
		if given == "a boolean" {
			return refusal.Field(name, "takes a number, not a boolean")
		}
		// The framework would read 010 as 8.
		if text, is := value.(string); is && !decimal.MatchString(text) {
			return refusal.Field(name, "takes a whole number in decimal digits, without leading zeros")
		}
	case framework.TypeDurationSecond:
		// The framework would truncate 0.5s to 0, which often means no limit.
		switch d, err := parseutil.ParseDurationSecond(value); {
		case err != nil:
			return refusal.Field(name, "takes a duration in seconds, or such as 90s, 15m, 24h or 7d")
		case d%time.Second != 0:
			return refusal.Field(name, "takes whole seconds")
		case d < 0:
			return refusal.Field(name, "must not be negative")
		}
	case framework.TypeKVPairs:
		return checkPairs(name, value)
	case framework.TypeBool:
		if given == "a number" {
			return refusal.Field(name, "takes true or false, not a number")
		}
		if text, is := value.(string); is {
			if _, err := strconv.ParseBool(text); err != nil {
				return refusal.Field(name, "takes true or false")
			}
		}
	case framework.TypeCommaStringSlice, framework.TypeStringSlice:
		if given == "a string" {
			return nil
		}
		if given != "a list" {
			return refusal.Field(name, "takes a string or a list of strings, not %s", given)
		}
		return checkStrings(name, value)
	}
	return nil
}

// decimal matches a whole number in decimal digits.
var decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

// checkStrings rejects a list that holds anything but strings.
func checkStrings(name string, value any) error {
	list := reflect.ValueOf(value)
	for i := range list.Len() {
		if element := jsonType(list.Index(i).Interface()); element != "a string" {
			return refusal.Field(name, "takes a list of strings, and element %d of the list is %s", i+1, element)
		}
	}
	return nil
}

// checkPairs accepts an object of strings and numbers, a name=value, and a list of name=value. The framework keeps a number
// as written. checkPairs rejects booleans, since the framework would turn a boolean into 1 or 0.
func checkPairs(name string, value any) error {
	switch given := jsonType(value); given {
	case "a string":
		return nil
	case "a list":
		return checkStrings(name, value)
	case "an object":
		for _, key := range reflect.ValueOf(value).MapKeys() {
			switch element := jsonType(reflect.ValueOf(value).MapIndex(key).Interface()); element {
			case "a string", "a number":
			default:
				return refusal.Field(name, "takes an object of strings, and %q is %s", refusal.Clip(key.String()), element)
			}
		}
		return nil
	default:
		return refusal.Field(name, "takes an object of strings, not %s", given)
	}
}

// jsonType returns the JSON type of a request value, with its article.
func jsonType(value any) string {
	if _, isNumber := value.(json.Number); isNumber {
		return "a number"
	}
	switch kind := reflect.ValueOf(value).Kind(); kind {
	case reflect.Invalid:
		return "null"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "a boolean"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map:
		return "an object"
	default:
		return "a number"
	}
}

// takes returns a phrase with the names of the fields that a request may have in its body or query.
func (h strictHandler) takes(schema map[string]*framework.FieldSchema) string {
	var names []string
	for name := range schema {
		if !slices.Contains(h.inPath, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "takes no fields"
	}
	slices.Sort(names)
	return "has " + strings.Join(names, ", ")
}
