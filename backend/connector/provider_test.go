package connector

import (
	"os"
	"strings"
	"testing"
)

// small is a definition that has everything once.
const small = `name: small
title: Small
documentation: [https://example.com]
expiry: seconds
credential:
  user: {type: string, required: true, description: The user.}
  key: {type: string, secret: true, required: true, description: The key.}
settings:
  tenant: {type: string, default: main, description: The tenant.}
params:
  scopes: {type: list, required: true, allowed: [read, write], description: Scopes.}
  level: {type: int, default: 3, description: Level.}
operations:
  create:
    requests:
      - method: POST
        path: /api/{settings.tenant}/tokens
        query: {level: params.level}
        headers: {authorization: '"Bearer " + credential.key'}
        json: '{"name": name, "scopes": params.scopes, "expires": unix(expires_at)}'
    result:
      id: string(response.body.id)
      token: response.body.token
      expires_at: response.body.expires
  find:
    requests:
      - method: GET
        path: /api/{settings.tenant}/tokens
        query: {page: page}
        headers: {authorization: '"Bearer " + credential.key'}
    items: response.body
    next: 'size(response.body) < 2 ? "" : "more"'
  revoke:
    requests:
      - method: DELETE
        path: /api/{settings.tenant}/tokens/{id}
        headers: {authorization: '"Bearer " + credential.key'}
        gone: [404]
  check:
    requests:
      - method: GET
        path: /api/self
        headers: {authorization: '"Bearer " + credential.key'}
    result: {data: '{"who": response.body.name}'}
`

// listed is small with a list.
const listed = small + `  list:
    for_each:
      requests:
        - method: GET
          path: /api/users
          query: {page: page, level: params.level}
          headers: {authorization: '"Bearer " + credential.key'}
      items: response.body.users
      next: 'size(response.body.users) < 2 ? "" : "more"'
    requests:
      - method: GET
        path: /api/{settings.tenant}/all/{each.login}
        query: {page: page}
        headers: {authorization: '"Bearer " + credential.key'}
        gone: [404]
    items: response.body
    next: 'size(response.body) < 2 ? "" : "more"'
    result:
      id: string(item.id)
      name: item.name
      owner: each.login
      created_at: item[?"created"]
      last_used_at: item[?"used"]
      expires_at: item[?"ends"]
      scopes: item[?"scopes"]
`

