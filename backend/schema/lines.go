package schema

import (
	"fmt"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// The formats of an answer that may be long.
const (
	FormatJSON  = "json"
	FormatLines = "jsonl" // JSON Lines: one item a line
)

// MaxLines is the maximum number of items of an answer in JSON Lines.
const MaxLines = 10_000

// Format returns the field that selects the format of an answer.
func Format() *Field {
	return Str(fmt.Sprintf("json, or jsonl: one item a line (JSON Lines), at most %d. If there are more, the last line has only "+
		"next, the value of after for the next request. Default: json.", MaxLines)).OneOf(FormatJSON, FormatLines).Query()
}

// IsLines reports whether a request asks for JSON Lines. IsLines refuses an unknown format.
func IsLines(format string, given bool) (bool, error) {
	if given && format != FormatJSON && format != FormatLines {
		return false, refusal.Field("format", "%q is not one of: %s, %s", refusal.Clip(format), FormatJSON, FormatLines)
	}
	return given && format == FormatLines, nil
}

// LinesLimit returns how many items an answer in JSON Lines may have.
func LinesLimit(given *int) (int, error) {
	switch {
	case given == nil:
		return MaxLines, nil
	case *given < 1 || *given > MaxLines:
		return 0, refusal.Field("limit", "must be between 1 and %d with format=%s", MaxLines, FormatLines)
	}
	return *given, nil
}
