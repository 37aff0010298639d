package connector

import (
	"context"
	"errors"
	"fmt"
	"maps"
)

// maxPages is the maximum number of pages of a listing.
const maxPages = 1000

// errPages is returned for a listing with too many pages.
var errPages = &Error{Message: fmt.Sprintf("there are more than %d pages of tokens", maxPages)}

// Find returns the tokens with the given names, which were created with the same params. The names share one listing,
// unless the find operation refers to the name.
func (s *Service) Find(ctx context.Context, names []string, params map[string]any) ([]Token, error) {
	if o := s.Provider.operations[opFind]; o == nil || !o.refersTo("name") {
		return s.find(ctx, opFind, "", names, params)
	}
	var found []Token
	for _, name := range names {
		one, err := s.find(ctx, opFind, name, []string{name}, params)
		if err != nil {
			return nil, err
		}
		found = append(found, one...)
	}
	return found, nil
}

// find lists all pages and returns the tokens with the given names. It blocks revocations at the connection meanwhile.
func (s *Service) find(ctx context.Context, operation, asked string, names []string, params map[string]any) ([]Token, error) {
	const maxFound = 1000
	o := s.Provider.operations[operation]
	if o == nil {
		return nil, &Error{Message: fmt.Sprintf("provider %q cannot %s", s.Provider.Name, operation)}
	}
	release, err := s.Client.hold(ctx, wholeListing)
	if err != nil {
		return nil, err
	}
	defer release()
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		wanted[name] = true
	}
	vars := s.vars(s.Client.cfg.Now(), params)
	vars["name"] = asked
	var found []Token
	err = s.pages(ctx, o, vars, func(items []any, _ map[string]any) error {
		listed, err := pick(items, wanted)
		if err != nil {
			return s.misread(err)
		}
		for _, one := range listed {
			one.Params = params
			found = append(found, one)
		}
		if len(found) > maxFound {
			return &Error{Message: fmt.Sprintf("there are more than %d tokens of these names", maxFound)}
		}
		return nil
	})
	if err != nil && !errors.Is(err, ErrGone) {
		return nil, err
	}
	return found, nil
}

// pages performs an operation page by page. take gets the items of each page, and the variables with the answer.
func (s *Service) pages(
	ctx context.Context, o *operation, vars map[string]any, take func(items []any, answered map[string]any) error,
) error {
	vars = maps.Clone(vars)
	vars["cursor"] = ""
	for page := int64(1); ; page++ {
		if page > maxPages {
			return errPages
		}
		vars["page"] = page
		answered, err := s.perform(ctx, o, vars)
		if err != nil {
			return err
		}
		value, err := o.items.eval(ctx, answered)
		if err != nil {
			return s.misread(err)
		}
		items, ok := value.([]any)
		if !ok {
			return s.misread(errors.New("items is not a list"))
		}
		if err := take(items, answered); err != nil {
			return err
		}
		if o.next == nil {
			return nil
		}
		next, err := o.next.eval(ctx, answered)
		if err != nil {
			return s.misread(err)
		}
		cursor, isText := next.(string)
		if !isText && next != nil {
			return s.misread(fmt.Errorf("next is a %T and not a string", next))
		}
		if cursor == "" {
			return nil
		}
		vars["cursor"] = cursor
	}
}

// pick returns the tokens of a page that have a wanted name. An unreadable item is an error, since the item may be a wanted
// token.
func pick(items []any, wanted map[string]bool) (found []Token, err error) {
	for _, item := range items {
		m, _ := item.(map[string]any)
		named, ok := m["name"]
		name, isText := named.(string)
		if !ok || !isText && named != nil {
			return nil, errors.New("an item has no name")
		}
		if !wanted[name] {
			continue
		}
		id, err := plain(m["id"])
		if err != nil || id == "" {
			return nil, errors.New("an item has no id")
		}
		found = append(found, Token{Name: name, ID: id})
	}
	return found, nil
}
