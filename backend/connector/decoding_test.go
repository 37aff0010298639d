package connector

import (
	"strings"
	"testing"
)

// An error of the decoder says what is allowed, in words of YAML.
func TestDecodingErrors(t *testing.T) {
	for text, want := range map[string]string{
		"foo": "line 1: must be a mapping with name, title, description, documentation, credential, settings, params, expiry, max_name, " +
			"operations, not a string",
		"[]":                "line 1: must be a mapping with name, title,",
		"titel: x":          `line 1: "titel" is not one of: name, title, description,`,
		"operations: 5":     "line 1: must be a mapping with create, find, list, revoke, renew, check, rotate_root, retire_root, find_root, revoke_root, not a number",
		"operations: {a: }": `line 1: "a" is not one of: create, find, list,`,
		"title: [a]":        "line 1: must be a string, not a list",
		"max_name: many":    "line 1: must be a whole number, not a string",
		"documentation: {}": "line 1: must be a list of strings, not a mapping",
		"expiry: []":        "line 1: must be a string, not a list",
		"credential: 5":     "line 1: must be a mapping, not a number",
		"title: []\nfoo: x": `line 1: must be a string, not a list; line 2: "foo" is not one of: name`,
		"title: x\nname: y\ncredential: {a: {required: maybe}}":   "line 3: must be true or false, not a string",
		"operations: {create: {requests: 5}}":                     "line 1: must be a list of requests, not a number",
		"operations: {create: {requests: [{ok: created}]}}":       "line 1: must be a list of whole numbers, not a string",
		"title: x\n bad: -\n- y":                                  "line 2: mapping values are not allowed in this context",
		"operations: {create: {requests: [{query: 2026-01-02}]}}": "line 1: must be a mapping",
	} {
		if _, err := parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "connector.") {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
