package leaks

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// lines is the fragment of a URL that names lines of a file, as forges write it.
var lines = regexp.MustCompile(`^L[0-9]{1,9}(-L[0-9]{1,9})?$`)

// examined is how many times as long as what is kept the beginning of a text is that is examined: it bounds the work.
const examined = 2

// hidden stands for a token.
const hidden = "[token]"

// secrets are the tokens to hide in the texts of a report.
type secrets struct {
	own    string   // token of the report
	others []string // tokens of the request, but for very short and very long ones; the longest first
}

// othersOf returns the tokens of reports that a text may have, the longest first: a token may be the beginning of another. A
// token that is shorter than hidden is left out, since a text would grow with each such token.
func othersOf(reports []Report) (others []string) {
	for i := range reports {
		if n := len(reports[i].Token); n >= len(hidden) && n <= examined*maxURL {
			others = append(others, reports[i].Token)
		}
	}
	slices.SortFunc(others, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return others
}

// hideLong hides a token of the report that may be longer than what is examined of a text.
func (s *secrets) hideLong(text string) string {
	if len(s.own) < len(hidden) {
		return text
	}
	return strings.ReplaceAll(text, s.own, hidden)
}

// hide hides all tokens in a text that is not long.
func (s *secrets) hide(text string) string {
	for _, other := range s.others {
		text = strings.ReplaceAll(text, other, hidden)
	}
	return strings.ToValidUTF8(strings.ReplaceAll(token.Redact(text), s.own, hidden), "") // a token may be half a character
}

// user matches the user of a URL, and details the query and the fragment: they may hold secrets.
var (
	user    = regexp.MustCompile(`//[^/\s]*@`)
	details = regexp.MustCompile(`(//[^\s?#]*)[?#]\S*`)
)

// location returns where a token was found, for a finding. Of a URL it keeps scheme, host, path and lines: the user and the
// query of a URL may hold secrets.
func location(text string, found *secrets) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return clean(details.ReplaceAllString(user.ReplaceAllString(begin(text, maxURL), "//"), "$1"), found, maxURL)
	}
	kept := u.Scheme + "://" + u.Host + u.Path // decoded: a token may hide in percent-encoding
	if lines.MatchString(u.Fragment) {
		kept += "#" + u.Fragment
	}
	return clean(kept, found, maxURL)
}

// begin bounds the work on a text of which a number of bytes is kept, and removes what is not printable. A word where the
// text is cut is removed as a whole: a part of a token would not be recognized.
func begin(text string, most int) string {
	printable := strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return -1
		}
		return c
	}, text[:min(len(text), examined*most)])
	if len(text) <= examined*most {
		return printable
	}
	return strings.TrimRightFunc(printable, func(c rune) bool { return c != '/' && !unicode.IsSpace(c) })
}

// clean removes tokens and what is not printable from a text, and then shortens the text: a token that was cut short would not
// be recognized. found are the tokens of the request.
func clean(text string, found *secrets, most int) string {
	text = found.hide(begin(text, most))
	if len(text) <= most {
		return text
	}
	cut := most - len("...")
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}
