package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document collects what is wrong with a file, with line numbers.
type document struct {
	name string
	root *yaml.Node
	errs []error
}

// Parse parses a configuration. name begins the lines of the error.
func Parse(name string, text []byte) (*File, error) {
	d := &document{name: name, root: &yaml.Node{}}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	f := &File{}
	if err := decoder.Decode(f); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: the file is empty", name)
	} else if err != nil {
		return nil, d.decoding(err)
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: the file has more than one document", name)
	}
	if err := yaml.Unmarshal(text, d.root); err != nil {
		return nil, d.decoding(err)
	}
	f.check(d)
	if err := errors.Join(d.errs...); err != nil {
		return nil, err
	}
	return f, nil
}

var (
	lineOf      = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)
	unknownName = regexp.MustCompile(`^field (\S+) not found in type config\.(\w+)$`)
	wrongType   = regexp.MustCompile("^cannot unmarshal !!(\\w+)(?: `(.*)`)? into (\\S+)$")
	goTypes     = map[string]string{
		"bool": "true or false", "int": "a whole number", "string": "a text", "time.Duration": "a duration such as 30s",
		"[]string": "a list of texts", "[]config.Rule": "a list of rules",
	}
	yamlTypes = map[string]string{"seq": "a list", "map": "a mapping", "str": "a text", "int": "a number", "bool": "true or false"}
)

// decoding rewrites the errors of the YAML decoder, which name Go types.
func (d *document) decoding(err error) error {
	texts := []string{err.Error()}
	if typed, ok := errors.AsType[*yaml.TypeError](err); ok {
		texts = typed.Errors
	}
	for _, text := range texts {
		m := lineOf.FindStringSubmatch(text)
		line, what := m[1], m[2]
		if u := unknownName.FindStringSubmatch(what); u != nil {
			what = fmt.Sprintf("there is no field %q here: want one of %s", u[1], strings.Join(fieldsOf(u[2]), ", "))
		} else if u := wrongType.FindStringSubmatch(what); u != nil {
			want, ok := goTypes[u[3]]
			if !ok {
				want = "a mapping of fields"
			}
			is := yamlTypes[u[1]]
			if u[2] != "" {
				is = fmt.Sprintf("%q", u[2])
			}
			what = fmt.Sprintf("want %s, not %s", want, is)
		}
		if line == "" {
			d.errs = append(d.errs, fmt.Errorf("%s: %s", d.name, what))
			continue
		}
		d.errs = append(d.errs, fmt.Errorf("%s:%s: %s", d.name, line, what))
	}
	return errors.Join(d.errs...)
}

// fieldsOf returns the fields of a type of this package by its name, in the order of the type.
func fieldsOf(name string) []string {
	return fieldsBelow(reflect.TypeFor[File](), name)
}

// fieldsBelow finds a struct by its name in a type and in the types of its fields.
func fieldsBelow(t reflect.Type, name string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var fields []string
	for i := range t.NumField() {
		tag := t.Field(i).Tag.Get("yaml")
		if tag == "" {
			continue
		}
		if t.Name() == name {
			fields = append(fields, tag)
		} else if below := fieldsBelow(t.Field(i).Type, name); below != nil {
			return below
		}
	}
	return fields
}

// at is the place of a value: names of fields, and indexes of lists.
type at []any

func (a at) String() string {
	var b strings.Builder
	for _, step := range a {
		switch s := step.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", s)
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			fmt.Fprint(&b, s)
		}
	}
	return b.String()
}

// fail adds an error about a place. A place that the file does not have takes the line of the last part that it has.
func (d *document) fail(place at, format string, args ...any) {
	d.errs = append(d.errs, fmt.Errorf("%s:%d: %s: %s", d.name, d.line(place), place, fmt.Sprintf(format, args...)))
}

func (d *document) line(place at) int {
	node := d.root
	line := 1
	if len(node.Content) > 0 {
		node = node.Content[0]
	}
	for _, step := range place {
		for node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		var next *yaml.Node
		switch s := step.(type) {
		case int:
			if node.Kind == yaml.SequenceNode && s < len(node.Content) {
				next = node.Content[s]
				line = next.Line
			}
		case string:
			for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
				if node.Content[i].Value == s {
					next = node.Content[i+1]
					line = node.Content[i].Line
				}
			}
		}
		if next == nil {
			return line
		}
		node = next
	}
	return line
}
