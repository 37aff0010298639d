package connector

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// outgoing evaluates the expressions of a request.
func (r *request) outgoing(ctx context.Context, vars map[string]any) (*outgoing, error) {
	out := &outgoing{method: r.method, query: make(url.Values), headers: make(map[string]string)}
	var err error
	if out.path, err = writePath(ctx, r.path, vars); err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	if err := fill(ctx, out.query, r.query, vars); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	for _, name := range sortedKeys(r.headers) {
		value, err := r.headers[name].eval(ctx, vars)
		if err != nil {
			return nil, fmt.Errorf("headers.%s: %w", name, err)
		}
		text, _ := value.(string)
		if strings.ContainsAny(text, "\r\n\x00") {
			return nil, fmt.Errorf("headers.%s: contains a line break", name)
		}
		if text == "" {
			continue
		}
		out.headers[name] = text
		if words := strings.Fields(text); r.headers[name].secret && len(words) > 0 {
			out.secrets = append(out.secrets, text, words[len(words)-1])
		}
	}
	switch {
	case r.json != nil:
		value, err := r.json.eval(ctx, vars)
		if err != nil {
			return nil, fmt.Errorf("json: %w", err)
		}
		if out.body, err = json.Marshal(value); err != nil {
			return nil, fmt.Errorf("json: %w", err)
		}
		out.mediaType = "application/json"
	case len(r.form) > 0:
		form := make(url.Values)
		if err := fill(ctx, form, r.form, vars); err != nil {
			return nil, fmt.Errorf("form: %w", err)
		}
		out.body, out.mediaType = []byte(form.Encode()), "application/x-www-form-urlencoded"
	}
	return out, nil
}

// fill evaluates the values of a query or a form. A null value is left out. A list repeats the name.
func fill(ctx context.Context, into url.Values, programs map[string]*program, vars map[string]any) error {
	for _, name := range sortedKeys(programs) {
		value, err := programs[name].eval(ctx, vars)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if value == nil {
			continue
		}
		list, ok := value.([]any)
		if !ok {
			list = []any{value}
		}
		for _, one := range list {
			text, err := plain(one)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			into.Add(name, text)
		}
	}
	return nil
}
