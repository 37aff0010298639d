package connector

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// A failer returns an error about a part of the current operation.
type failer func(line int, part string, err error) error

func (c *compiler) operation(name string, source *Operation, base *cel.Env, vars []cel.EnvOption, result map[string]resultMember) (*operation, error) {
	o := &operation{name: name, result: make(map[string]*program)}
	fail := func(line int, part string, err error) error {
		return fmt.Errorf("line %d: %s.%s: %w", line, name, part, err)
	}
	if len(source.Requests) == 0 {
		return nil, fmt.Errorf("line %d: %s: there are no requests", source.line, name)
	}
	if len(source.Requests) > maxRequests {
		return nil, fmt.Errorf("line %d: %s: there are %d requests, at most %d are allowed", source.line, name, len(source.Requests), maxRequests)
	}
	if source.ForEach != nil {
		if name != opList {
			return nil, fail(source.line, "for_each", errors.New("only list has for_each"))
		}
		each, err := c.operation(opForEach, source.ForEach, c.withParams, pageVars, nil)
		if err != nil {
			return nil, err
		}
		o.forEach = each
	}
	c.saved = nil
	env, err := base.Extend(vars...)
	if err != nil {
		return nil, err
	}
	for i := range source.Requests {
		r, after, err := c.request(env, &source.Requests[i], fail)
		if err != nil {
			return nil, err
		}
		if (name == opList || name == opForEach) && r.method != http.MethodGet && r.method != http.MethodPost {
			return nil, fail(source.Requests[i].line, "method", fmt.Errorf("%q changes something: a list is made with GET, or POST", r.method))
		}
		o.requests = append(o.requests, r)
		env = after
	}
	if env, err = env.Extend(responseVars...); err != nil {
		return nil, err
	}
	read := env
	if name == opList {
		if read, err = env.Extend(itemVar); err != nil {
			return nil, err
		}
	}
	if err := c.results(read, o, source, result, fail); err != nil {
		return nil, err
	}
	return o, c.page(env, o, source, fail)
}

// results compiles the result of an operation. Only a new credential may contain secrets.
func (c *compiler) results(env *cel.Env, o *operation, source *Operation, members map[string]resultMember, fail failer) error {
	for _, member := range sortedKeys(source.Result) {
		expr := source.Result[member]
		want, known := members[member]
		switch {
		case len(members) == 0:
			return fail(expr.Line, "result", fmt.Errorf("%s has no result", o.name))
		case !known:
			return fail(expr.Line, "result", fmt.Errorf("%q is not one of: %s", clip(member), strings.Join(sortedKeys(members), ", ")))
		}
		p, err := c.compile(env, expr, want.output)
		if err != nil {
			return fail(expr.Line, "result."+member, err)
		}
		check := c.refuseSecrets
		if o.name == opRotateRoot {
			check = c.checkCredential
		}
		if err := check(p); err != nil {
			return fail(expr.Line, "result."+member, err)
		}
		p.secret = p.secret || o.name == opRotateRoot || member == "token"
		o.result[member] = p
	}
	for _, member := range sortedKeys(members) {
		if members[member].required && o.result[member] == nil {
			return fail(source.line, "result", fmt.Errorf("%s is missing", member))
		}
	}
	return nil
}

// page compiles the expressions that read a page of a listing.
func (c *compiler) page(env *cel.Env, o *operation, source *Operation, fail failer) (err error) {
	elements := map[string]string{opFind: "{id, name}", opFindRoot: "{id, name}", opList: "tokens", opForEach: "maps"}[o.name]
	if elements == "" {
		if source.Items.Text != "" || source.Next.Text != "" {
			return fail(source.line, "items", errors.New("only find, find_root and list have items and next"))
		}
		return nil
	}
	if source.Items.Text == "" {
		return fail(source.line, "items", fmt.Errorf("is missing: a list of %s", elements))
	}
	if o.items, err = c.open(env, source.Items, cel.ListType(cel.DynType)); err != nil {
		return fail(source.Items.Line, "items", err)
	}
	if source.Next.Text == "" {
		return nil
	}
	if o.next, err = c.open(env, source.Next, cel.StringType); err != nil {
		return fail(source.Next.Line, "next", err)
	}
	return nil
}

