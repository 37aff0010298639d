package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	vaultTimeout = 20 * time.Second
	maxAnswer    = 32 << 20 // bytes of an answer of Vault; a page of 1,000 long rows has fewer
)

// kind classifies why Vault did not answer a request as hoped.
type kind int

const (
	denied      kind = iota + 1 // the session's policies do not allow the request
	missing                     // nothing is there
	refused                     // the engine, or without a Path the console, refuses the request; Text says why
	unreachable                 // Vault does not answer, or answers with an error of its own
)

// problem is why a request failed.
type problem struct {
	Kind kind
	Verb string // what the request was to do: read, list, ...
	Path string // in Vault
	Text string // of Vault
}

// Error returns a sentence for the page.
func (p *problem) Error() string {
	switch p.Kind {
	case denied:
		return fmt.Sprintf("Your Vault policies do not allow you to %s %s.", p.Verb, p.Path)
	case missing:
		return fmt.Sprintf("There is no %s.", p.Path)
	case refused:
		if p.Path == "" { // Vault was not asked
			return "The console refused the request: " + p.Text
		}
		return "Vault refused the request: " + p.Text
	default:
		return fmt.Sprintf("Vault could not %s %s: %s", p.Verb, p.Path, p.Text)
	}
}

// Denied reports whether policies forbid the request.
func (p *problem) Denied() bool { return p.Kind == denied }

// status returns the status of a page that a problem replaces.
func (p *problem) status() int {
	switch p.Kind {
	case denied:
		return http.StatusForbidden
	case missing:
		return http.StatusNotFound
	case refused:
		return http.StatusBadRequest
	default:
		return http.StatusBadGateway
	}
}

// refusal returns the problem of a field.
func refusal(field, text string) *problem {
	return &problem{Kind: refused, Text: field + ": the value " + text}
}

// problemOf returns the problem in an error; nil: none.
func problemOf(err error) *problem {
	if err == nil {
		return nil
	}
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	return &problem{Kind: refused, Text: err.Error()}
}

// caller sends requests with one Vault token.
type caller struct {
	client *api.Client
	mount  string
	ended  atomic.Bool // Vault no longer accepts the token
}

// newCaller returns a caller with a token; empty: none.
func newCaller(base *api.Client, mount, token string) (*caller, error) {
	client, err := base.CloneWithHeaders() // the namespace is a header
	if err != nil {
		return nil, err
	}
	client.SetToken(token) // never that of the environment
	return &caller{client: client, mount: mount}, nil
}

// answer is what Vault returns.
type answer[T any] struct {
	Data     T               `json:"data"`
	Auth     *api.SecretAuth `json:"auth"`
	Warnings []string        `json:"warnings"`
}

// listed is the data of a list with details.
type listed[T any] struct {
	Keys []string     `json:"keys"`
	Info map[string]T `json:"key_info"`
}

// read reads a path below the mount.
func read[T any](ctx context.Context, c *caller, path string, query url.Values) (*answer[T], error) {
	return get[T](ctx, c, "read", c.mount+"/"+path, query)
}

// list lists a path below the mount. An empty list is no error.
func list[T any](ctx context.Context, c *caller, path string, query url.Values) (*answer[listed[T]], error) {
	if query == nil {
		query = url.Values{}
	}
	query.Set("list", "true")
	a, err := get[listed[T]](ctx, c, "list", c.mount+"/"+path, query)
	if p, ok := errors.AsType[*problem](err); ok && p.Kind == missing && p.Text == "" {
		return &answer[listed[T]]{}, nil
	}
	return a, err
}

// write writes to a path below the mount.
func write(ctx context.Context, c *caller, path string, body map[string]any) (*answer[map[string]any], error) {
	return writeWithin(ctx, c, vaultTimeout, path, body)
}

// writeWithin writes with a time limit of its own.
func writeWithin(
	ctx context.Context, c *caller, limit time.Duration, path string, body map[string]any,
) (*answer[map[string]any], error) {
	return put[map[string]any](ctx, c, limit, "write to", c.mount+"/"+path, body)
}

func get[T any](ctx context.Context, c *caller, verb, path string, query url.Values) (*answer[T], error) {
	ctx, cancel := context.WithTimeout(ctx, vaultTimeout)
	defer cancel()
	resp, err := c.client.Logical().ReadRawWithDataWithContext(ctx, path, query)
	return decode[T](c, verb, path, resp, err)
}

func put[T any](
	ctx context.Context, c *caller, limit time.Duration, verb, path string, body map[string]any,
) (*answer[T], error) {
	req := c.client.NewRequest(http.MethodPut, "/v1/"+path)
	if err := req.SetJSONBody(body); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// A node that is no longer active redirects: Logical().WriteRaw would lose the body there.
	resp, err := c.client.RawRequestWithContext(ctx, req) //nolint:staticcheck // see above
	return decode[T](c, verb, path, resp, err)
}

func decode[T any](c *caller, verb, path string, resp *api.Response, err error) (*answer[T], error) {
	if resp != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		return nil, c.problem(verb, path, err)
	}
	a := &answer[T]{}
	if resp.StatusCode == http.StatusNoContent {
		return a, nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(a); err != nil && !errors.Is(err, io.EOF) {
		p := &problem{Kind: unreachable, Verb: verb, Path: path}
		p.Text = "the answer is not what the console expects: " + err.Error()
		return nil, p
	}
	return a, nil
}

// problem classifies an error of the client.
func (c *caller) problem(verb, path string, err error) *problem {
	p := &problem{Kind: unreachable, Verb: verb, Path: path}
	resp, ok := errors.AsType[*api.ResponseError](err)
	if !ok {
		p.Text = err.Error()
		if failed, ok := errors.AsType[*url.Error](err); ok { // without the URL and its query
			p.Text = failed.Err.Error()
		}
		return p
	}
	p.Text = clip(strings.TrimSpace(strings.Join(resp.Errors, "; ")), 1000)
	switch resp.StatusCode {
	case http.StatusForbidden:
		p.Kind = denied
		if strings.Contains(p.Text, "invalid token") { // else the token is good, and its policies do not suffice
			c.ended.Store(true)
		}
	case http.StatusNotFound:
		p.Kind = missing
	case http.StatusBadRequest:
		p.Kind = refused
	}
	return p
}

// clip shortens a text to at most n bytes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

var (
	// A name in a path: no name leads out of the path that a request is for.
	namePattern = regexp.MustCompile(`^\w(?:[\w.-]{0,254}\w)?$`)
	pathPattern = regexp.MustCompile(`^\w(?:[\w.-]*\w)?(?:/\w(?:[\w.-]*\w)?)*$`)
	userPattern = regexp.MustCompile(`^[\w@+-](?:[\w.@+-]{0,126}[\w@+-])?$`)
)

// validName reports whether a text is a name of the engine: a role, a connection, or an ID.
func validName(s string) bool { return namePattern.MatchString(s) }

// validPath reports whether a text is the path of a mount.
func validPath(s string) bool { return len(s) <= 512 && pathPattern.MatchString(s) }
