package connector

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
)

// Compile reads a definition in YAML. Its errors name the line and what is wrong with it.
func Compile(text []byte) (*Provider, error) {
	d, err := parse(text)
	if err != nil {
		return nil, err
	}
	p := &Provider{Definition: *d, Text: string(text), operations: make(map[string]*operation)}
	c := &compiler{definition: d}
	if err := c.environments(); err != nil {
		return nil, err
	}
	for _, o := range []struct {
		name   string
		source *Operation
		base   *cel.Env
		vars   []cel.EnvOption
		result map[string]resultMember
	}{
		{opCreate, d.Operations.Create, c.withParams, createVars, map[string]resultMember{
			"token": {cel.StringType, true}, "id": {cel.StringType, true}, "expires_at": {nil, false},
			"data": {mapType, false}, "record": {stringMap, false}, "granted": {mapType, false},
		}},
		{opFind, d.Operations.Find, c.withParams, findVars, nil},
		{opRevoke, d.Operations.Revoke, c.withParams, tokenVars, nil},
		{opRenew, d.Operations.Renew, c.withParams, renewVars, map[string]resultMember{"expires_at": {nil, false}}},
		{opCheck, d.Operations.Check, c.base, nil, map[string]resultMember{"data": {mapType, false}}},
		{opRotateRoot, d.Operations.RotateRoot, c.base, rotateVars, map[string]resultMember{"credential": {stringMap, true}}},
		{opRetireRoot, d.Operations.RetireRoot, c.base, nil, nil},
		{opFindRoot, d.Operations.FindRoot, c.base, findVars, nil},
		{opRevokeRoot, d.Operations.RevokeRoot, c.base, foundVars, nil},
	} {
		if o.source == nil {
			continue
		}
		compiled, err := c.operation(o.name, o.source, o.base, o.vars, o.result)
		if err != nil {
			return nil, err
		}
		p.operations[o.name] = compiled
	}
	p.revokeNeed = p.operations[opRevoke].refersTo("token")
	if err := p.root(); err != nil {
		return nil, err
	}
	if d.Operations.Find == nil && d.Expiry == ExpiryNone {
		return nil, errors.New("operations: there is no find, which takes the place of an expiry: a token whose answer was lost would live for ever")
	}
	return p, nil
}

// root settles how the credential is replaced, and refuses what would leave one behind that nobody can find.
func (p *Provider) root() error {
	rotate, ops := p.operations[opRotateRoot], p.Operations
	if rotate == nil {
		for name, o := range map[string]*Operation{opRetireRoot: ops.RetireRoot, opFindRoot: ops.FindRoot, opRevokeRoot: ops.RevokeRoot} {
			if o != nil {
				return fmt.Errorf("line %d: %s: there is no rotate_root", o.line, name)
			}
		}
		return nil
	}
	p.chosen = rotate.result["credential"].chosen
	p.findRoot, p.revokeRoot = opFindRoot, opRevokeRoot
	find, revoke := p.operations[opFindRoot], p.operations[opRevokeRoot]
	if find == nil {
		if find = p.operations[opFind]; find == nil || find.refersTo("params.") {
			p.findRoot = ""
		} else {
			p.findRoot = opFind
		}
	}
	if revoke == nil {
		p.revokeRoot = opRevoke
		revoke = p.operations[opRevoke]
	}
	if p.findRoot == "" {
		if rotate.refersTo("name") {
			return fmt.Errorf("line %d: rotate_root: uses name, and nothing finds that name: it needs find_root, or a find that refers to no params", ops.RotateRoot.line)
		}
		if ops.RevokeRoot != nil {
			return fmt.Errorf("line %d: revoke_root: there is no find_root, nor a find that refers to no params", ops.RevokeRoot.line)
		}
		return nil
	}
	for _, what := range []string{"params.", "token", "record"} {
		if p.revokeRoot == opRevoke && revoke.refersTo(what) {
			return fmt.Errorf("line %d: revoke: refers to %s, of which a credential found by name has nothing: it needs revoke_root", ops.Revoke.line, strings.TrimSuffix(what, "."))
		}
	}
	return nil
}

type resultMember struct {
	output   *cel.Type // nil: a time, or what CEL's timestamp reads, or null
	required bool
}

