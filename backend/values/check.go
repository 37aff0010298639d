package values

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// A Check rejects a value of a request that does not have the type of its field, before a lenient decoder converts the
// value. The refusal names the field and never shows the value, which may be a secret. Every Check rejects null, since a null
// by mistake would remove a restriction. Numbers, durations and booleans may be strings: the command line sends only strings.
// Their checks reject the empty string, since 0 often means no limit.
type Check func(field string, value any) error

// Null rejects only null.
func Null(field string, value any) error {
	if value == nil {
		return refusal.Field(field, "is null: leave the field out, or give a value")
	}
	return nil
}

func nullOrEmpty(field string, value any) error {
	if value == "" {
		return refusal.Field(field, "is empty: leave the field out, or give a value")
	}
	return Null(field, value)
}

// Text accepts a string.
func Text(field string, value any) error {
	switch given := typeOf(value); given {
	case aString:
		return nil
	case null:
		return Null(field, value)
	default:
		return refusal.Field(field, "takes a string, not %s", given)
	}
}

// decimal matches a whole number in decimal digits.
var decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

// Number accepts a whole number. A decoder would read the string 010 as 8, and 0.5 as 0.
func Number(field string, value any) error {
	if f, isFloat := value.(float64); isFloat {
		value = json.Number(strconv.FormatFloat(f, 'f', -1, 64))
	}
	return number(field, value, decimal, "takes a whole number in decimal digits, without leading zeros")
}

// fraction matches a number in decimal digits, with or without a fraction.
var fraction = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?$`)

// Float accepts a finite number. A decoder would read true as 1, and the string Inf as infinity.
func Float(field string, value any) error {
	if n, isNumber := value.(json.Number); isNumber {
		value, _ = n.Float64() // infinite if it is too large
	}
	if f, isFloat := value.(float64); isFloat {
		value = json.Number(strconv.FormatFloat(f, 'f', -1, 64))
	}
	return number(field, value, fraction, "takes a number in decimal digits such as 2 or 0.5, without leading zeros")
}

// number accepts a number, and a string of the digits of a number. pattern matches the digits, and want says what is allowed.
func number(field string, value any, pattern *regexp.Regexp, want string) error {
	if err := nullOrEmpty(field, value); err != nil {
		return err
	}
	switch given := typeOf(value); {
	case given != aNumber && given != aString:
		return refusal.Field(field, "takes a number, not %s", given)
	case !pattern.MatchString(fmt.Sprint(value)):
		return refusal.Field(field, "%s", want)
	}
	return nil
}

// Map accepts an object. A decoder would read an empty list as an empty object.
func Map(field string, value any) error {
	switch given := typeOf(value); given {
	case anObject:
		return nil
	case null:
		return Null(field, value)
	default:
		return refusal.Field(field, "takes an object, or name=value, not %s", given)
	}
}

// Duration accepts whole seconds, also such as 15m. A decoder would truncate 0.5s to 0.
func Duration(field string, value any) error {
	if err := nullOrEmpty(field, value); err != nil {
		return err
	}
	switch d, err := parseutil.ParseDurationSecond(value); {
	case err != nil:
		return refusal.Field(field, "takes a duration in seconds, or such as 90s, 15m, 24h or 7d")
	case d%time.Second != 0:
		return refusal.Field(field, "takes whole seconds")
	case d < 0:
		return refusal.Field(field, "must not be negative")
	}
	return nil
}

// Time accepts a time of RFC 3339, and whole seconds since 1970.
func Time(field string, value any) error {
	if err := nullOrEmpty(field, value); err != nil {
		return err
	}
	if _, err := parseutil.ParseAbsoluteTime(value); err != nil {
		return refusal.Field(field, "takes a time such as 2026-01-02T15:04:05Z, or whole seconds since 1970")
	}
	return nil
}

// Bool accepts a boolean.
func Bool(field string, value any) error {
	if err := nullOrEmpty(field, value); err != nil {
		return err
	}
	if typeOf(value) == aNumber {
		return refusal.Field(field, "takes true or false, not a number")
	}
	if text, isText := value.(string); isText {
		if _, err := strconv.ParseBool(text); err != nil {
			return refusal.Field(field, "takes true or false")
		}
	}
	return nil
}

// Strings accepts a string and a list of strings.
func Strings(field string, value any) error {
	switch given := typeOf(value); given {
	case aString:
		return nil
	case aList:
		return onlyStrings(field, value)
	case null:
		return Null(field, value)
	default:
		return refusal.Field(field, "takes a string or a list of strings, not %s", given)
	}
}

// onlyStrings rejects a list that holds anything but strings.
func onlyStrings(field string, value any) error {
	list := reflect.ValueOf(value)
	for i := range list.Len() {
		if element := typeOf(list.Index(i).Interface()); element != aString {
			return refusal.Field(field, "takes a list of strings, and element %d of the list is %s", i+1, element)
		}
	}
	return nil
}

// Pairs accepts an object of strings and numbers, a name=value, and a list of name=value. A decoder keeps a number as written,
// and would turn a boolean into 1 or 0.
func Pairs(field string, value any) error {
	switch given := typeOf(value); given {
	case aString:
		return onlyPairs(field, reflect.ValueOf(value).String())
	case aList:
		if err := onlyStrings(field, value); err != nil {
			return err
		}
		list := reflect.ValueOf(value)
		for i := range list.Len() {
			if err := onlyPairs(field, reflect.ValueOf(list.Index(i).Interface()).String()); err != nil {
				return err
			}
		}
		return nil
	case anObject:
		object := reflect.ValueOf(value)
		for _, key := range object.MapKeys() {
			if element := typeOf(object.MapIndex(key).Interface()); element != aString && element != aNumber {
				return refusal.Field(field, "takes an object of strings, and %q is %s", refusal.Clip(key.String()), element)
			}
		}
		return nil
	case null:
		return Null(field, value)
	default:
		return refusal.Field(field, "takes an object of strings, not %s", given)
	}
}

// onlyPairs rejects a text that is no name=value. The error does not show the text, which may be a secret.
func onlyPairs(field, text string) error {
	if text == "" {
		return refusal.Field(field, `is empty: to leave none, write {%q: {}} in JSON, as "vault write PATH -" reads from standard input`,
			field)
	}
	if name, _, found := strings.Cut(text, "="); !found || name == "" {
		return refusal.Field(field, "takes name=value, or in JSON an object of strings")
	}
	return nil
}

// The JSON types, with their articles.
const (
	aString  = "a string"
	aNumber  = "a number"
	aBoolean = "a boolean"
	aList    = "a list"
	anObject = "an object"
	null     = "null"
)

// typeOf returns the JSON type of a value of a request.
func typeOf(value any) string {
	if _, isNumber := value.(json.Number); isNumber {
		return aNumber
	}
	switch reflect.ValueOf(value).Kind() {
	case reflect.Invalid:
		return null
	case reflect.String:
		return aString
	case reflect.Bool:
		return aBoolean
	case reflect.Slice, reflect.Array:
		return aList
	case reflect.Map:
		return anObject
	default:
		return aNumber
	}
}
