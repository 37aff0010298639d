package connector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

// Bounds of a List. A List beyond them is not complete.
const (
	maxListed   = 100_000 // tokens
	maxEach     = 20_000  // objects of for_each
	maxScopes   = 64      // of a token
	maxScopeLen = 1 << 10 // total length of the scopes of a token, in bytes
)

// The pace of a List: a short listing is made at once, a long listing leaves the service time for other requests. The
// rate_limit of the connection applies as well.
const (
	listBurst = 200
	listPace  = 50 // requests a second
)

// Item is a token in the listing of a service, also of those that the engine has not made. The texts are safe to show, and
// have at most about 300 bytes each. The zero value of a field means that the service reports none.
type Item struct {
	ID         string
	Name       string
	Owner      string // whom the token belongs to at the service
	CreatedAt  time.Time
	LastUsedAt time.Time
	ExpiresAt  time.Time
	Scopes     []string // at most maxScopes
}

// List visits the tokens that the credential can see. params are those of roles: where a service lists the tokens of one
// place only, List visits the tokens of the places of the roles. List returns false if there are more tokens than it
// visits. List changes nothing at the service, and other requests go on meanwhile: tokens that are created or revoked
// during a List may be missing, and so may tokens on a later page than a revoked token.
func (s *Service) List(ctx context.Context, params []map[string]any, visit func(*Item)) (complete bool, _ error) {
	o := s.Provider.operations[opList]
	if o == nil {
		return false, &Error{Message: fmt.Sprintf("provider %q cannot list the tokens of the service", s.Provider.Name)}
	}
	l := &listing{
		Service: s, list: o, visit: visit, pace: rate.NewLimiter(listPace, listBurst), scrubbed: s.scrubber(nil, nil), complete: true,
	}
	err := l.all(ctx, params)
	if errors.Is(err, errEnough) {
		l.complete, err = false, nil
	}
	return l.complete && err == nil, err
}

// errEnough ends a listing of too many tokens.
var errEnough = errors.New("there are more tokens than a listing visits")

// listing is one List.
type listing struct {
	*Service
	list     *operation
	visit    func(*Item)
	pace     *rate.Limiter
	scrubbed *strings.Replacer
	listed   int
	complete bool
}

func (l *listing) all(ctx context.Context, params []map[string]any) error {
	if l.list.forEach == nil {
		return l.tokens(ctx, map[string]any{})
	}
	objects, err := l.objects(ctx, params)
	if err != nil {
		return err
	}
	for _, each := range objects {
		if err := l.tokens(ctx, each); err != nil {
			return err
		}
	}
	return nil
}

// objects returns the objects that for_each lists, each once.
func (l *listing) objects(ctx context.Context, params []map[string]any) (objects []map[string]any, _ error) {
	each := l.list.forEach
	seen := make(map[string]bool)
	for _, p := range places(each, params) {
		err := l.paced(ctx, each, l.vars(l.Client.cfg.Now(), p), func(items []any, _ map[string]any) error {
			for _, item := range items {
				object, ok := item.(map[string]any)
				if !ok {
					return l.misread(errors.New("an item of for_each is not a map"))
				}
				key, err := json.Marshal(object)
				if err != nil {
					return l.misread(err)
				}
				if seen[string(key)] {
					continue
				}
				if len(objects) == maxEach {
					l.complete = false
					return nil
				}
				seen[string(key)] = true
				objects = append(objects, object)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return objects, nil
}

// places returns the params that make a difference to an operation, each once; at least the empty params.
func places(o *operation, params []map[string]any) (narrow []map[string]any) {
	seen := make(map[string]bool)
	for _, p := range params {
		one := make(map[string]any)
		for name, value := range p {
			if o.refersTo("params." + name) {
				one[name] = value
			}
		}
		key, _ := json.Marshal(one) // params come from JSON
		if !seen[string(key)] {
			seen[string(key)] = true
			narrow = append(narrow, one)
		}
	}
	if len(narrow) == 0 {
		return []map[string]any{nil}
	}
	return narrow
}

// tokens visits the tokens of an object of for_each.
func (l *listing) tokens(ctx context.Context, each map[string]any) error {
	vars := l.vars(l.Client.cfg.Now(), nil)
	vars["each"] = each
	return l.paced(ctx, l.list, vars, func(items []any, answered map[string]any) error {
		answered = maps.Clone(answered)
		for _, item := range items {
			if l.listed == maxListed {
				return errEnough
			}
			l.listed++
			answered["item"] = item
			result, err := l.result(ctx, opList, answered)
			if err != nil {
				return l.misread(err)
			}
			one, err := l.read(result)
			if err != nil {
				return l.misread(err)
			}
			l.visit(one)
		}
		return nil
	})
}

// paced is pages at the pace of a listing. An object that does not exist any more has no tokens.
func (l *listing) paced(
	ctx context.Context, o *operation, vars map[string]any, take func(items []any, answered map[string]any) error,
) error {
	err := l.pages(ctx, o, vars, func(items []any, answered map[string]any) error {
		if err := take(items, answered); err != nil {
			return err
		}
		if err := l.pace.Wait(ctx); err != nil {
			return &Error{Message: reason(err)}
		}
		return nil
	})
	if errors.Is(err, errPages) {
		l.complete = false
		return nil
	}
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}

// read returns the token of a result. Its errors name the member.
func (l *listing) read(result map[string]any) (*Item, error) {
	id, _ := result["id"].(string)
	if id == "" {
		return nil, errors.New("id: an item has none")
	}
	name, _ := result["name"].(string)
	owner, _ := result["owner"].(string)
	one := &Item{ID: l.clean(id), Name: l.clean(name), Owner: l.clean(owner)}
	for member, into := range map[string]*time.Time{
		"created_at": &one.CreatedAt, "last_used_at": &one.LastUsedAt, "expires_at": &one.ExpiresAt,
	} {
		at, err := toTime(result[member])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", member, err)
		}
		*into = at.UTC()
	}
	scopes, _ := result["scopes"].([]any)
	size := 0
	for _, scope := range scopes {
		text, err := plain(scope)
		if err != nil {
			return nil, fmt.Errorf("scopes: %w", err)
		}
		text = l.clean(text)
		if size += len(text); len(one.Scopes) == maxScopes || size > maxScopeLen {
			break
		}
		one.Scopes = append(one.Scopes, text)
	}
	return one, nil
}

// clean makes a text of the service safe to show.
func (l *listing) clean(text string) string { return printable(l.scrubbed.Replace(text)) }
