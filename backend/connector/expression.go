package connector

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
)

// refuseSecrets rejects an expression that refers to a secret. Secrets may be in headers and bodies only: proxies log URLs,
// results are shown and stored, and a condition would reveal a secret bit by bit.
func (c *compiler) refuseSecrets(p *program) error {
	for _, name := range p.names {
		if c.isSecret(name) {
			return fmt.Errorf("%s is a secret: only headers, json, form and save may refer to a secret", name)
		}
	}
	return nil
}

// checkCredential rejects a new credential with a secret in a member that is shown.
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
