package scan

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// redacted writes texts without tokens: names of files and arguments may have tokens.
type redacted struct{ io.Writer }

// Write implements io.Writer. Each text is written at once.
func (w redacted) Write(text []byte) (int, error) {
	if _, err := io.WriteString(w.Writer, token.Redact(string(text))); err != nil {
		return 0, err
	}
	return len(text), nil
}

// writeText writes a line for each finding.
func writeText(w io.Writer, found []*finding) error {
	for _, f := range found {
		if _, err := fmt.Fprintf(w, "%s: %s: %s\n", f.place(), f.shown(), f.describe()); err != nil {
			return err
		}
	}
	return nil
}

// summary returns the numbers of what was found.
func summary(found []*finding) string {
	tokens, alive := make(map[*secret]bool), 0
	for _, f := range found {
		if !tokens[f.secret] && f.counts() {
			alive++
		}
		tokens[f.secret] = true
	}
	switch {
	case len(found) == 0:
		return "no tokens found"
	case alive == 0:
		return fmt.Sprintf("%s found at %s, none of them alive", number(len(tokens), "token"), number(len(found), "place"))
	}
	return fmt.Sprintf("%s found at %s: replace %d, and remove all from where they were found", number(len(tokens), "token"),
		number(len(found), "place"), alive)
}

// number returns a number with its noun.
func number(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// printable returns a name of a file that a terminal can show.
func printable(name string) string {
	if strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return strconv.Quote(name)
	}
	return name
}
