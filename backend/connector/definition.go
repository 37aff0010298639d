// Package connector mints tokens at the HTTP APIs of upstream services. A Definition in YAML describes how an API creates,
// finds, revokes and renews tokens. Values are CEL expressions over typed variables. Compile checks all expressions. A
// Client calls the API.
package connector

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Definition is the source of a provider. It describes the API of an upstream service.
type Definition struct {
	Name          string           `yaml:"name"`
	Title         string           `yaml:"title"`
	Description   string           `yaml:"description"`
	Documentation []string         `yaml:"documentation"` // URLs of the API's own documentation
	Credential    map[string]Field `yaml:"credential"`    // members of a connection's credential
	Settings      map[string]Field `yaml:"settings"`      // settings of a connection
	Params        map[string]Field `yaml:"params"`        // params of a role
	Expiry        Expiry           `yaml:"expiry"`
	MaxName       int              `yaml:"max_name"` // longest name of a token at the service, in bytes; 0: no limit
	Operations    struct {
		Create     *Operation `yaml:"create"`      // required
		Find       *Operation `yaml:"find"`        // finds tokens by name if the response to create was lost
		List       *Operation `yaml:"list"`        // lists all tokens that the credential can see, for reconciliation
		Revoke     *Operation `yaml:"revoke"`      // required
		Renew      *Operation `yaml:"renew"`       // moves the end of a token; required to renew tokens that expire at the service
		Check      *Operation `yaml:"check"`       // required; verifies that the credential works
		RotateRoot *Operation `yaml:"rotate_root"` // makes another credential with the same rights
		RetireRoot *Operation `yaml:"retire_root"` // revokes the credential that authenticates the request
		FindRoot   *Operation `yaml:"find_root"`   // finds credentials by name; default: find, unless find refers to params
		RevokeRoot *Operation `yaml:"revoke_root"` // revokes a credential that was found; default: revoke
	} `yaml:"operations"`
}

// Field describes a member of the credential, a setting or a param.
type Field struct {
	Type        string   `yaml:"type"` // string, int, bool or list (of strings)
	Description string   `yaml:"description"`
	Required    bool     `yaml:"required"`
	Secret      bool     `yaml:"secret"` // never shown, never in a URL; only allowed in the credential
	Default     any      `yaml:"default"`
	Allowed     []string `yaml:"allowed"` // allowed values, or allowed members of a list
	Pattern     string   `yaml:"pattern"` // regular expression that the whole value, or each member of a list, must match
	line        int
}

// The types of a Field.
const (
	TypeString = "string"
	TypeInt    = "int"
	TypeBool   = "bool"
	TypeList   = "list"
)

// Expiry is how the service expires tokens.
type Expiry string

// The ways in which a service expires tokens.
const (
	ExpiryNone    Expiry = "none"    // never: a token lives until it is revoked
	ExpirySeconds Expiry = "seconds" // at a time
	ExpiryDays    Expiry = "days"    // at the beginning of a day in UTC
)

// Operation is one or more requests in order, and the expressions that read the answer to the last request.
type Operation struct {
	Requests []Request       `yaml:"requests"`
	Result   map[string]Expr `yaml:"result"`   // of list: read from each item
	Items    Expr            `yaml:"items"`    // find and find_root: a list of {id, name}; list: a list of tokens
	Next     Expr            `yaml:"next"`     // find, find_root and list: cursor of the next page; "" on the last page
	ForEach  *Operation      `yaml:"for_each"` // list: lists the objects for each of which the requests are made
	line     int
}

// Request is one HTTP request. Texts between braces in Path are expressions. Their values are escaped as one segment.
type Request struct {
	When    Expr            `yaml:"when"` // default: always
	Method  string          `yaml:"method"`
	Path    Expr            `yaml:"path"`
	Query   map[string]Expr `yaml:"query"`
	Headers map[string]Expr `yaml:"headers"`
	JSON    Expr            `yaml:"json"`
	Form    map[string]Expr `yaml:"form"`
	OK      []int           `yaml:"ok"`     // default: 200 to 299
	Gone    []int           `yaml:"gone"`   // the object of the request does not exist; success for a revoke
	Retry   []int           `yaml:"retry"`  // besides 429, 502, 503 and 504
	Denied  []int           `yaml:"denied"` // default: 401 and 403
	Save    map[string]Expr `yaml:"save"`   // variables saved.<name> for the next requests and the result
	line    int
}

// Expr is a CEL expression, or a path with expressions, and its line.
type Expr struct {
	Text string
	Line int
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (e *Expr) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: an expression must be a string", n.Line)
	}
	*e = Expr{Text: n.Value, Line: n.Line}
	return nil
}

// The types below do not have the method UnmarshalYAML, which ends the recursion.
type (
	plainField     Field
	plainOperation Operation
	plainRequest   Request
)

