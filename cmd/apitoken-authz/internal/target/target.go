// Package target parses request targets (RFC 9112 section 3.2). A target that two servers could read differently is refused,
// and never normalised.
package target

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const maxLen = 8192

// Target is a request target in origin form (RFC 9112 section 3.2.1).
type Target struct {
	Path     string   // as sent, without the query
	Query    string   // as sent, without "?"
	Segments []string // of Path, between slashes, percent-decoded. "/" has one empty segment

	// EncodedSlash reports whether a segment contains "%2f". Only a rule that allows encoded slashes matches such a target.
	EncodedSlash bool

	few [6]string // holds Segments of a short path, without an allocation
}

// Parse returns the parts of a target. Its errors state what is ambiguous. They do not repeat the target.
func Parse(raw string) (*Target, error) {
	t := new(Target)
	return t, t.Set(raw)
}

// Set makes t the parts of a target, like Parse. A Target that was set must not be copied.
func (t *Target) Set(raw string) error {
	*t = Target{}
	switch {
	case raw == "":
		return errors.New("the request target is missing")
	case len(raw) > maxLen:
		return fmt.Errorf("the request target is longer than %d bytes", maxLen)
	case raw[0] != '/':
		return errors.New("the request target does not begin with a slash")
	}
	for i := range len(raw) {
		switch c := raw[i]; {
		case c <= ' ' || c >= 0x7f:
			return errors.New("the request target contains a byte that must be percent-encoded")
		case c == '#':
			return errors.New(`the request target contains "#"`)
		}
	}
	t.Path, t.Query, _ = strings.Cut(raw, "?")
	t.Segments = t.few[:0]
	if err := t.split(); err != nil {
		*t = Target{}
		return err
	}
	return nil
}

// split sets the segments of the path.
func (t *Target) split() error {
	rest, last := t.Path[1:], false
	for !last {
		var segment string
		var more bool
		segment, rest, more = strings.Cut(rest, "/")
		last = !more
		if segment == "" && more {
			return errors.New("the path contains an empty segment")
		}
		decoded, err := decode(segment)
		if err != nil {
			return err
		}
		if err := check(decoded); err != nil {
			return err
		}
		t.EncodedSlash = t.EncodedSlash || strings.Contains(decoded, "/")
		t.Segments = append(t.Segments, decoded)
	}
	return nil
}

// Split returns the segments as a server reads the path that takes "%2f" for a slash.
func (t *Target) Split() []string {
	var all []string
	for _, segment := range t.Segments {
		all = append(all, strings.Split(segment, "/")...)
	}
	return all
}

// decode decodes percent-encoding (RFC 3986 section 2.1).
func decode(segment string) (string, error) {
	if !strings.Contains(segment, "%") {
		return segment, nil
	}
	var b strings.Builder
	for i := 0; i < len(segment); i++ {
		if segment[i] != '%' {
			b.WriteByte(segment[i])
			continue
		}
		if len(segment) < i+3 || !isHex(segment[i+1]) || !isHex(segment[i+2]) {
			return "", errors.New("the path contains a percent sign without two hexadecimal digits")
		}
		b.WriteByte(unhex(segment[i+1])<<4 | unhex(segment[i+2]))
		i += 2
	}
	return b.String(), nil
}

// ordinary reports whether a segment has only letters, digits, hyphens and underscores, and so nothing that check refuses.
func ordinary(segment string) bool {
	for i := range len(segment) {
		if c := segment[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// check refuses a decoded segment that servers read in more than one way.
func check(segment string) error {
	if ordinary(segment) {
		return nil
	}
	if !utf8.ValidString(segment) {
		return errors.New("the path is not UTF-8")
	}
	for i, c := range []byte(segment) {
		switch {
		case c < ' ' || c == 0x7f:
			return errors.New("the path contains a control character")
		case c == '\\':
			return errors.New("the path contains a backslash")
		case c == ';':
			return errors.New("the path contains a semicolon: some servers cut off path parameters")
		case c == '?' || c == '#':
			return fmt.Errorf("the path contains an encoded %q", c)
		case c == '%' && len(segment) > i+2 && isHex(segment[i+1]) && isHex(segment[i+2]):
			return errors.New("the path is percent-encoded twice")
		}
	}
	for part := range strings.SplitSeq(segment, "/") {
		switch {
		case part == "." || part == "..":
			return errors.New("the path contains a dot segment")
		case part == "" && segment != "":
			return errors.New("the path contains an empty segment beside an encoded slash")
		case part == "":
		case part[len(part)-1] == '.':
			return errors.New("the path contains a segment with a dot at its end: Windows cuts the dot off")
		case strings.TrimSpace(part) != part:
			return errors.New("the path contains a segment with a space at its edge: some servers cut the space off")
		}
	}
	return nil
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}
