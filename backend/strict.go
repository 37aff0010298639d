package backend

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/values"
)

// strictHandler rejects unknown fields, and values that the framework would convert silently: a misspelt restriction must
// not be ignored, and 5 must not become the scope "5".
type strictHandler struct {
	framework.OperationHandler
	inPath []string // fields that are part of the path
}

// strict wraps the handler of an operation in a strictHandler. pattern is the pattern of the path.
func strict(pattern string, h framework.OperationHandler) framework.OperationHandler {
	return strictHandler{h, regexp.MustCompile(pattern).SubexpNames()}
}

func (h strictHandler) Handler() framework.OperationFunc {
	next := h.OperationHandler.Handler()
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		for name, value := range d.Raw {
			schema, known := d.Schema[name]
			if !known {
				return nil, refusal.Field(name, "is not a field of this path, which %s", h.takes(d.Schema))
			}
			if err := checkType(name, schema.Type, value); err != nil {
				return nil, err
			}
		}
		return next(ctx, req, d)
	}
}

// checkTypes rejects a request with a value of the wrong type.
func (b *backend) checkTypes(req *request) error {
	path := b.Route(req.Path)
	if path == nil {
		return nil
	}
	for name, value := range req.Data {
		if schema, known := path.Fields[name]; known {
			if err := checkType(name, schema.Type, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// checks are the checks of the values of each type.
var checks = map[framework.FieldType]values.Check{
	framework.TypeString:           values.Text,
	framework.TypeInt:              values.Number,
	framework.TypeInt64:            values.Number,
	framework.TypeFloat:            values.Float,
	framework.TypeMap:              values.Map,
	framework.TypeDurationSecond:   values.Duration,
	framework.TypeTime:             values.Time,
	framework.TypeBool:             values.Bool,
	framework.TypeKVPairs:          values.Pairs,
	framework.TypeStringSlice:      values.Strings,
	framework.TypeCommaStringSlice: values.Strings,
}

// checkType rejects a value of the wrong JSON type.
func checkType(name string, field framework.FieldType, value any) error {
	if check, known := checks[field]; known {
		return check(name, value)
	}
	return values.Null(name, value)
}

// maxNames is the maximum number of names of fields in an error.
const maxNames = 30

// takes returns a phrase with the names of the fields that a request may have in its body or query.
func (h strictHandler) takes(schema fields) string {
	var names []string
	for name := range schema {
		if !slices.Contains(h.inPath, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "takes no fields"
	}
	slices.Sort(names)
	if len(names) > maxNames {
		return fmt.Sprintf("has %d fields: vault path-help lists them", len(names))
	}
	return "has " + strings.Join(names, ", ")
}
