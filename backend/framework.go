package backend

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// The arguments of a handler, and the answer.
type (
	state    = mount.State // what the mount has in memory
	request  = logical.Request
	input    = framework.FieldData // the fields of the request
	response = logical.Response
)

// handler handles an operation of a path. The state is current.
type handler func(context.Context, *state, *request, *input) (*response, error)

// on returns the callback that loads the state and then calls the handler.
func (b *backend) on(h handler) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		st, err := b.Load(ctx, req.Storage)
		if err != nil {
			return nil, err
		}
		return h(ctx, st, req, d)
	}
}

// handle returns an operation that any node can handle.
func handle(callback framework.OperationFunc, summary string, responses map[int][]framework.Response) *framework.PathOperation {
	return &framework.PathOperation{Callback: callback, Summary: summary, Responses: responses}
}

// answer returns an operation that any node can handle with the current state.
func (b *backend) answer(h handler, summary string, responses map[int][]framework.Response) *framework.PathOperation {
	return handle(b.on(h), summary, responses)
}

// forward has an operation run on the active node of the primary cluster, since the operation writes storage.
func forward(operation *framework.PathOperation) *framework.PathOperation {
	operation.ForwardPerformanceStandby, operation.ForwardPerformanceSecondary = true, true
	return operation
}

// change returns an operation that writes storage, and answers with nothing but warnings.
func (b *backend) change(h handler, summary string) *framework.PathOperation {
	return forward(b.answer(h, summary, noContent))
}

// operations are the operations of a path.
type operations = map[logical.Operation]framework.OperationHandler

// only returns the operations of a path with one operation.
func only(operation logical.Operation, handler *framework.PathOperation) operations {
	return operations{operation: handler}
}

// crud returns the operations on a named thing. Create and update share one operation.
func crud(read, write, remove *framework.PathOperation) operations {
	write.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "write"}
	return operations{
		logical.ReadOperation:   read,
		logical.CreateOperation: write,
		logical.UpdateOperation: write,
		logical.DeleteOperation: remove,
	}
}

// path returns a path. verb and suffix make the OpenAPI operation ids; "" stands for Vault's own word.
func path(pattern, verb, suffix string, f fields, operations operations, synopsis, description string) *framework.Path {
	if !strings.HasPrefix(pattern, oauthPrefix) { // RFC 6749 section 3.2: unknown parameters must be ignored
		for operation, handler := range operations {
			operations[operation] = strict(pattern, f, handler)
		}
	}
	return &framework.Path{
		Pattern: pattern, Fields: rendered(f), Operations: operations, HelpSynopsis: synopsis, HelpDescription: description,
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: verb, OperationSuffix: suffix},
	}
}

// entries are the stored entries of one kind.
type entries interface {
	Has(name string) bool
	Names() []string
}

// pathsEntries returns the path of an entry of a kind, such as "static-roles", and the path that lists the names.
func (b *backend) pathsEntries(
	kind string, of func(*state) entries, f fields, operations operations, synopsis, description string,
) []*framework.Path {
	one := path(kind+"/"+framework.GenericNameRegex("name"), "", strings.TrimSuffix(kind, "s"), f, operations, synopsis, description)
	one.ExistenceCheck = func(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
		st, err := b.Load(ctx, req.Storage)
		if err != nil {
			return false, err
		}
		return of(st).Has(d.Get("name").(string)), nil
	}
	return []*framework.Path{one, b.listPath(kind, func(st *state) []string { return of(st).Names() })}
}

// listPath returns the path that lists the sorted names of a kind of thing, such as "static-roles".
func (b *backend) listPath(kind string, names func(*state) []string) *framework.Path {
	words := strings.ReplaceAll(kind, "-", " ")
	key := strings.TrimSuffix(words, "s") + " name"
	list := func(_ context.Context, st *state, _ *request, d *input) (*response, error) {
		page, err := given[schema.PageRequest](d).Of(names(st))
		if err != nil {
			return nil, err
		}
		return logical.ListResponse(page), nil
	}
	return path(kind+"/?$", "", kind, schema.Page(key),
		only(logical.ListOperation, b.answer(list, "List the "+words+".", ok(schema.List(key)))),
		"List the "+words+".",
		"Returns the names in alphabetical order. after and limit select a page.")
}

// listed returns a page of a list with a row for each key. what is what the path lists.
func listed(what string, keys []string, rows map[string]any, more bool) *response {
	resp := logical.ListResponseWithInfo(keys, rows)
	if more {
		resp.AddWarning(fmt.Sprintf("there are more %s: list again with after=%s", what, keys[len(keys)-1]))
	}
	return resp
}

// warned returns the answer of a change with its warnings.
func warned(warnings []string, err error) (*response, error) {
	if err != nil || len(warnings) == 0 {
		return nil, err
	}
	return &logical.Response{Warnings: warnings}, nil
}

// seconds returns the value of a field of seconds.
func seconds(d *input, field string) time.Duration {
	return time.Duration(d.Get(field).(int)) * time.Second
}
