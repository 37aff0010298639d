package connector

import (
	"context"
	"embed"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
)

// Provider is a compiled definition. A Provider is immutable.
type Provider struct {
	Definition
	Text string // source of the definition

	operations map[string]*operation
	revokeNeed bool     // revoke needs the token's text
	chosen     []string // members of the credential that rotate_root sets to a secret of the client's choice
	findRoot   string   // operation that finds a credential by name; empty if there is none
	revokeRoot string   // operation that revokes a credential that was found
}

// The names of operations.
const (
	opCreate     = "create"
	opFind       = "find"
	opList       = "list"
	opForEach    = "list.for_each"
	opRevoke     = "revoke"
	opRenew      = "renew"
	opCheck      = "check"
	opRotateRoot = "rotate_root"
	opRetireRoot = "retire_root"
	opFindRoot   = "find_root"
	opRevokeRoot = "revoke_root"
)

type operation struct {
	name     string
	requests []*request
	result   map[string]*program
	items    *program
	next     *program
	forEach  *operation // of list; nil: the requests are made once
}

type request struct {
	when    *program
	method  string
	path    []pathPart
	query   map[string]*program
	headers map[string]*program
	json    *program
	form    map[string]*program
	save    map[string]*program
	ok      []int
	gone    []int
	retry   []int
	denied  []int
}

// pathPart is a literal part of a path, or an expression. The value of an expression is escaped as one segment, or as a
// path if whole is set.
type pathPart struct {
	literal string
	program *program
	whole   bool
}

// program is a compiled expression.
type program struct {
	cel.Program
	ast    *celast.AST
	text   string
	secret bool  // the expression refers to a secret or is one: errors do not give the reason
	most   int64 // largest size of the value; 0: no limit of its own
	output *cel.Type
	names  []string // variables that the expression refers to
	chosen []string // keys of a map whose value is the variable generated
}

// Limits of a definition: the number of requests of an operation, and the length of all expressions.
const (
	maxRequests    = 16
	maxExpressions = 64 << 10
)

// Limits of a request, in bytes.
const (
	maxBody = 1 << 20
	maxHead = 64 << 10 // each header, each part of the query and of the path
)

// Limits of an expression: its length, its size, the size of a regular expression, and the cost of an evaluation. A page of
// a hundred tokens costs some thousands.
const (
	maxExpression = 8 << 10
	maxNodes      = 8 << 10
	maxRegex      = 2000
	costLimit     = 1_000_000
)

//go:embed providers/*.yaml
var builtin embed.FS

// Builtin returns the built-in providers by name.
func Builtin() (map[string]*Provider, error) {
	files, err := builtin.ReadDir("providers")
	if err != nil {
		return nil, err
	}
	providers := make(map[string]*Provider, len(files))
	for _, file := range files {
		text, err := builtin.ReadFile("providers/" + file.Name())
		if err != nil {
			return nil, err
		}
		p, err := Compile(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file.Name(), err)
		}
		providers[p.Name] = p
	}
	return providers, nil
}

// RevokeNeedsToken reports whether revoking a token needs the token's text.
func (p *Provider) RevokeNeedsToken() bool { return p.revokeNeed }

// OperationNames returns the names of the provider's operations.
func (p *Provider) OperationNames() []string { return sortedKeys(p.operations) }

// CanFind reports whether tokens can be found by name.
func (p *Provider) CanFind() bool { return p.operations[opFind] != nil }

// CanList reports whether all tokens that the credential can see can be listed.
func (p *Provider) CanList() bool { return p.operations[opList] != nil }

// CanRenew reports whether the end of a token can be moved. If tokens do not expire at the service, only the lease ends
// them, and can be renewed.
func (p *Provider) CanRenew() bool { return p.Expiry == ExpiryNone || p.operations[opRenew] != nil }

// Generates returns the members of the credential that a rotation sets to a secret of the client's choice. It returns nil
// if the service chooses the secret.
func (p *Provider) Generates(secret string) map[string]any {
	chosen := make(map[string]any)
	for _, name := range p.chosen {
		chosen[name] = secret
	}
	if len(chosen) == 0 {
		return nil
	}
	return chosen
}

