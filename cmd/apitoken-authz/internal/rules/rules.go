// Package rules states what a request needs: the first rule that matches the request counts, and no rule means no access.
package rules

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/target"
)

// Rule states what the requests that it matches need.
type Rule struct {
	Name    string
	Hosts   access.Hosts // nil: any host
	Methods []string     // nil: any method
	Paths   []Pattern

	AllowEncodedSlash bool // match paths with "%2f" as well

	Public   bool     // no token is needed, and none is looked at
	Scopes   []string // all of which the token must grant; nil: any token is good
	Audience string   // that the token must have; empty: the authorizer's

	Rate access.Rate // of the requests of one token, or of one address by a public rule; zero: no limit
}

// Set is an ordered list of rules. It is never changed.
type Set struct{ rules []*Rule }

// NewSet returns a set of rules.
func NewSet(list []*Rule) *Set { return &Set{rules: list} }

// Keep returns the set with the rules of an earlier set in place of rules that are the same: what was counted by a rule
// still counts.
func (s *Set) Keep(earlier *Set) *Set {
	kept := slices.Clone(s.rules)
	for i, r := range kept {
		for _, old := range earlier.rules {
			if reflect.DeepEqual(r, old) {
				kept[i] = old
			}
		}
	}
	return &Set{rules: kept}
}

// Len returns the number of rules.
func (s *Set) Len() int { return len(s.rules) }

// Match returns the first rule that matches a request; nil if there is none. host is a host as access.ParseHost returns it.
// A path with "%2f" has no rule if the path that has a slash instead matches another rule: the API may read either.
func (s *Set) Match(host, method string, t *target.Target) *Rule {
	if !t.EncodedSlash {
		return s.first(host, method, t.Segments, false)
	}
	rule := s.first(host, method, t.Segments, true)
	if other := s.first(host, method, t.Split(), false); other != nil && other != rule {
		return nil
	}
	return rule
}

// Unmatched explains why no rule matches a request, for the operator.
func (s *Set) Unmatched(host, method string, t *target.Target) string {
	const none = "no rule matches the host, method and path"
	if !t.EncodedSlash {
		return none
	}
	allowed := s.first(host, method, t.Segments, true)
	would := s.first(host, method, t.Segments, false)
	other := s.first(host, method, t.Split(), false)
	switch {
	case allowed != nil: // and other is another rule
		would = allowed
	case would == nil:
		return none
	case other == nil || other == would:
		return fmt.Sprintf(`the path has "%%2f": rule %q matches such paths with allow_encoded_slash: true only`, would.Name)
	}
	return fmt.Sprintf(`the path has "%%2f": rule %q matches the path, and rule %q the path with a slash instead`, would.Name, other.Name)
}

// first returns the first rule that matches. encodedSlash leaves out the rules that do not allow encoded slashes.
func (s *Set) first(host, method string, segments []string, encodedSlash bool) *Rule {
	for _, r := range s.rules {
		if (!encodedSlash || r.AllowEncodedSlash) && r.match(host, method, segments) {
			return r
		}
	}
	return nil
}

func (r *Rule) match(host, method string, segments []string) bool {
	if r.Methods != nil && !slices.Contains(r.Methods, method) || !r.Hosts.Contains(host) {
		return false
	}
	for i := range r.Paths {
		if r.Paths[i].Match(segments) {
			return true
		}
	}
	return false
}

// Everything reports whether the rule matches every request.
func (r *Rule) Everything() bool {
	return r.Methods == nil && r.Hosts == nil && slices.ContainsFunc(r.Paths, func(p Pattern) bool { return p.everything() })
}
