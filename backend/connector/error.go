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

// Error says why an upstream has not done what it was asked to.
type Error struct {
	Status     int           // of its answer; 0 where there was none
	Message    string        // what it said, or what went wrong on the way; without secrets
	Denied     bool          // the credential is not good for it
	Unsure     bool          // it may have been done nevertheless
	RetryAfter time.Duration // when it wants to be asked again; 0: it did not say
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

// reason tells what went wrong on the way, without the URL and its query.
func reason(err error) string {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer within the connection's timeout"
	}
	return printable(err.Error())
}

// printable makes what an upstream said fit for a log and a terminal.
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
