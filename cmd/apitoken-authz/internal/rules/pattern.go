package rules

import (
	"errors"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/target"
)

// Pattern matches paths, segment by segment. "*" is one segment that is not empty. A last segment "**" is any number of
// segments: "/orders/**" matches "/orders", "/orders/" and "/orders/7/lines". Everything else is literal.
type Pattern struct {
	segments []string
	tail     bool // the pattern ends with "**"
}

// ParsePattern parses a pattern.
func ParsePattern(s string) (Pattern, error) {
	if !strings.HasPrefix(s, "/") {
		return Pattern{}, errors.New(`must begin with "/"`)
	}
	if strings.Contains(s, "%") {
		return Pattern{}, errors.New("must not be percent-encoded: patterns match the decoded path")
	}
	if strings.Contains(s, "?") {
		return Pattern{}, errors.New("must not have a query: rules match paths only")
	}
	parsed, err := target.Parse(encode(s))
	if err != nil {
		return Pattern{}, err
	}
	p := Pattern{segments: parsed.Segments}
	for i, segment := range p.segments {
		last := i == len(p.segments)-1
		switch {
		case segment == "**" && last:
			p.segments, p.tail = p.segments[:i], true
		case segment == "**":
			return Pattern{}, errors.New(`may have "**" only as its last segment`)
		case segment != "*" && strings.Contains(segment, "*"):
			return Pattern{}, errors.New(`may have "*" only as a whole segment`)
		}
	}
	return p, nil
}

// encode percent-encodes what a path must not have unencoded, so that patterns can be written in any language.
func encode(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		if c == ' ' || c >= 0x80 {
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// Match reports whether the pattern matches the segments of a path.
func (p *Pattern) Match(segments []string) bool {
	if len(segments) < len(p.segments) || (!p.tail && len(segments) > len(p.segments)) {
		return false
	}
	for i, want := range p.segments {
		if want != segments[i] && (want != "*" || segments[i] == "") {
			return false
		}
	}
	return true
}

// everything reports whether the pattern matches every path.
func (p *Pattern) everything() bool { return p.tail && len(p.segments) == 0 }
