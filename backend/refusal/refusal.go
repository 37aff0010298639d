// Package refusal holds the typed error of a rejected request. Package backend renders a refusal into a Vault error or an
// OAuth error, in one place.
package refusal

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Error is the refusal of a request. The caller sees the text: the text says what is wrong and what is allowed, and holds no
// secret.
type Error struct {
	Field string // rejected field; empty if the request is rejected as a whole
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

// Field returns the refusal of a field.
func Field(field, format string, args ...any) *Error {
	return &Error{Field: field, Text: fmt.Sprintf(format, args...)}
}

// New returns the refusal of a request as a whole. The format may wrap a cause with %w. If the cause is a refusal, New
// keeps its status code.
func New(format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	e := &Error{Text: err.Error(), Cause: errors.Unwrap(err)}
	if inner := As(e.Cause); inner != nil {
		e.HTTP = inner.HTTP
	}
	return e
}

// Denied returns the refusal of a request that the requester may not make: 403, as Vault answers where a policy denies.
func Denied(format string, args ...any) *Error {
	return &Error{Text: fmt.Sprintf(format, args...), HTTP: 403}
}

// Wrap returns the refusal of a request as a whole with the text of an error; nil if err is nil.
func Wrap(err error) error {
	if err == nil {
		return nil
	}
	return New("%w", err)
}

// CheckLen refuses a field that is longer than most bytes.
func CheckLen(field, value string, most int) error {
	if len(value) > most {
		return Field(field, "is %d bytes long, at most %d are allowed", len(value), most)
	}
	return nil
}

// As returns the refusal that an error holds; nil if the error is no refusal.
func As(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// maxClip is the maximum number of bytes of a value in an error.
const maxClip = 64

// Clip shortens a value for an error message.
func Clip(s string) string {
	if len(s) > maxClip {
		return s[:maxClip] + "..."
	}
	return s
}

// Short returns a duration in the usual short form: 24h instead of 24h0m0s.
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
