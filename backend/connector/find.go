package connector

import (
	"context"
	"errors"
	"fmt"
)

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
	const maxPages, maxFound = 1000, 1000
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
	vars["name"], vars["cursor"] = asked, ""
	var found []Token
	for page := int64(1); ; page++ {
		if page > maxPages {
			return nil, &Error{Message: fmt.Sprintf("there are more than %d pages of tokens", maxPages)}
		}
		vars["page"] = page
		answered, err := s.run(ctx, operation, vars)
		if errors.Is(err, ErrGone) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		o := s.Provider.operations[operation]
		items, err := o.items.eval(ctx, answered)
		if err != nil {
			return nil, s.misread(err)
		}
		listed, err := pick(items, wanted)
		if err != nil {
			return nil, s.misread(err)
		}
		for _, one := range listed {
			one.Params = params
			found = append(found, one)
		}
		if len(found) > maxFound {
			return nil, &Error{Message: fmt.Sprintf("there are more than %d tokens of these names", maxFound)}
		}
		if o.next == nil {
			return found, nil
		}
		next, err := o.next.eval(ctx, answered)
		if err != nil {
			return nil, s.misread(err)
		}
		cursor, isText := next.(string)
		if !isText && next != nil {
			return nil, s.misread(fmt.Errorf("next is a %T and not a string", next))
		}
		if cursor == "" {
			return found, nil
		}
		vars["cursor"] = cursor
	}
}

// pick returns the tokens of a page that have a wanted name. An unreadable item is an error, since the item may be a wanted
// token.
func pick(items any, wanted map[string]bool) (found []Token, err error) {
	list, ok := items.([]any)
	if !ok {
		return nil, errors.New("items is not a list")
	}
	for _, item := range list {
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
