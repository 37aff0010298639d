package insight

import (
	"slices"
	"strings"
	"sync"
)

const (
	// maxScopes is the maximum number of scopes that are kept of a token.
	maxScopes = 32

	// maxSetBytes bounds all sets in memory together. Tokens share equal sets: a mount has few sets.
	maxSetBytes = 16 << 20
)

// scopeSet is a set of scopes that does not change.
type scopeSet struct {
	list []string // sorted
	refs int      // number of entries that have the set; scopeSets.mu guards it
}

// has reports whether a set has all scopes; the nil set is empty.
func (s *scopeSet) has(scopes []string) bool {
	for _, scope := range scopes {
		if s == nil || !slices.Contains(s.list, scope) {
			return false
		}
	}
	return true
}

// scopeSets holds each set once.
type scopeSets struct {
	mu    sync.Mutex
	sets  map[string]*scopeSet // by the scopes, separated by spaces
	bytes int
}

// with returns a set with more scopes, in exchange for the old set. It reports false if it left out a scope.
func (ss *scopeSets) with(old *scopeSet, scopes []string) (_ *scopeSet, all bool) {
	union := slices.Clone(scopes)
	if old != nil {
		union = append(union, old.list...)
	}
	slices.Sort(union)
	union = slices.Compact(union)
	all = true
	if len(union) > maxScopes {
		if old != nil && len(old.list) >= maxScopes {
			return old, false
		}
		union, all = union[:maxScopes], false
	}
	key := strings.Join(union, " ")

	ss.mu.Lock()
	defer ss.mu.Unlock()
	set := ss.sets[key]
	if set == nil {
		if ss.bytes+len(key) > maxSetBytes {
			return old, false
		}
		if ss.sets == nil {
			ss.sets = make(map[string]*scopeSet)
		}
		set = &scopeSet{list: strings.Fields(key)}
		ss.sets[key] = set
		ss.bytes += len(key)
	}
	set.refs++
	ss.drop(old)
	return set, all
}

// release gives back the set of an entry that is dropped.
func (ss *scopeSets) release(set *scopeSet) {
	if set == nil {
		return
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.drop(set)
}

func (ss *scopeSets) drop(set *scopeSet) {
	if set == nil {
		return
	}
	if set.refs--; set.refs == 0 {
		key := strings.Join(set.list, " ")
		delete(ss.sets, key)
		ss.bytes -= len(key)
	}
}
