package leaks

import (
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// lines is the fragment of a URL that names lines of a file, as forges write it.
var lines = regexp.MustCompile(`^L[0-9]{1,9}(-L[0-9]{1,9})?$`)

// user matches the user of a URL, and details the query and the fragment: they may hold secrets.
var (
	user    = regexp.MustCompile(`//[^/\s]*@`)
	details = regexp.MustCompile(`(//[^\s?#]*)[?#]\S*`)
)

// location returns where a token was found, for a finding. Of a URL it keeps scheme, host, path and lines: the user and the
// query of a URL may hold secrets.
func location(text string, found *strings.Replacer) string {
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
	}, text[:min(len(text), 8*most)])
	if len(text) <= 8*most {
		return printable
	}
	return strings.TrimRightFunc(printable, func(c rune) bool { return c != '/' && !unicode.IsSpace(c) })
}

// clean removes tokens and what is not printable from a text, and then shortens the text: a token that was cut short would not
// be recognized. found replaces the tokens of the request.
func clean(text string, found *strings.Replacer, most int) string {
	text = token.Redact(found.Replace(begin(text, most)))
	if len(text) <= most {
		return text
	}
	cut := most - len("...")
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}