var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// request compiles a request, and returns the environment of the next one.
func (c *compiler) request(env *cel.Env, source *Request, fail failer) (*request, *cel.Env, error) {
	r := &request{method: source.Method, ok: source.OK, gone: source.Gone, retry: source.Retry, denied: source.Denied}
	if !slices.Contains(methods, r.method) {
		return nil, nil, fail(source.line, "method", fmt.Errorf("%q is not one of: %s", clip(r.method), strings.Join(methods, ", ")))
	}
	if source.JSON.Text != "" && len(source.Form) > 0 {
		return nil, nil, fail(source.line, "form", errors.New("a request has either json or form"))
	}
	for part, statuses := range map[string][]int{"ok": r.ok, "gone": r.gone, "retry": r.retry, "denied": r.denied} {
		for _, status := range statuses {
			if status < 200 || status > 599 {
				return nil, nil, fail(source.line, part, fmt.Errorf("%d is not an HTTP status", status))
			}
		}
	}
	var err error
	if source.When.Text != "" {
		if r.when, err = c.open(env, source.When, cel.BoolType); err != nil {
			return nil, nil, fail(source.When.Line, "when", err)
		}
	}
	if r.path, err = c.path(env, source.Path); err != nil {
		return nil, nil, fail(max(source.Path.Line, source.line), "path", err)
	}
	if source.JSON.Text != "" {
		if r.json, err = c.compile(env, source.JSON, cel.DynType); err != nil {
			return nil, nil, fail(source.JSON.Line, "json", err)
		}
		r.json.most = maxBody
	}
	if err := c.values(env, r, source, fail); err != nil {
		return nil, nil, err
	}
	after, err := c.save(env, r, source, fail)
	return r, after, err
}

// values compiles the query, the headers and the form of a request.
func (c *compiler) values(env *cel.Env, r *request, source *Request, fail failer) error {
	for _, m := range []struct {
		part    string
		source  map[string]Expr
		into    *map[string]*program
		output  *cel.Type
		most    int64
		compile func(*cel.Env, Expr, *cel.Type) (*program, error)
	}{
		{"query", source.Query, &r.query, cel.DynType, maxHead, c.open},
		{"headers", source.Headers, &r.headers, cel.StringType, maxHead, c.compile},
		{"form", source.Form, &r.form, cel.DynType, maxBody, c.compile},
	} {
		*m.into = make(map[string]*program, len(m.source))
		for _, key := range sortedKeys(m.source) {
			if m.part == "headers" && !headerName.MatchString(key) {
				return fail(m.source[key].Line, "headers", fmt.Errorf("%q is not a name of a header", clip(key)))
			}
			compiled, err := m.compile(env, m.source[key], m.output)
			if err != nil {
				return fail(m.source[key].Line, m.part+"."+clip(key), err)
			}
			compiled.most = m.most
			(*m.into)[key] = compiled
		}
	}
	return nil
}

// save compiles the variables that a request saves, and returns the environment of the next request.
func (c *compiler) save(env *cel.Env, r *request, source *Request, fail failer) (*cel.Env, error) {
	r.save = make(map[string]*program, len(source.Save))
	if len(source.Save) == 0 {
		return env, nil
	}
	answered, err := env.Extend(responseVars...)
	if err != nil {
		return nil, err
	}
	for _, name := range sortedKeys(source.Save) {
		expr := source.Save[name]
		if !fieldName.MatchString(name) {
			return nil, fail(expr.Line, "save", fmt.Errorf("%q must be of a-z, 0-9 and _, a letter first", clip(name)))
		}
		compiled, err := c.compile(answered, expr, cel.DynType)
		if err != nil {
			return nil, fail(expr.Line, "save."+name, err)
		}
		r.save[name] = compiled
		if compiled.secret {
			c.saved = append(c.saved, "saved."+name)
		}
		if env, err = env.Extend(cel.Variable("saved."+name, compiled.output)); err != nil {
			return nil, fail(expr.Line, "save."+name, err)
		}
	}
	return env, nil
}

// path compiles "/a/{expression}/b". The value of {+expression} is a path of its own, as in RFC 6570.
func (c *compiler) path(env *cel.Env, source Expr) (parts []pathPart, err error) {
	text := source.Text
	if !strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "{+") {
		return nil, fmt.Errorf("%q must begin with /", clip(text))
	}
	if strings.ContainsAny(text, "?#") && !strings.Contains(text, "{") {
		return nil, errors.New("must not contain ? or #: use query")
	}
	for text != "" {
		literal, rest, found := strings.Cut(text, "{")
		if strings.ContainsAny(literal, "?#}") {
			return nil, fmt.Errorf("%q has a character that is not allowed in a path: use query for what follows a ?", clip(literal))
		}
		if literal != "" {
			parts = append(parts, pathPart{literal: literal})
		}
		if !found {
			break
		}
		expression, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil, errors.New("a { is not closed")
		}
		expression, whole := strings.CutPrefix(expression, "+")
		compiled, err := c.open(env, Expr{Text: expression, Line: source.Line}, cel.DynType)
		if err != nil {
			return nil, err
		}
		if kind := compiled.output.Kind(); kind != types.StringKind && kind != types.IntKind && kind != types.DynKind {
			return nil, fmt.Errorf("{%s} is of type %s, a segment of a path is a string or an int", clip(expression), compiled.output)
		}
		compiled.most = maxHead
		parts = append(parts, pathPart{program: compiled, whole: whole})
		text = after
	}
	return parts, nil
}
