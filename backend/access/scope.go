package access

import (
	"fmt"
	"slices"
	"strings"
)

const (
	maxScopeLen = 128
	maxScopes   = 100
)

// Scopes is a set of scopes. A scope is a scope-token of RFC 6749 section 3.3 with segments between colons. A last segment
// "*" matches one or more segments: "invoices:*" covers "invoices:read" and "invoices:lines:read", but not "invoices".
// "*" covers every scope.
type Scopes []string

// ParseScopes returns the scopes of a list from an operator or a requester. Its errors name the scope.
func ParseScopes(list []string) (Scopes, error) {
	if len(list) > maxScopes {
		return nil, fmt.Errorf("%d scopes given, at most %d are allowed", len(list), maxScopes)
	}
	seen := make(map[string]bool, len(list))
	for _, scope := range list {
		if err := checkScope(scope); err != nil {
			return nil, fmt.Errorf("scope %q %w", clip(scope), err)
		}
		if seen[scope] {
			return nil, fmt.Errorf("scope %q is given twice", scope)
		}
		seen[scope] = true
	}
	return Scopes(list), nil
}

func checkScope(scope string) error {
	if scope == "" {
		return fmt.Errorf("is empty")
	}
	if len(scope) > maxScopeLen {
		return fmt.Errorf("is %d bytes long, at most %d are allowed", len(scope), maxScopeLen)
	}
	for _, c := range scope {
		switch {
		case c == ' ':
			return fmt.Errorf("contains a space: separate scopes by commas")
		case c < 0x21 || c > 0x7e || c == '"' || c == '\\':
			return fmt.Errorf(`contains %q: printable ASCII is allowed, except space, " and \`, c)
		}
	}
	rest := scope
	for {
		segment, tail, more := strings.Cut(rest, ":")
		switch {
		case segment == "":
			return fmt.Errorf("has an empty segment")
		case strings.Contains(segment, "*") && (segment != "*" || more):
			return fmt.Errorf(`may have "*" only as its whole last segment`)
		case !more:
			return nil
		}
		rest = tail
	}
}

// covers reports whether wide allows every scope that narrow allows.
func covers(wide, narrow string) bool {
	if wide == narrow || wide == "*" {
		return true
	}
	stem, isWild := strings.CutSuffix(wide, "*")
	return isWild && len(narrow) > len(stem) && strings.HasPrefix(narrow, stem)
}

// Covers reports whether s allows scope.
func (s Scopes) Covers(scope string) bool {
	for _, wide := range s {
		if covers(wide, scope) {
			return true
		}
	}
	return false
}

// Missing returns the wanted scopes that s does not allow.
func (s Scopes) Missing(wanted []string) []string {
	var missing []string
	for _, scope := range wanted {
		if !s.Covers(scope) {
			missing = append(missing, scope)
		}
	}
	return missing
}

// Intersect returns the scopes that both sets allow.
func (s Scopes) Intersect(other Scopes) Scopes {
	both := Scopes{}
	add := func(scope string) {
		if !slices.Contains(both, scope) {
			both = append(both, scope)
		}
	}
	for _, scope := range s {
		if other.Covers(scope) {
			add(scope)
			continue
		}
		for _, narrow := range other {
			if covers(scope, narrow) {
				add(narrow)
			}
		}
	}
	return both
}

// Matching returns the scopes of s that overlap any of the patterns. The pattern "*" matches only the scope "*", since
// otherwise it would match every scope.
func (s Scopes) Matching(patterns []string) []string {
	var touching []string
	for _, scope := range s {
		if slices.ContainsFunc(patterns, func(pattern string) bool {
			return covers(scope, pattern) || (pattern != "*" && covers(pattern, scope))
		}) {
			touching = append(touching, scope)
		}
	}
	return touching
}

// Parameter returns the "scope" parameter of RFC 6749 section 3.3: the scopes separated by spaces.
func (s Scopes) Parameter() string { return strings.Join(s, " ") }

// clip shortens a value for an error message.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