func TestBuiltinDefinitions(t *testing.T) {
	providers, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range providers {
		if p.Title == "" || p.Description == "" || len(p.Documentation) == 0 {
			t.Errorf("%s: title, description and documentation are what an operator learns it from", name)
		}
		for part, fields := range map[string]map[string]Field{"credential": p.Credential, "settings": p.Settings, "params": p.Params} {
			for field, f := range fields {
				if f.Description == "" {
					t.Errorf("%s: %s.%s has no description", name, part, field)
				}
			}
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	if _, err := Compile([]byte(small)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, with, want string }{
		{"name: small", "name: Small", `name: "Small" must be`},
		{"title: Small", "titel: Small", "line 2: \"titel\" is not one of: name, title"},
		{"expiry: seconds", "expiry: minutes", `expiry: "minutes" is not one of: none, seconds, days`},
		{"type: int", "type: number", `line 12: params.level: type "number" is not one of`},
		{"default: 3", "default: many", `line 12: params.level: default "many" is not a whole number`},
		{"{type: list, required", "{type: list, secret: true, required", "line 11: params.scopes: only a member of the credential can be secret"},
		{"method: POST", "method: LIST", `line 16: create.method: "LIST" is not one of: GET, POST`},
		{"method: POST", "methode: POST", `line 16: "methode" is not one of: when, method`},
		{"{id}", "{ident}", "undeclared reference to 'ident'"},
		{"level: params.level", "level: params.levels", "line 18: create.query.level: undeclared reference to 'params.levels' (did you mean 'params.level'?)"},
		{"level: params.level", "level: credential.key", "line 18: create.query.level: credential.key is a secret: only headers, json, form and save may refer to a secret"},
		{"/tokens/{id}", "/tokens/{token}", "revoke.path: token is a secret: only headers, json, form and save may refer to a secret"},
		{"expires_at)}'\n    result", "expires_at)}'\n        save: {again: credential.key}\n      - {method: GET, path: '/{saved.again}'}\n    result", "create.path: saved.again is a secret: only headers, json, form and save may refer to a secret"},
		{"{data: '{\"who\": response.body.name}'}", "{data: '{\"who\": credential.key}'}", "check.result.data: credential.key is a secret: only headers, json, form and save may refer to a secret"},
		{"/tokens/{id}", "/tokens?id={id}", "use query for what follows a ?"},
		{"/tokens/{id}", "/tokens/{id", "a { is not closed"},
		{"/tokens/{id}", "/tokens/{params.scopes}", "a segment of a path is a string or an int"},
		{"unix(expires_at)", "unix(name)", "line 20: create.json: found no matching overload for 'unix'"},
		{`"Bearer " + credential.key'}` + "\n        json", `params.level'}` + "\n        json", `create.headers.authorization: "params.level" is of type int, it must be string`},
		{"      token: response.body.token\n", "", "create.result: token is missing"},
		{"      token: response.body.token\n", "      token: response.body.token\n      secret: name\n", `"secret" is not one of`},
		{"  revoke:", "  revokes:", "\"revokes\" is not one of: create"},
		{"  check:\n", "  renew:\n", "there is no check"},
		{"gone: [404]", "gone: [4040]", "4040 is not an HTTP status"},
		{"    items: response.body\n", "", "find.items: is missing"},
		{"    items: response.body\n", "    items: name\n", `"name" is of type string, it must be list`},
		{"        json:", "        form: {a: name}\n        json:", "a request has either json or form"},
		{"headers: {authorization: '\"Bearer", "headers: {\"x: y\": '\"Bearer", `create.headers: "x: y" is not a name of a header`},
		{"name: small", "name: small\n---\nname: x", "must be one YAML document"},
		{"name: small", "name: [", "line 2"},
		{"response.body.token", strings.Repeat("(", 100) + "name" + strings.Repeat(")", 100), "recursion"},
	} {
		text := strings.Replace(small, c.old, c.with, 1)
		if text == small {
			t.Errorf("%q is not in the definition", c.old)
		}
		_, err := Compile([]byte(text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s -> %s: %v\nwant %s", c.old, c.with, err, c.want)
		}
	}
	if _, err := Compile([]byte(strings.Repeat("#", maxDefinition+1))); err == nil {
		t.Error("a definition without bounds was compiled")
	}
	without := strings.Replace(small[:strings.Index(small, "  find:")]+small[strings.Index(small, "  revoke:"):], "expiry: seconds", "expiry: none", 1)
	if _, err := Compile([]byte(without)); err == nil || !strings.Contains(err.Error(), "find is required") {
		t.Errorf("%v", err)
	}
}

func TestCompileRefusesLists(t *testing.T) {
	if p, err := Compile([]byte(listed)); err != nil || !p.CanList() {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, with, want string }{
		{"    requests:\n      - method: GET\n        path: /api/{settings.tenant}/all", "    requests:\n      - method: DELETE\n        path: /api/{settings.tenant}/all", `list.method: "DELETE" changes something: a list is made with GET, or POST`},
		{"        - method: GET\n          path: /api/users", "        - method: PUT\n          path: /api/users", `list.for_each.method: "PUT" changes something`},
		{"      name: item.name\n", "", "list.result: name is missing"},
		{"      owner: each.login\n", "      hash: item.hash\n", `list.result: "hash" is not one of: created_at, expires_at, id, last_used_at, name, owner, scopes`},
		{"      owner: each.login\n", "      owner: credential.key\n", "list.result.owner: credential.key is a secret"},
		{"      owner: each.login\n", "      owner: params.level\n", "list.result.owner: undeclared reference to 'params"},
		{"      id: string(item.id)\n", "      id: 3\n", `list.result.id: "3" is of type int, it must be string`},
		{"      items: response.body.users\n", "", "list.for_each.items: is missing: a list of maps"},
		{"    items: response.body\n    next: 'size(response.body) < 2 ? \"\" : \"more\"'\n    result:", "    result:", "list.items: is missing: a list of tokens"},
		{"  find:\n", "  find:\n    for_each: {requests: []}\n", "find.for_each: only list has for_each"},
	} {
		text := strings.Replace(listed, c.old, c.with, 1)
		if text == listed {
			t.Errorf("%q is not in the definition", c.old)
		}
		if _, err := Compile([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s -> %s: %v\nwant %s", c.old, c.with, err, c.want)
		}
	}
}

func TestValues(t *testing.T) {
	p, err := Compile([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		given map[string]any
		want  string
	}{
		{map[string]any{}, "scopes: is needed: Scopes."},
		{map[string]any{"scopes": "read,admin"}, `scopes: "admin" is not one of: read, write`},
		{map[string]any{"scopes": []any{"read", 3}}, "scopes: must be a list of strings, not of int"},
		{map[string]any{"scopes": ""}, "scopes: needs at least one"},
		{map[string]any{"scopes": "read", "level": "x"}, `level: "x" is not a whole number`},
		{map[string]any{"scopes": "read", "level": 1.5}, "level: 1.5 is not a whole number"},
		{map[string]any{"scopes": "read", "levl": 1}, "levl: is not one of: level, scopes"},
	} {
		if _, err := Values(p.Params, c.given); err == nil || err.Error() != c.want {
			t.Errorf("%v: %v, want %s", c.given, err, c.want)
		}
	}
	if _, err := Values(p.Credential, map[string]any{"user": "", "key": "k"}); err != nil {
		t.Error(err)
	}
	values, err := Values(p.Params, map[string]any{"scopes": "read, write"})
	if err != nil || values["level"] != int64(3) || len(values["scopes"].([]string)) != 2 {
		t.Errorf("%v, %v", values, err)
	}
}

// FuzzCompile wants an error or a provider of any text, and never a panic.
func FuzzCompile(f *testing.F) {
	f.Add(listed)
	files, err := builtin.ReadDir("providers")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile("providers/" + file.Name())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Compile([]byte(text))
		if (p == nil) == (err == nil) {
			t.Errorf("%v, %v", p, err)
		}
	})
}
