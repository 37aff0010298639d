package connector

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// Error is the failure of a call to a service.
type Error struct {
	Status     int           // HTTP status; 0 if there was no response
	Message    string        // the service's message, or the cause of the failure; without secrets
	Denied     bool          // the service rejects the credential
	Unsure     bool          // the call may have taken effect
	RetryAfter time.Duration // how long the service asks to wait; 0 if it does not say
}

func (e *Error) Error() string {
	text := e.Message
	if e.Status != 0 {
		text = strings.TrimSpace(fmt.Sprintf("status %d %s", e.Status, http.StatusText(e.Status)))
		if e.Message != "" {
			text += ": " + e.Message
		}
	}
	if e.Denied {
		text += " (the connection's credential is not accepted, or not allowed to do this)"
	}
	if e.RetryAfter > 0 {
		text += fmt.Sprintf(" (it asks to come back in %s)", e.RetryAfter)
	}
	return text
}

// reason returns the text of a network error without the URL and its query.
func reason(err error) string {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer within the connection's timeout"
	}
	return printable(err.Error())
}

// printable makes a message of a service safe for a log and a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "..."
	}
	return s
}
