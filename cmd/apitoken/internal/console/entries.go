package console

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	entriesOnPage = 25 // each is read by a request of its own
	entriesAtOnce = 8
)

// names returns a page of the names of roles or connections, and whether there are more.
func names(v *view, path string) (page []string, more bool, _ error) {
	query := url.Values{"limit": {strconv.Itoa(entriesOnPage + 1)}}
	if after := v.URL.Query().Get("after"); after != "" {
		if !validName(after) {
			return nil, false, refusal("after", "is not a name: letters, digits, _, - and . are allowed")
		}
		query.Set("after", after)
	}
	a, err := list[any](v.ctx, v.caller, path, query)
	if err != nil {
		return nil, false, err
	}
	keys := a.Data.Keys
	return keys[:min(len(keys), entriesOnPage)], len(keys) > entriesOnPage, nil
}

// readAll reads entries at the same time.
func readAll[T any](ctx context.Context, c *caller, path string, names []string) []part[T] {
	entries := make([]part[T], len(names))
	var group errgroup.Group
	group.SetLimit(entriesAtOnce)
	for i, name := range names {
		group.Go(func() error {
			a, err := read[T](ctx, c, path+"/"+name, nil)
			if err != nil {
				entries[i].Problem = problemOf(err)
				return nil
			}
			entries[i].Value = a.Data
			return nil
		})
	}
	_ = group.Wait() // a problem is part of its entry
	return entries
}

// next returns the address of the page after the last name; empty: none.
func next(path string, page []string, more bool) string {
	if !more || len(page) == 0 {
		return ""
	}
	return path + "?" + url.Values{"after": {page[len(page)-1]}}.Encode()
}

// first returns the address of the first page; empty: the page in view is the first.
func first(path string, v *view) string {
	if !v.URL.Query().Has("after") {
		return ""
	}
	return path
}

// roleRow are the members of a role that the list shows.
type roleRow struct {
	Format     string   `json:"token_format"`
	Scopes     []string `json:"scopes"`
	Allowed    []string `json:"allowed_scopes"`
	Connection string   `json:"connection"`
	Owner      string   `json:"owner"`
	ReviewBy   string   `json:"review_by"`
}

// rolesContent is the data of the page of roles.
type rolesContent struct {
	Names       []string
	Roles       []part[roleRow]
	Suggestions map[string]reportItem
	RightSize   *problem // why there are no suggestions
	Problem     *problem
	Next, First string // addresses of pages; empty: none
	WatchedFor  string
}

// watchedFor returns how long the engine must have watched a role for a suggestion.
func watchedFor(query url.Values) (string, error) {
	d := cmp.Or(query.Get("watched_for"), "14d")
	if !durationPattern.MatchString(d) {
		return "", refusal("watched_for", "is not a duration, such as 14d or 12h")
	}
	return d, nil
}

func (s *Server) roles(v *view) (any, error) {
	d, err := watchedFor(v.URL.Query())
	if err != nil {
		return nil, err
	}
	c := &rolesContent{Suggestions: map[string]reportItem{}, First: first("/roles", v), WatchedFor: d}
	var more bool
	if c.Names, more, err = names(v, "roles"); err != nil {
		c.Problem = problemOf(err)
		return c, nil
	}
	c.Next = next("/roles", c.Names, more)
	var group errgroup.Group
	group.Go(func() error {
		c.Roles = readAll[roleRow](v.ctx, v.caller, "roles", c.Names)
		return nil
	})
	group.Go(func() error {
		page, err := read[reportPage](v.ctx, v.caller, "report/right-size", url.Values{"watched_for": {d}})
		if err != nil {
			c.RightSize = problemOf(err)
			return nil
		}
		for _, item := range page.Data.Items {
			c.Suggestions[item.Name] = item
		}
		return nil
	})
	return c, group.Wait()
}

// roleContent is the data of the page of one role.
type roleContent struct {
	Name       string
	Fields     []pair
	Suggestion part[*reportItem] // nil: none
	Caveats    []string
	WatchedFor string
}

func (s *Server) role(v *view) (any, error) {
	name := v.PathValue("name")
	if !validName(name) {
		return nil, refusal("name", "is not the name of a role")
	}
	d, err := watchedFor(v.URL.Query())
	if err != nil {
		return nil, err
	}
	a, err := read[map[string]any](v.ctx, v.caller, "roles/"+name, nil)
	if err != nil {
		return nil, err
	}
	c := &roleContent{Name: name, Fields: pairs(a.Data), WatchedFor: d}
	page, err := read[reportPage](v.ctx, v.caller, "report/right-size", url.Values{"role": {name}, "watched_for": {d}})
	if err != nil {
		c.Suggestion.Problem = problemOf(err)
		return c, nil
	}
	c.Caveats = page.Data.Caveats
	if len(page.Data.Items) > 0 {
		c.Suggestion.Value = &page.Data.Items[0]
	}
	return c, nil
}

// pairs returns the members that have a value, in the order of their names.
func pairs(members map[string]any) (list []pair) {
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if text := shown(name, members[name]); text != "" {
			list = append(list, pair{words(name), text})
		}
	}
	return list
}

// shown returns a value in words; empty: no value.
func shown(name string, value any) string {
	switch value := value.(type) {
	case nil:
		return ""
	case string:
		return value
	case bool:
		if value {
			return "yes"
		}
		return "no"
	case float64:
		if strings.HasSuffix(name, "ttl") && value > 0 {
			return (time.Duration(value) * time.Second).String()
		}
		return strconv.FormatFloat(value, 'f', -1, 64)
	case []any:
		texts := make([]string, len(value))
		for i, one := range value {
			texts[i] = shown("", one)
		}
		return strings.Join(texts, ", ")
	case map[string]any:
		if len(value) == 0 {
			return ""
		}
		text, err := json.Marshal(value)
		if err != nil {
			return fmt.Sprint(value)
		}
		return string(text)
	default:
		return fmt.Sprint(value)
	}
}
