package connector

import (
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"
)

// Compile compiles a definition in YAML. Its errors name the line and the fault.
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
		{opList, d.Operations.List, c.base, listVars, map[string]resultMember{
			"id": {cel.StringType, true}, "name": {cel.StringType, true}, "owner": {cel.StringType, false},
			"created_at": {nil, false}, "last_used_at": {nil, false}, "expires_at": {nil, false},
			"scopes": {cel.ListType(cel.DynType), false},
		}},
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
		return nil, errors.New("operations: find is required if expiry is none: a token whose answer was lost would never be revoked")
	}
	return p, nil
}

// root sets how a credential is rotated. It rejects a definition whose rotation could leave a credential that cannot be
// found and revoked.
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
			return fmt.Errorf("line %d: rotate_root: refers to name, but no operation finds the name: find_root is required, or a find that refers to no params", ops.RotateRoot.line)
		}
		if ops.RevokeRoot != nil {
			return fmt.Errorf("line %d: revoke_root: find_root is required, or a find that refers to no params", ops.RevokeRoot.line)
		}
		return nil
	}
	for _, what := range []string{"params.", "token", "record"} {
		if p.revokeRoot == opRevoke && revoke.refersTo(what) {
			return fmt.Errorf("line %d: revoke: refers to %s, which a credential found by name does not have: revoke_root is required", ops.Revoke.line, strings.TrimSuffix(what, "."))
		}
	}
	return nil
}

type resultMember struct {
	output   *cel.Type // nil: a timestamp, a string or number that timestamp() accepts, or null
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
	pageVars = []cel.EnvOption{
		cel.Variable("cursor", cel.StringType),
		cel.Variable("page", cel.IntType),
	}
	findVars   = append([]cel.EnvOption{cel.Variable("name", cel.StringType)}, pageVars...)
	listVars   = append([]cel.EnvOption{cel.Variable("each", mapType)}, pageVars...)
	itemVar    = cel.Variable("item", cel.DynType) // of the result of list
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
	written    int      // bytes of the expressions so far; each use of a YAML alias counts
	base       *cel.Env // of operations on the credential
	withParams *cel.Env // of operations on the token of a role
	secrets    []string // variables that contain a secret in every operation
	saved      []string // saved variables of the current operation that contain a secret
}

// language configures CEL for expressions. The versions are fixed: a later version may add functions without a price, and
// macros that evaluate their target several times.
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
