package access

import (
	"fmt"
	"slices"
	"strings"
)

const (
	maxAudienceLen = 512
	maxAudiences   = 100
)

// ParseAudience returns the audiences of a list: each a StringOrURI of RFC 7519 section 2, without spaces.
func ParseAudience(list []string) ([]string, error) {
	if len(list) > maxAudiences {
		return nil, fmt.Errorf("%d audiences given, at most %d are allowed", len(list), maxAudiences)
	}
	for i, audience := range list {
		switch {
		case audience == "" || len(audience) > maxAudienceLen || strings.ContainsFunc(audience, func(r rune) bool { return r <= ' ' || r > '~' }):
			return nil, fmt.Errorf("%q must be 1 to %d printable ASCII characters without spaces", clip(audience), maxAudienceLen)
		case slices.Contains(list[:i], audience):
			return nil, fmt.Errorf("%q is given twice", clip(audience))
		}
	}
	return list, nil
}

// IntersectAudiences returns the audiences that both lists allow. A nil list allows any audience, an empty list none.
func IntersectAudiences(a, b []string) []string {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	both := []string{}
	for _, audience := range a {
		if slices.Contains(b, audience) {
			both = append(both, audience)
		}
	}
	return both
}
