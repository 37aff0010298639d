package backend

import (
	"context"
	"regexp"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// strictHandler rejects unknown fields, and values that the framework would convert silently: a misspelt restriction must
// not be ignored, and 5 must not become the scope "5".
type strictHandler struct {
	framework.OperationHandler
	fields fields
	inPath []string // fields that are part of the path
}

// strict wraps the handler of an operation in a strictHandler. pattern is the pattern of the path.
func strict(pattern string, f fields, h framework.OperationHandler) framework.OperationHandler {
	return strictHandler{h, f, regexp.MustCompile(pattern).SubexpNames()}
}

func (h strictHandler) Handler() framework.OperationFunc {
	next := h.OperationHandler.Handler()
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		if err := schema.CheckNames(h.fields, d.Raw, h.inPath); err != nil {
			return nil, err
		}
		if err := schema.Check(h.fields, d.Raw); err != nil {
			return nil, err
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
	for _, h := range path.Operations {
		if strict, is := h.(strictHandler); is {
			return schema.Check(strict.fields, req.Data)
		}
	}
	return nil
}
