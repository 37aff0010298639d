package backend

import (
	"context"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/values"
)

// fields are the fields of a request, or the members of an answer, by name.
type fields = map[string]*framework.FieldSchema

// field returns the schema of a request field. Vault's UI shows the title.
func field(kind framework.FieldType, title, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: kind, Description: description, DisplayAttrs: &framework.DisplayAttributes{Name: title}}
}

// preset adds to a field the default that Vault's UI shows.
func preset(f *framework.FieldSchema, value any) *framework.FieldSchema {
	f.DisplayAttrs.Value = value
	return f
}

// oneOf adds to a field the values that are allowed.
func oneOf(f *framework.FieldSchema, allowed ...any) *framework.FieldSchema {
	f.AllowedValues = allowed
	return f
}

// named returns the field "name", which is part of the path.
func named(description string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{"name": {Type: framework.TypeString, Required: true, Description: description}}
}

// readFields adds to the fields of a read those of a write, but for the fields that a read omits.
func readFields(read, written map[string]*framework.FieldSchema, omitted ...string) map[string]*framework.FieldSchema {
	for name, field := range written {
		if slices.Contains(omitted, name) {
			continue
		}
		shown := &framework.FieldSchema{Type: field.Type, Required: true, Description: field.Description}
		if shown.Type == framework.TypeCommaStringSlice {
			shown.Type = framework.TypeStringSlice
		}
		read[name] = shown
	}
	return read
}

// ok returns the schema of a 200 answer with these fields.
func ok(fields map[string]*framework.FieldSchema) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: http.StatusText(http.StatusOK), Fields: fields}}}
}

var noContent = map[int][]framework.Response{http.StatusNoContent: {{Description: http.StatusText(http.StatusNoContent)}}}

// state is what a mount has in memory.
type state = mount.State

// members returns the answer with the members that a schema has, from structs with json tags and from maps. A member that
// is not required is absent if empty.
func members(schema fields, of ...any) *logical.Response {
	data := make(map[string]any, len(schema))
	for _, v := range of {
		all, isMap := v.(map[string]any)
		if !isMap {
			all = values.Members(v)
		}
		for name, value := range all {
			if field, known := schema[name]; known && (field.Required || !values.IsEmpty(value)) {
				data[name] = value
			}
		}
	}
	return &logical.Response{Data: data}
}

// handler handles an operation of a path. The state is current.
type handler func(context.Context, *state, *logical.Request, *framework.FieldData) (*logical.Response, error)

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

// answer returns an operation that any node can handle.
func (b *backend) answer(h handler, summary string, responses map[int][]framework.Response) *framework.PathOperation {
	return &framework.PathOperation{Callback: b.on(h), Summary: summary, Responses: responses}
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

// only returns the operations of a path with one operation.
func only(operation logical.Operation, handler *framework.PathOperation) map[logical.Operation]framework.OperationHandler {
	return map[logical.Operation]framework.OperationHandler{operation: handler}
}

// crud returns the operations on a named thing. Create and update share one operation.
func crud(read, write, remove *framework.PathOperation) map[logical.Operation]framework.OperationHandler {
	write.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "write"}
	return map[logical.Operation]framework.OperationHandler{
		logical.ReadOperation:   read,
		logical.CreateOperation: write,
		logical.UpdateOperation: write,
		logical.DeleteOperation: remove,
	}
}

// exists returns the existence check of a path with the field "name".
func (b *backend) exists(has func(st *state, name string) bool) framework.ExistenceFunc {
	return func(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
		st, err := b.Load(ctx, req.Storage)
		if err != nil {
			return false, err
		}
		return has(st, d.Get("name").(string)), nil
	}
}

// listPath returns the path that lists the sorted names of a kind of thing, such as "static-roles".
func (b *backend) listPath(kind string, names func(*state) []string) *framework.Path {
	words := strings.ReplaceAll(kind, "-", " ")
	key := strings.TrimSuffix(words, "s") + " name"
	list := func(_ context.Context, st *state, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
		after, limit, err := pageOf(d)
		if err != nil {
			return nil, err
		}
		return logical.ListResponse(page(names(st), after, limit)), nil
	}
	return &framework.Path{
		Pattern:         kind + "/?$",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: kind},
		Fields:          pageFields(key),
		Operations:      only(logical.ListOperation, b.answer(list, "List the "+words+".", ok(listResponseFields(key)))),
		HelpSynopsis:    "List the " + words + ".",
		HelpDescription: "Returns the names in alphabetical order. after and limit select a page.",
	}
}

// pageFields returns the fields of a path that lists in pages.
func pageFields(key string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"after": {
			Type:        framework.TypeString,
			Description: "List only entries after this " + key + ", the last of the previous page. Default: the first page.",
			Query:       true,
		},
		"limit": {
			Type:        framework.TypeInt,
			Description: "Maximum number of entries to return. Default: all.",
			Query:       true,
		},
	}
}

// pageOf returns the values of the fields of pageFields. Without a limit in the request, limit is math.MaxInt.
func pageOf(d *framework.FieldData) (after string, limit int, _ error) {
	after = d.Get("after").(string)
	limit = math.MaxInt
	if v, given := d.GetOk("limit"); given {
		if limit = v.(int); limit < 1 {
			return "", 0, refusal.Field("limit", "must be at least 1")
		}
	}
	return after, limit, nil
}

// page returns at most limit of the sorted names after a name.
func page(names []string, after string, limit int) []string {
	i, found := slices.BinarySearch(names, after)
	if found {
		i++
	}
	names = names[i:]
	return names[:min(limit, len(names))]
}

func listResponseFields(key string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"keys": {Type: framework.TypeStringSlice, Description: "List of " + key + "s; absent if empty."},
	}
}

// given returns the value of a field; nil if the request does not give the field.
func given[T any](d *framework.FieldData, field string) *T {
	v, ok := d.GetOk(field)
	if !ok {
		return nil
	}
	value := v.(T)
	return &value
}

// givenSeconds returns the value of a duration; nil if the request does not give the field.
func givenSeconds(d *framework.FieldData, field string) *time.Duration {
	seconds := given[int](d, field)
	if seconds == nil {
		return nil
	}
	value := time.Duration(*seconds) * time.Second
	return &value
}

// warned returns the answer of a change with its warnings.
func warned(warnings []string, err error) (*logical.Response, error) {
	if err != nil || len(warnings) == 0 {
		return nil, err
	}
	return &logical.Response{Warnings: warnings}, nil
}

// rfc3339 returns a time as answers show it.
func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
