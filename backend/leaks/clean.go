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

// location returns where a token was found, for a finding. Of a URL it keeps scheme, host, path and lines: the user and the
// query of a URL may hold secrets.
func location(text, found string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return clean(text, found, maxURL)
	}
	kept := u.Scheme + "://" + u.Host + u.Path // decoded: a token may hide in percent-encoding
	if lines.MatchString(u.Fragment) {
		kept += "#" + u.Fragment
	}
	return clean(kept, found, maxURL)
}

// clean removes tokens and what is not printable from a text, and then shortens the text: a token that was cut short would not
// be recognized.
func clean(text, found string, most int) string {
	if len(text) > 8*most { // bounds the work; a token that begins later is cut away as a whole
		text = text[:8*most]
	}
	text = strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return -1
		}
		return c
	}, text)
	text = token.Redact(strings.ReplaceAll(text, found, "[token]"))
	if len(text) <= most {
		return text
	}
	cut := most - len("...")
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}
