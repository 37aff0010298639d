package schema

import (
	"fmt"
	"math"
	"slices"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// Page returns the fields of a path that lists in pages. key is what the path lists.
func Page(key string) Fields {
	return Fields{
		"after": Str("List only entries after this " + key + ", the last of the previous page. Default: the first page.").Query(),
		"limit": Num("Maximum number of entries to return. Default: all.").Query(),
	}
}

// BoundedPage returns the fields of a path that lists in pages of at most most entries.
func BoundedPage(key string, most int) Fields {
	f := Page(key)
	f["limit"].Description = fmt.Sprintf("Maximum number of entries to return, at most %d. Default: %[1]d.", most)
	return f
}

// Limit returns the limit that a request gives, or most if the request gives none. Limit refuses a limit that a page of
// BoundedPage cannot have.
func Limit(given *int, most int) (int, error) {
	switch {
	case given == nil:
		return most, nil
	case *given < 1:
		return 0, refusal.Field("limit", "must be at least 1")
	case *given > most:
		return 0, refusal.Field("limit", "%d is too large, at most %d is allowed", *given, most)
	}
	return *given, nil
}

// List returns the members of the answer of a list. key is what the path lists.
func List(key string) Fields {
	return Fields{"keys": Strs("List of " + key + "s; absent if empty.")}
}

// PageRequest holds the fields of Page. A nil field has its default.
type PageRequest struct {
	After *string `json:"after"`
	Limit *int    `json:"limit"`
}

// Of returns the page of sorted names that the request asks for.
func (q *PageRequest) Of(names []string) ([]string, error) {
	limit, err := Limit(q.Limit, math.MaxInt)
	if err != nil {
		return nil, err
	}
	if q.After != nil {
		i, found := slices.BinarySearch(names, *q.After)
		if found {
			i++
		}
		names = names[i:]
	}
	return names[:min(limit, len(names))], nil
}