var (
	stringMap = cel.MapType(cel.StringType, cel.StringType)
	mapType   = cel.MapType(cel.StringType, cel.DynType)

	createVars = []cel.EnvOption{
		cel.Variable("name", cel.StringType),
		cel.Variable("expires_at", cel.TimestampType),
		cel.Variable("ttl", cel.DurationType),
		cel.Variable("role", cel.StringType),
	}
	tokenVars = []cel.EnvOption{
		cel.Variable("name", cel.StringType),
		cel.Variable("id", cel.StringType),
		cel.Variable("record", stringMap),
		cel.Variable("token", cel.StringType),
	}
	renewVars = append([]cel.EnvOption{
		cel.Variable("expires_at", cel.TimestampType),
		cel.Variable("ttl", cel.DurationType),
	}, tokenVars...)
	foundVars = []cel.EnvOption{
		cel.Variable("name", cel.StringType),
		cel.Variable("id", cel.StringType),
	}
	findVars = []cel.EnvOption{
		cel.Variable("name", cel.StringType),
		cel.Variable("cursor", cel.StringType),
		cel.Variable("page", cel.IntType),
	}
	rotateVars = []cel.EnvOption{
		cel.Variable("name", cel.StringType),
		cel.Variable("generated", cel.StringType),
		cel.Variable("expires_at", cel.TimestampType),
	}
	responseVars = []cel.EnvOption{
		cel.Variable("response.status", cel.IntType),
		cel.Variable("response.headers", stringMap),
		cel.Variable("response.body", cel.DynType),
	}
)

// compiler compiles the expressions of one definition.
type compiler struct {
	definition *Definition
	written    int      // bytes of the expressions so far; an alias of YAML counts each time
	base       *cel.Env // of operations that are about the credential
	withParams *cel.Env // of operations that are about the token of a role
	secrets    []string // variables that hold a secret wherever they are declared
	saved      []string // variables of the operation at hand that hold what was made of a secret
}

// language is CEL as expressions have it. The versions are fixed: a later one may bring functions that have no
// price, and macros that repeat their target.
var language = append([]cel.EnvOption{
	cel.OptionalTypes(cel.OptionalTypesVersion(4)),
	ext.Strings(ext.StringsVersion(4)),
	ext.Encoders(ext.EncodersVersion(0)),
	ext.Lists(ext.ListsVersion(4)),
	ext.TwoVarComprehensions(ext.TwoVarComprehensionsVersion(0)),
}, ownFunctions...)

// environments declares what every expression may use.
func (c *compiler) environments() (err error) {
	options := append([]cel.EnvOption{
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ParserRecursionLimit(64),
		cel.ExpressionNodeLimit(maxNodes),
		cel.Variable("now", cel.TimestampType),
		cel.Variable("connection", cel.StringType),
	}, language...)
	for part, fields := range map[string]map[string]Field{"credential": c.definition.Credential, "settings": c.definition.Settings} {
		for name, field := range fields {
			options = append(options, cel.Variable(part+"."+name, field.celType()))
			if field.Secret {
				c.secrets = append(c.secrets, part+"."+name)
			}
		}
	}
	c.secrets = append(c.secrets, "token", "generated")
	if c.base, err = cel.NewEnv(options...); err != nil {
		return err
	}
	var params []cel.EnvOption
	for name, field := range c.definition.Params {
		params = append(params, cel.Variable("params."+name, field.celType()))
	}
	c.withParams, err = c.base.Extend(params...)
	return err
}

func (f *Field) celType() *cel.Type {
	switch f.Type {
	case TypeInt:
		return cel.IntType
	case TypeBool:
		return cel.BoolType
	case TypeList:
		return cel.ListType(cel.StringType)
	}
	return cel.StringType
}

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
		o.requests = append(o.requests, r)
		env = after
	}
	if env, err = env.Extend(responseVars...); err != nil {
		return nil, err
	}

	for _, member := range sortedKeys(source.Result) {
		want, known := result[member]
		if !known {
			if len(result) == 0 {
				return nil, fail(source.Result[member].Line, "result", fmt.Errorf("%s has no result", name))
			}
			return nil, fail(source.Result[member].Line, "result", fmt.Errorf("%q is not one of: %s", clip(member), strings.Join(sortedKeys(result), ", ")))
		}
		if o.result[member], err = c.compile(env, source.Result[member], want.output); err != nil {
			return nil, fail(source.Result[member].Line, "result."+member, err)
		}
		if name == opRotateRoot {
			o.result[member].secret = true
			if err := c.checkCredential(o.result[member]); err != nil {
				return nil, fail(source.Result[member].Line, "result."+member, err)
			}
		} else if err := c.refuseSecrets(o.result[member]); err != nil {
			return nil, fail(source.Result[member].Line, "result."+member, err)
		}
		if member == "token" {
			o.result[member].secret = true
		}
	}
	for _, member := range sortedKeys(result) {
		if result[member].required && o.result[member] == nil {
			return nil, fail(source.line, "result", fmt.Errorf("%s is missing", member))
		}
	}

	if name == opFind || name == opFindRoot {
		if source.Items.Text == "" {
			return nil, fail(source.line, "items", errors.New("is missing: a list of {id, name}"))
		}
		if o.items, err = c.open(env, source.Items, cel.ListType(cel.DynType)); err != nil {
			return nil, fail(source.Items.Line, "items", err)
		}
		if source.Next.Text != "" {
			if o.next, err = c.open(env, source.Next, cel.StringType); err != nil {
				return nil, fail(source.Next.Line, "next", err)
			}
		}
	} else if source.Items.Text != "" || source.Next.Text != "" {
		return nil, fail(source.line, "items", errors.New("only find and find_root have items and next"))
	}
	return o, nil
}

