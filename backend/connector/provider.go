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

// Provider is a definition that is ready for use. It does not change.
type Provider struct {
	Definition
	Text string // as it was written

	operations map[string]*operation
	revokeNeed bool     // revoke needs the token itself
	chosen     []string // members of the credential that rotate_root sets to what the client chose
	findRoot   string   // operation that finds a credential by name; "": none
	revokeRoot string   // operation that revokes a credential that was found
}

// The names of operations.
const (
	opCreate     = "create"
	opFind       = "find"
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

// pathPart is a literal piece of a path, or an expression whose value is escaped as one segment, or as a
// path where it is whole.
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
	secret bool  // it refers to a secret, or its value is one: errors do not say why it fails
	most   int64 // what its value may weigh; 0: no limit of its own
	output *cel.Type
	names  []string // variables that it refers to
	chosen []string // of a map: the keys whose value is the variable generated
}

// Limits of a definition: of the requests of an operation, and of the text of all expressions.
const (
	maxRequests    = 16
	maxExpressions = 64 << 10
)

// Limits of a request, in bytes.
const (
	maxBody = 1 << 20
	maxHead = 64 << 10 // each header, each part of the query and of the path
)

// Limits of an expression: of its text, of what a regular expression compiles to, and of what it may cost to
// evaluate. A page of a hundred tokens costs some thousands.
const (
	maxExpression = 8 << 10
	maxNodes      = 8 << 10
	maxRegex      = 2000
	costLimit     = 1_000_000
)

//go:embed providers/*.yaml
var builtin embed.FS

// Builtin gives the built-in providers by name.
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

// RevokeNeedsToken reports whether the token itself is needed to revoke it.
func (p *Provider) RevokeNeedsToken() bool { return p.revokeNeed }

// OperationNames lists what the provider can do.
func (p *Provider) OperationNames() []string { return sortedKeys(p.operations) }

// CanFind tells whether tokens can be found by name.
func (p *Provider) CanFind() bool { return p.operations[opFind] != nil }

// CanRenew tells whether the end of a token can be moved: where the upstream knows none, the lease does.
func (p *Provider) CanRenew() bool { return p.Expiry == ExpiryNone || p.operations[opRenew] != nil }

// Generates gives the members of the credential that a rotation sets to a secret that the client chooses;
// nil where the upstream chooses.
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

// CanFindRoot tells whether a credential that rotate_root made can be found by its name, and revoked.
func (p *Provider) CanFindRoot() bool { return p.findRoot != "" }

// CanRotateRoot tells whether the connection's credential can be replaced.
func (p *Provider) CanRotateRoot() bool { return p.operations[opRotateRoot] != nil }

// refersTo tells whether an expression refers to a variable, or to any of a prefix that ends in a dot.
func (o *operation) refersTo(name string) bool {
	found := false
	o.programs(func(_ string, p *program) {
		found = found || slices.ContainsFunc(p.names, func(ref string) bool {
			return ref == name || strings.HasSuffix(name, ".") && strings.HasPrefix(ref, name)
		})
	})
	return found
}

// programs visits every expression of the operation, with the part of a request that it is for.
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

// veil keeps a secret out of the error of an expression, where CEL says what it could not convert.
func (p *program) veil(err error) error {
	key, missing := strings.CutPrefix(err.Error(), "no such key: ")
	if !p.secret || missing && strings.Contains(p.text, key) {
		return err
	}
	return fmt.Errorf("%q fails; the reason may hold a secret and is not shown", clip(p.text))
}

// writePath gives the path with its expressions filled in.
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
			// A proxy on the way would resolve these.
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

// plain writes a value as it stands in a path, a query or a form.
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
