// Package refusal is how the rooms of the engine refuse a request: by one typed error, which is rendered once, where
// the paths are wrapped, into a Vault error or an OAuth error.
package refusal

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Error refuses a request. Its text is for the caller to see: the text says what is wrong and what is allowed, and
// holds no secret.
type Error struct {
	Field string // field that is refused; empty if the request is refused as a whole
	Text  string
	Code  string // OAuth error code (RFC 6749 section 5.2, RFC 8707 section 2); empty: invalid_request
	HTTP  int    // status code of the answer; 0: 400
	Cause error  // nil if there is none
}

// Error implements error.
func (e *Error) Error() string {
	if e.Field == "" {
		return e.Text
	}
	return Clip(e.Field) + ": " + e.Text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Field refuses a field.
func Field(field, format string, args ...any) *Error {
	return &Error{Field: field, Text: fmt.Sprintf(format, args...)}
}

// New refuses a request as a whole. The format may wrap a cause with %w.
func New(format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Text: err.Error(), Cause: errors.Unwrap(err)}
}

// As returns the refusal that an error holds; nil if the error is no refusal.
func As(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// maxClip is how many bytes of a value an error shows.
const maxClip = 64

// Clip shortens a value for an error message.
func Clip(s string) string {
	if len(s) > maxClip {
		return s[:maxClip] + "..."
	}
	return s
}

// Short writes a duration as an operator would: 24h, not 24h0m0s.
func Short(d time.Duration) string {
	s := d.String()
	if trimmed, ok := strings.CutSuffix(s, "m0s"); ok {
		s = trimmed + "m"
	}
	if trimmed, ok := strings.CutSuffix(s, "h0m"); ok {
		s = trimmed + "h"
	}
	return s
}