// strictly decodes a node and rejects unknown keys. The setting KnownFields of a decoder has no effect on the nodes that
// UnmarshalYAML gets.
func strictly(n *yaml.Node, into any, keys ...string) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: must be a mapping", n.Line)
	}
	for i := 0; i < len(n.Content); i += 2 {
		if key := n.Content[i]; !slices.Contains(keys, key.Value) {
			return fmt.Errorf("line %d: %q is not one of: %s", key.Line, clip(key.Value), strings.Join(keys, ", "))
		}
	}
	return n.Decode(into)
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (f *Field) UnmarshalYAML(n *yaml.Node) error {
	f.line = n.Line
	return strictly(n, (*plainField)(f), "type", "description", "required", "secret", "default", "allowed", "pattern")
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (o *Operation) UnmarshalYAML(n *yaml.Node) error {
	o.line = n.Line
	return strictly(n, (*plainOperation)(o), "requests", "result", "items", "next", "for_each")
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (r *Request) UnmarshalYAML(n *yaml.Node) error {
	r.line = n.Line
	return strictly(n, (*plainRequest)(r), "when", "method", "path", "query", "headers", "json", "form", "ok", "gone", "retry", "denied", "save")
}

// minName is the smallest max_name: a name needs this much for its random part.
const minName = 20

// maxDefinition bounds the size of a definition, in bytes.
const maxDefinition = 64 << 10

var (
	providerName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	headerName   = regexp.MustCompile(`^[A-Za-z0-9!#$%&'*+.^_|~-]{1,128}$`) // RFC 9110 section 5.1, without the backtick
	fieldName    = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
)

// parse reads a definition without compiling its expressions.
func parse(text []byte) (*Definition, error) {
	if len(text) > maxDefinition {
		return nil, fmt.Errorf("is %d bytes long, at most %d are allowed", len(text), maxDefinition)
	}
	d := new(Definition)
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(d); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("is empty")
		}
		return nil, decodingError(err)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("must be one YAML document")
	}
	if !providerName.MatchString(d.Name) {
		return nil, fmt.Errorf("name: %q must be 1 to 63 of a-z, 0-9 and -, a letter first", clip(d.Name))
	}
	if d.Expiry == "" {
		d.Expiry = ExpiryNone
	}
	if !slices.Contains([]Expiry{ExpiryNone, ExpirySeconds, ExpiryDays}, d.Expiry) {
		return nil, fmt.Errorf("expiry: %q is not one of: none, seconds, days", clip(string(d.Expiry)))
	}
	if d.MaxName != 0 && d.MaxName < minName {
		return nil, fmt.Errorf("max_name: %d is less than %d, the length of a unique name", d.MaxName, minName)
	}
	for part, fields := range map[string]map[string]Field{"credential": d.Credential, "settings": d.Settings, "params": d.Params} {
		for name, field := range fields {
			if err := field.check(part, name); err != nil {
				return nil, fmt.Errorf("line %d: %s.%s: %w", field.line, part, clip(name), err)
			}
		}
	}
	for name, o := range map[string]*Operation{"create": d.Operations.Create, "revoke": d.Operations.Revoke, "check": d.Operations.Check} {
		if o == nil {
			return nil, fmt.Errorf("operations: there is no %s", name)
		}
	}
	return d, nil
}

func (f *Field) check(part, name string) error {
	if !fieldName.MatchString(name) {
		return errors.New("a name must be of a-z, 0-9 and _, a letter first")
	}
	if !slices.Contains([]string{TypeString, TypeInt, TypeBool, TypeList}, f.Type) {
		return fmt.Errorf("type %q is not one of: string, int, bool, list", clip(f.Type))
	}
	if f.Secret && part != "credential" {
		return errors.New("only a member of the credential can be secret")
	}
	if part == "credential" && f.Type != TypeString {
		return errors.New("a member of the credential is a string")
	}
	if _, err := f.pattern(); err != nil {
		return err
	}
	if f.Default == nil {
		return nil
	}
	if f.Secret {
		return errors.New("a secret has no default: everybody can read the definition")
	}
	if f.Required {
		return errors.New("a required field has no default")
	}
	value, err := f.convert(f.Default)
	if err != nil {
		return fmt.Errorf("default %w", err)
	}
	f.Default = value
	return nil
}

func (f *Field) pattern() (*regexp.Regexp, error) {
	if f.Pattern == "" {
		return nil, nil
	}
	if size, err := regexSize(f.Pattern); err == nil && size > maxRegex {
		return nil, fmt.Errorf("pattern: is of size %d with its repetitions, at most %d is allowed", size, maxRegex)
	}
	re, err := regexp.Compile(`^(?:` + f.Pattern + `)$`)
	if err != nil {
		return nil, fmt.Errorf("pattern: %w", err)
	}
	return re, nil
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