// CanFindRoot reports whether a credential that rotate_root made can be found by its name and revoked.
func (p *Provider) CanFindRoot() bool { return p.findRoot != "" }

// CanRotateRoot reports whether the connection's credential can be rotated.
func (p *Provider) CanRotateRoot() bool { return p.operations[opRotateRoot] != nil }

// refersTo reports whether an expression of the operation refers to a variable. A name that ends in a dot matches all
// variables with this prefix.
func (o *operation) refersTo(name string) bool {
	found := false
	o.programs(func(_ string, p *program) {
		found = found || slices.ContainsFunc(p.names, func(ref string) bool {
			return ref == name || strings.HasSuffix(name, ".") && strings.HasPrefix(ref, name)
		})
	})
	return found
}

// programs visits every expression of the operation with the part of the request that uses the expression.
func (o *operation) programs(visit func(part string, p *program)) {
	for _, r := range o.requests {
		for _, one := range []*program{r.when, r.json} {
			if one != nil {
				visit("", one)
			}
		}
		for _, part := range r.path {
			if part.program != nil {
				visit("path", part.program)
			}
		}
		for part, m := range map[string]map[string]*program{"query": r.query, "headers": r.headers, "form": r.form, "save": r.save} {
			for _, one := range m {
				visit(part, one)
			}
		}
	}
	for _, one := range o.result {
		visit("result", one)
	}
	for _, one := range []*program{o.items, o.next} {
		if one != nil {
			visit("items", one)
		}
	}
}

// eval evaluates an expression.
func (p *program) eval(ctx context.Context, vars map[string]any) (any, error) {
	value, _, err := p.ContextEval(ctx, &meter{vars: vars, left: maxMemory})
	if err != nil {
		return nil, p.veil(err)
	}
	if p.most > 0 && weigh(value, p.most) > p.most {
		return nil, fmt.Errorf("is longer than %d bytes", p.most)
	}
	result, err := native(value)
	if err != nil {
		return nil, p.veil(err)
	}
	return result, nil
}

// veil hides the reason of an error of a secret expression: CEL's errors contain the value.
func (p *program) veil(err error) error {
	key, missing := strings.CutPrefix(err.Error(), "no such key: ")
	if !p.secret || missing && strings.Contains(p.text, key) {
		return err
	}
	return fmt.Errorf("%q fails; the reason may hold a secret and is not shown", clip(p.text))
}

// writePath returns the path with the values of its expressions.
func writePath(ctx context.Context, parts []pathPart, vars map[string]any) (string, error) {
	var b strings.Builder
	for _, part := range parts {
		if part.program == nil {
			b.WriteString(part.literal)
			continue
		}
		value, err := part.program.eval(ctx, vars)
		if err != nil {
			return "", err
		}
		segment, err := plain(value)
		if err != nil {
			return "", err
		}
		segments := []string{segment}
		if part.whole {
			segments = strings.Split(strings.Trim(segment, "/"), "/")
		}
		for i, segment := range segments {
			// A proxy would resolve these segments.
			if segment == "" || segment == "." || segment == ".." {
				return "", fmt.Errorf("%q cannot be a segment of a path", segment)
			}
			if part.whole && i > 0 || part.whole && b.Len() == 0 {
				b.WriteByte('/')
			}
			b.WriteString(url.PathEscape(segment))
		}
	}
	return b.String(), nil
}

// plain returns the text of a value in a path, a query or a form.
func plain(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case int64, uint64, bool:
		return fmt.Sprint(v), nil
	case float64:
		if v == float64(int64(v)) {
			return fmt.Sprint(int64(v)), nil
		}
		return fmt.Sprint(v), nil
	case time.Time:
		return v.UTC().Format(time.RFC3339), nil
	}
	return "", fmt.Errorf("a %T cannot be written as text", value)
}