var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// request compiles a request, and gives the environment of the one that follows.
func (c *compiler) request(env *cel.Env, source *Request, fail func(int, string, error) error) (*request, *cel.Env, error) {
	r := &request{method: source.Method, ok: source.OK, gone: source.Gone, retry: source.Retry, denied: source.Denied}
	if !slices.Contains(methods, r.method) {
		return nil, nil, fail(source.line, "method", fmt.Errorf("%q is not one of: %s", clip(r.method), strings.Join(methods, ", ")))
	}
	if source.JSON.Text != "" && len(source.Form) > 0 {
		return nil, nil, fail(source.line, "form", errors.New("a request has either json or form"))
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
	for _, m := range []struct {
		part   string
		source map[string]Expr
		into   *map[string]*program
		output *cel.Type
	}{
		{"query", source.Query, &r.query, cel.DynType},
		{"headers", source.Headers, &r.headers, cel.StringType},
		{"form", source.Form, &r.form, cel.DynType},
	} {
		*m.into = make(map[string]*program, len(m.source))
		for _, key := range sortedKeys(m.source) {
			if m.part == "headers" && !headerName.MatchString(key) {
				return nil, nil, fail(m.source[key].Line, "headers", fmt.Errorf("%q is not a name of a header", clip(key)))
			}
			compile := c.compile
			if m.part == "query" {
				compile = c.open
			}
			compiled, err := compile(env, m.source[key], m.output)
			if err != nil {
				return nil, nil, fail(m.source[key].Line, m.part+"."+clip(key), err)
			}
			if compiled.most = maxHead; m.part == "form" {
				compiled.most = maxBody
			}
			(*m.into)[key] = compiled
		}
	}
	for part, statuses := range map[string][]int{"ok": r.ok, "gone": r.gone, "retry": r.retry, "denied": r.denied} {
		for _, status := range statuses {
			if status < 200 || status > 599 {
				return nil, nil, fail(source.line, part, fmt.Errorf("%d is not an HTTP status", status))
			}
		}
	}

	r.save = make(map[string]*program, len(source.Save))
	after := env
	if len(source.Save) > 0 {
		answered, err := env.Extend(responseVars...)
		if err != nil {
			return nil, nil, err
		}
		for _, name := range sortedKeys(source.Save) {
			if !fieldName.MatchString(name) {
				return nil, nil, fail(source.Save[name].Line, "save", fmt.Errorf("%q must be of a-z, 0-9 and _, a letter first", clip(name)))
			}
			compiled, err := c.compile(answered, source.Save[name], cel.DynType)
			if err != nil {
				return nil, nil, fail(source.Save[name].Line, "save."+name, err)
			}
			r.save[name] = compiled
			if compiled.secret {
				c.saved = append(c.saved, "saved."+name)
			}
			if after, err = after.Extend(cel.Variable("saved."+name, compiled.output)); err != nil {
				return nil, nil, fail(source.Save[name].Line, "save."+name, err)
			}
		}
	}
	return r, after, nil
}

// path compiles "/a/{expression}/b". The value of {+expression} is a path itself, as in RFC 6570.
func (c *compiler) path(env *cel.Env, source Expr) (parts []pathPart, err error) {
	text := source.Text
	if !strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "{+") {
		return nil, fmt.Errorf("%q must begin with /", clip(text))
	}
	if strings.ContainsAny(text, "?#") && !strings.Contains(text, "{") {
		return nil, errors.New("what follows a ? belongs into query")
	}
	for text != "" {
		literal, rest, found := strings.Cut(text, "{")
		if strings.ContainsAny(literal, "?#}") {
			return nil, fmt.Errorf("%q has a character that does not belong into a path; what follows a ? belongs into query", clip(literal))
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

// refuseSecrets keeps secrets in headers and bodies: a URL ends up in the logs of every proxy on the way,
// results are shown and stored, and a condition would tell them bit by bit.
func (c *compiler) refuseSecrets(p *program) error {
	for _, name := range p.names {
		if c.isSecret(name) {
			return fmt.Errorf("%s is a secret, which only headers, json, form and save may refer to", name)
		}
	}
	return nil
}

// checkCredential refuses a new credential that has a secret in a member which is shown.
func (c *compiler) checkCredential(p *program) error {
	expr := p.ast.Expr()
	if expr.Kind() != celast.MapKind {
		return errors.New("must be a map of the members that change, written as {...}")
	}
	for _, each := range expr.AsMap().Entries() {
		entry := each.AsMapEntry()
		if entry.Key().Kind() != celast.LiteralKind {
			return errors.New("the keys of the map must be written as text")
		}
		name, _ := entry.Key().AsLiteral().Value().(string)
		field, known := c.definition.Credential[name]
		if !known {
			return fmt.Errorf("%q is not a member of the credential", clip(name))
		}
		if field.Secret {
			continue
		}
		var found error
		celast.PostOrderVisit(entry.Value(), celast.NewExprVisitor(func(e celast.Expr) {
			if ref := p.ast.ReferenceMap()[e.ID()]; ref != nil && c.isSecret(strings.TrimPrefix(ref.Name, ".")) {
				found = fmt.Errorf("%s: %s is a secret, and the member is shown", name, strings.TrimPrefix(ref.Name, "."))
			}
		}))
		if found != nil {
			return found
		}
	}
	return nil
}

func (c *compiler) isSecret(name string) bool {
	return slices.Contains(c.secrets, name) || slices.Contains(c.saved, name)
}

// open compiles an expression that must not refer to a secret.
func (c *compiler) open(env *cel.Env, source Expr, want *cel.Type) (*program, error) {
	p, err := c.compile(env, source, want)
	if err != nil {
		return nil, err
	}
	return p, c.refuseSecrets(p)
}

func (c *compiler) compile(env *cel.Env, source Expr, want *cel.Type) (*program, error) {
	if strings.TrimSpace(source.Text) == "" {
		return nil, errors.New("is empty")
	}
	const each = 64
	if c.written += each + len(source.Text); c.written > maxExpressions {
		return nil, fmt.Errorf("the expressions are longer than %d bytes together", maxExpressions)
	}
	ast, issues := env.Compile(source.Text)
	if issues.Err() != nil {
		e := issues.Errors()[0]
		return nil, fmt.Errorf("%s (at %q)", e.Message, clip(source.Text))
	}
	output := ast.OutputType()
	if want != nil && want.Kind() != types.DynKind && output.Kind() != types.DynKind && !want.IsAssignableType(output) {
		return nil, fmt.Errorf("%q is of type %s, it must be %s", clip(source.Text), output, want)
	}
	compiled, err := env.Program(ast, cel.CostLimit(costLimit), cel.InterruptCheckFrequency(1000), cel.CustomDecoratorV2(metered))
	if err != nil {
		return nil, err
	}
	p := &program{Program: compiled, ast: ast.NativeRep(), text: source.Text, output: output}
	for _, ref := range ast.NativeRep().ReferenceMap() {
		if ref.Name != "" {
			p.names = append(p.names, strings.TrimPrefix(ref.Name, "."))
			p.secret = p.secret || c.isSecret(p.names[len(p.names)-1])
		}
	}
	if expr := ast.NativeRep().Expr(); expr.Kind() == celast.MapKind {
		for _, entry := range expr.AsMap().Entries() {
			key, value := entry.AsMapEntry().Key(), entry.AsMapEntry().Value()
			if key.Kind() == celast.LiteralKind && value.Kind() == celast.IdentKind && value.AsIdent() == "generated" {
				if name, ok := key.AsLiteral().Value().(string); ok {
					p.chosen = append(p.chosen, name)
				}
			}
		}
	}
	return p, nil
}
